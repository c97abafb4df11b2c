//! A mount in memory, for unit tests of engines: no core, no encryption, no conflicts.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Map, Value};

use crate::{
    Backend, Call, Caller, Error, Headers, Operation, Place, Prepared, Request, Response, Result, Table, Timestamp,
    Transaction,
};

/// What one mount keeps.
#[derive(Debug, Clone, Default)]
pub struct MemoryMount {
    entries: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
    /// Targets at which something is that the mount made.
    pub outside_at: BTreeSet<String>,
}

fn key(place: Place<'_>) -> (u8, Vec<u8>) {
    match place {
        Place::Ordered(table, bytes) => (table.0, bytes.to_vec()),
        Place::Name(table, name) | Place::Id(table, name) => (table.0, name.as_bytes().to_vec()),
    }
}

impl MemoryMount {
    /// How many records a table has.
    pub fn len_of(&self, table: Table) -> usize {
        self.entries.keys().filter(|(t, _)| *t == table.0).count()
    }

    /// Everything that is stored, to look whether a secret is in it.
    pub fn holds_text(&self, text: &str) -> bool {
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        self.entries.iter().any(|((_, k), v)| has(k) || has(v))
    }
}

impl Transaction for MemoryMount {
    fn get(&mut self, place: Place<'_>) -> Result<Option<Vec<u8>>> {
        Ok(self.entries.get(&key(place)).cloned())
    }

    fn put(&mut self, place: Place<'_>, value: Vec<u8>) -> Result<()> {
        self.entries.insert(key(place), value);
        Ok(())
    }

    fn delete(&mut self, place: Place<'_>) -> Result<()> {
        self.entries.remove(&key(place));
        Ok(())
    }

    fn names(&mut self, table: Table, folder: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let mut names: Vec<String> = self
            .entries
            .keys()
            .filter(|(t, _)| *t == table.0)
            .filter_map(|(_, k)| std::str::from_utf8(k).ok()?.strip_prefix(folder))
            .map(|rest| rest.split_inclusive('/').next().unwrap_or(rest).to_owned())
            .filter(|n| n.as_str() > after)
            .collect();
        names.dedup();
        names.truncate(if limit == 0 { usize::MAX } else { limit });
        Ok(names)
    }

    fn ordered(&mut self, table: Table, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let from = (table.0, start.to_vec());
        let inside = |k: &[u8]| end.is_empty() || k < end;
        let found = self.entries.range(from..).take_while(|((t, k), _)| *t == table.0 && inside(k));
        Ok(found.take(limit).map(|((_, k), v)| (k.clone(), v.clone())).collect())
    }

    fn add(&mut self, place: Place<'_>, delta: i64, floor: Option<(i64, &'static str)>) -> Result<()> {
        let sum = self.count(place)?.saturating_add(delta);
        if let Some((floor, refused)) = floor
            && sum < floor
        {
            return Err(Error::bad_request(refused));
        }
        self.put(place, sum.to_be_bytes().to_vec())
    }

    fn has_outside(&mut self, target: &str) -> Result<bool> {
        Ok(self.outside_at.contains(target))
    }

    fn count(&mut self, place: Place<'_>) -> Result<i64> {
        Ok(self.get(place)?.and_then(|b| b.try_into().ok()).map_or(0, i64::from_be_bytes))
    }
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    pub remote: Option<SocketAddr>,
    pub now: Timestamp,
}

impl Default for Asking {
    fn default() -> Asking {
        Asking { remote: Some(SocketAddr::from(([127, 0, 0, 1], 4711))), now: Timestamp::from_secs(1_700_000_000) }
    }
}

impl Asking {
    /// One request, as the core carries it out. What a failed one wrote is undone.
    ///
    /// # Errors
    /// What the engine answers.
    pub async fn ask(
        &self,
        backend: &dyn Backend,
        mount: &mut MemoryMount,
        operation: Operation,
        path: &str,
        data: Value,
    ) -> Result<Response> {
        let prepared = self.prepare(backend, mount, operation, path, data.clone()).await?;
        let mut changed = mount.clone();
        let response = self.call(backend, operation, path, data, prepared.as_deref(), |b, found, call| {
            b.apply(found, &mut changed, call)
        })?;
        *mount = changed;
        Ok(response)
    }

    /// Only what goes before the transaction.
    ///
    /// # Errors
    /// What the engine answers.
    pub async fn prepare(
        &self,
        backend: &dyn Backend,
        mount: &mut MemoryMount,
        operation: Operation,
        path: &str,
        data: Value,
    ) -> Result<Option<Prepared>> {
        let work = self.call(backend, operation, path, data, None, |b, found, call| b.prepare(found, mount, call))?;
        match work {
            Some(work) => work.await.map(Some),
            None => Ok(None),
        }
    }

    /// Call one of a backend's functions for a request.
    ///
    /// # Errors
    /// What the function answers; 404 and 405 as the core answers them.
    pub fn call<R>(
        &self,
        backend: &dyn Backend,
        operation: Operation,
        path: &str,
        data: Value,
        prepared: Option<&(dyn Any + Send + Sync)>,
        f: impl FnOnce(&dyn Backend, &crate::Found, &Call<'_>) -> Result<R>,
    ) -> Result<R> {
        let found = backend.find(operation, path).ok_or(Error::UnsupportedPath)?;
        if !found.supported {
            return Err(Error::UnsupportedOperation);
        }
        let request = Request {
            id: "00000000-0000-0000-0000-000000000000".into(),
            operation,
            path: path.into(),
            data: data.as_object().cloned().unwrap_or_else(Map::new),
            token: None,
            namespace: String::new(),
            wrap_ttl: None,
            remote: self.remote,
            headers: Headers::new(),
            merge_patch: false,
            policy_override: false,
            forwarded_from: None,
            client_certificate_serial: None,
            presented: Default::default(),
        };
        let caller = Caller::default();
        let call = Call {
            operation,
            path,
            mount_point: "auth/test/",
            mount_accessor: "auth_test_00000000",
            request: &request,
            caller: &caller,
            now: self.now,
            cluster_now: self.now,
            captures: &found.captures,
            prepared,
            done: None,
        };
        f(backend, &found, &call)
    }
}
