//! Stored entries as they are, whoever they belong to: for `sys/raw`.

use holdfast_sdk::{Error, Result, Table};
use holdfast_storage::prefix_end;

use super::Tx;
use crate::layout::{SEALED, Scope};

/// Table and place, and what is there.
pub type Record = (Vec<u8>, Vec<u8>);

/// Scopes or tables that one listing shows at most.
const MOST_FOLDERS: usize = 10_000;

impl Tx {
    /// All scopes that keep something.
    pub fn scopes(&mut self) -> Result<Vec<Scope>> {
        let found = self.next_bytes(&[SEALED], 32)?;
        Ok(found
            .iter()
            .filter_map(|rest| {
                let (namespace, mount) = rest.split_first_chunk::<16>()?;
                Some(Scope { namespace: *namespace, mount: *mount.first_chunk::<16>()? })
            })
            .collect())
    }

    /// The tables of the present scope that keep something.
    pub fn tables(&mut self) -> Result<Vec<Table>> {
        let prefix = self.scope.prefix();
        Ok(self.next_bytes(&prefix, 1)?.iter().filter_map(|rest| rest.first().map(|t| Table(*t))).collect())
    }

    /// The different `length` bytes that follow `prefix`, found without reading what lies between.
    fn next_bytes(&mut self, prefix: &[u8], length: usize) -> Result<Vec<Vec<u8>>> {
        let end = prefix_end(prefix);
        let (mut found, mut start) = (Vec::new(), prefix.to_vec());
        while found.len() < MOST_FOLDERS {
            let step = self.range(&start, end.as_deref(), 1)?;
            let Some((key, _)) = step.entries.first() else { break };
            let Some(next) = key.get(prefix.len()..prefix.len() + length) else { break };
            found.push(next.to_vec());
            match prefix_end(&key[..prefix.len() + length]) {
                Some(behind) => start = behind,
                None => break,
            }
        }
        Ok(found)
    }

    /// Whether a table's records are at names: its first one tells. `None`: there is no record.
    pub fn is_of_names(&mut self, table: Table) -> Result<Option<bool>> {
        let prefix = self.domain(table);
        let step = self.range(&prefix, prefix_end(&prefix).as_deref(), 1)?;
        Ok(step.entries.first().map(|(key, _)| self.is_name(table, &key[prefix.len()..])))
    }

    fn is_name(&self, table: Table, place: &[u8]) -> bool {
        self.name_of(table, place).is_some()
    }

    /// The name that a place is; none: it is no name. What a forger would have to make to be taken for one is as long
    /// as a tag.
    fn name_of(&self, table: Table, place: &[u8]) -> Option<String> {
        let context = self.domain(table);
        let (mut name, mut at) = (String::new(), 0);
        while at < place.len() {
            let (length, rest) = place[at..].split_first_chunk::<2>()?;
            let segment = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
            name += &self.barrier.decrypt_segment(&context, &place[..at], segment).ok()?;
            at += 2 + segment.len();
        }
        (at > 0).then_some(name)
    }

    /// The same, where the namespace must not be sealed meanwhile.
    pub fn name_at(&self, table: Table, place: &[u8]) -> Result<Option<String>> {
        match self.is_sealed(&self.namespace()) {
            true => Err(Error::Unavailable("namespace is sealed".into())),
            false => Ok(self.name_of(table, place)),
        }
    }

    /// Records of the present scope behind `after` (empty: from the first on), each at its table and place there. Not more than
    /// `limit`, and no further one once they have so many bytes. True: there are more.
    pub fn records(&mut self, after: &[u8], limit: usize, bytes: usize) -> Result<(Vec<Record>, bool)> {
        let prefix = self.scope.prefix();
        let start = match after.is_empty() {
            true => prefix.to_vec(),
            false => [&prefix[..], after, &[0]].concat(),
        };
        let step = self.range(&start, prefix_end(&prefix).as_deref(), limit)?;
        let (mut found, mut size) = (Vec::with_capacity(step.entries.len()), 0);
        for (key, sealed) in step.entries {
            if size >= bytes {
                return Ok((found, true));
            }
            let Some(value) = self.open(&key, sealed.as_deref())? else { continue };
            size += value.len();
            found.push((key[prefix.len()..].to_vec(), value));
        }
        Ok((found, step.reached.is_some()))
    }

    /// The places of a table behind `after`, as bytes, at most `limit` (0: all).
    pub fn places(&mut self, table: Table, after: Option<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>> {
        let prefix = self.domain(table);
        let end = prefix_end(&prefix);
        let mut start = match after {
            None => prefix.to_vec(),
            Some(after) => [&prefix[..], after, &[0]].concat(),
        };
        let mut places = Vec::new();
        loop {
            let step = self.range(&start, end.as_deref(), super::SCAN_STEP)?;
            places.extend(step.entries.iter().map(|(key, _)| key[prefix.len()..].to_vec()));
            match step.reached {
                Some(reached) if limit == 0 || places.len() < limit => start = [&reached[..], &[0]].concat(),
                _ => break,
            }
        }
        if limit > 0 {
            places.truncate(limit);
        }
        Ok(places)
    }
}
