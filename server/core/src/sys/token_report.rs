//! `sys/tokens/report`: tokens that can do much, or that nobody seems to need.
//!
//! A request walks through a bounded part of the token store, in the order of the accessors' HMACs, and says where the
//! next goes on. Nothing is kept between two of them. Batch tokens are stored nowhere and cannot be told.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_policy::{Capability, Check, Operation as PolicyOperation};
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Timestamp, TokenId, Transaction,
    Value, parameters,
};
use holdfast_seal::Barrier;

use super::System;
use super::capabilities::{Whose, union};
use crate::layout::{ACCESSOR, NamespaceId, ROOT, SYSTEM, TOKENS};
use crate::policies::{Compiled, system_time};
use crate::tokens::{self, TokenEntry};
use crate::tx::Tx;
use crate::{Core, Open, last_use, namespaces};

const ROUTE: &str = "sys/tokens/report";
/// Tokens that a request looks at.
const LOOKED_AT: usize = 20_000;
/// Tokens that a page has, unless it is asked for more, and at most.
const PAGE: (usize, usize) = (500, 5000);
/// Records of one look at the store.
const STEP: usize = 500;
/// A token that was not used for so long is told, unless it is asked for another time.
const UNUSED_SECS: u64 = 30 * 24 * 3600;
/// Paths with `sudo` that are shown of a token.
const SUDO_PATHS: usize = 32;
/// Unions of policies whose paths are remembered in a walk.
const REMEMBERED: usize = 1024;

parameters! {
    pub struct Asked {
        /// Go on behind this accessor: what the last page called next_after.
        after: Option<String>,
        /// Tokens of a page; 500, and 5,000 at most.
        limit: Option<i64>,
        /// How long a token was not used to be told for that alone; 30 days.
        unused_for: Option<Seconds>,
        /// Only tokens that are told for one of these: root, sudo, periodic, no_end, unused.
        reasons: Option<Vec<String>>,
        /// Whether tokens of the namespaces below are told; they are, where the caller may ask there.
        include_child_namespaces: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("tokens/report", "Tokens that can do much, or that were not used for long.", |p| {
        p.read(answer).prepared(Operation::Read, prepare).root_protected()
    })
}

/// Why a token is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It may do everything in its namespace and below.
    Root,
    /// Its policies give `sudo` somewhere.
    Sudo,
    /// It can be renewed for ever.
    Periodic,
    /// It ends by itself at no time.
    NoEnd,
    /// It was not used for long.
    Unused,
}

impl Reason {
    const ALL: [(Reason, &str); 5] = [
        (Reason::Root, "root"),
        (Reason::Sudo, "sudo"),
        (Reason::Periodic, "periodic"),
        (Reason::NoEnd, "no_end"),
        (Reason::Unused, "unused"),
    ];

    fn word(self) -> &'static str {
        Reason::ALL.iter().find(|(reason, _)| *reason == self).map_or("", |(_, word)| word)
    }

    fn of(word: &str) -> Result<Reason> {
        let found = Reason::ALL.iter().find(|(_, known)| *known == word);
        found.map(|(reason, _)| *reason).ok_or_else(|| {
            Error::bad_request(format!("unknown reason {word:?}: root, sudo, periodic, no_end and unused are possible"))
        })
    }
}

fn prepare(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let after = p.after.filter(|a| !a.is_empty());
    let limit = p.limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(PAGE.0).min(PAGE.1);
    let unused_secs = p.unused_for.and_then(|s| u64::try_from(s.0).ok()).filter(|n| *n > 0).unwrap_or(UNUSED_SECS);
    let reasons = p.reasons.unwrap_or_default().iter().map(|w| Reason::of(w)).collect::<Result<Vec<_>>>()?;
    let mut places = vec![(tx.namespace(), call.request.namespace.clone())];
    let mut sealed = Vec::new();
    if p.include_child_namespaces.unwrap_or(true) {
        let own = union(sys, tx, &Whose::of_caller(call))?.ok_or(Error::PermissionDenied)?;
        let now = system_time(core.policy_time());
        for below in namespaces::below(tx, &call.request.namespace)? {
            let path = format!("{}{ROUTE}", below.path);
            let check = Check { root_protected: true, ..Check::new(PolicyOperation::Read, &path, now) };
            match own.acl.check(&check).allowed {
                true if tx.is_sealed(&below.uuid) => sealed.push(below.path),
                true => places.push((below.uuid, below.path)),
                false => {}
            }
        }
    }
    let from = match &after {
        None => 0,
        Some(accessor) => {
            let namespace = match namespaces::suffix_of_token(accessor) {
                None => Some(ROOT),
                Some(suffix) => namespaces::by_id(tx, suffix)?,
            };
            let at = places.iter().position(|(uuid, _)| Some(*uuid) == namespace);
            at.ok_or_else(|| Error::bad_request("\"after\" is no accessor of this namespace or of one below it"))?
        }
    };
    places.drain(..from);
    let mut walk = Walk {
        now: call.now,
        unused_secs,
        noted_since: last_use::since(tx)?.unwrap_or(call.now),
        reasons,
        limit,
        sudo: HashMap::new(),
        found: Vec::new(),
        looked_at: 0,
        next: None,
        sealed,
    };
    Ok(Some(Box::pin(async move {
        let walked = tokio::task::spawn_blocking(move || {
            walk.through(&core, &open, &places, after.as_deref())?;
            Ok::<_, Error>(walk)
        });
        Ok(Arc::new(walked.await.map_err(Error::internal)??) as Prepared)
    })))
}

fn answer(_: &System, _: &mut Tx, call: &Call<'_>, _: Asked) -> Result<Response> {
    let walk = call.prepared.and_then(|p| p.downcast_ref::<Walk>());
    let walk = walk.ok_or_else(|| Error::Internal("no token was looked at".into()))?;
    let mut m = Map::new();
    m.insert("tokens".into(), walk.found.clone().into());
    m.insert("looked_at".into(), walk.looked_at.into());
    m.insert("last_uses_since".into(), walk.noted_since.rfc3339_secs().into());
    if let Some(next) = &walk.next {
        m.insert("next_after".into(), next.clone().into());
    }
    let response = Response::data(m);
    Ok(match walk.sealed.is_empty() {
        true => response,
        false => response.warn(format!("namespaces that are sealed were not looked at: {}", walk.sealed.join(", "))),
    })
}

/// A walk through a part of the token store.
struct Walk {
    now: Timestamp,
    unused_secs: u64,
    /// Before this nothing was noted.
    noted_since: Timestamp,
    /// Empty: all of them.
    reasons: Vec<Reason>,
    limit: usize,
    /// What unions of policies give `sudo` on, by their address; each is held, so that no other gets it.
    sudo: HashMap<usize, (Arc<Compiled>, Arc<[Value]>)>,
    found: Vec<Value>,
    looked_at: usize,
    next: Option<String>,
    sealed: Vec<String>,
}

impl Walk {
    fn through(
        &mut self,
        core: &Core,
        open: &Open,
        places: &[(NamespaceId, String)],
        mut after: Option<&str>,
    ) -> Result<()> {
        for (namespace, path) in places {
            let mut start = Vec::new();
            if let Some(accessor) = after.take() {
                let hash = reader(core, open).within(TOKENS.of(*namespace), |tx| tx.id(ACCESSOR, accessor))?;
                start = [&hash[..], &[0]].concat();
            }
            loop {
                // A new view each time: a long walk keeps no old state of the store.
                let mut tx = reader(core, open);
                if tx.is_sealed(namespace) {
                    break;
                }
                let step = tx.within(TOKENS.of(*namespace), |tx| tx.ordered(ACCESSOR, &start, &[], STEP))?;
                for (hash, own) in &step {
                    let Ok(own) = <[u8; 32]>::try_from(own.as_slice()) else { continue };
                    start = [&hash[..], &[0]].concat();
                    self.looked_at += 1;
                    let id = TokenId { namespace: *namespace, own };
                    let Some(entry) = tokens::load(&mut tx, &id)? else { continue };
                    if tokens::load_valid(&mut tx, &id, self.now)?.is_some() {
                        self.look_at(core, open, &mut tx, &id, &entry, path)?;
                    }
                    if self.found.len() >= self.limit || self.looked_at >= LOOKED_AT {
                        self.next = Some(entry.accessor);
                        return Ok(());
                    }
                }
                if step.len() < STEP {
                    break;
                }
            }
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        core: &Core,
        open: &Open,
        tx: &mut Tx,
        id: &TokenId,
        entry: &TokenEntry,
        namespace: &str,
    ) -> Result<()> {
        let last_used = last_use::of_token(tx, id)?;
        let (union, of_entity) = self.rights(core, open, tx, id, entry)?;
        let sudo = match &union {
            Some(union) if !entry.is_root() && !union.acl.is_root() => self.sudo_of(union),
            _ => Arc::from([]),
        };
        let is_root = entry.is_root() || union.as_ref().is_some_and(|u| u.acl.is_root());
        let untouched_since = last_used.unwrap_or(self.noted_since).max(entry.issued());
        let is = [
            (Reason::Root, is_root),
            (Reason::Sudo, !sudo.is_empty()),
            (Reason::Periodic, entry.period_secs > 0 && entry.explicit_max_ttl_secs == 0),
            (Reason::NoEnd, entry.expires.is_none()),
            (Reason::Unused, untouched_since.plus_secs(self.unused_secs) <= self.now),
        ];
        let reasons: Vec<Reason> = is.into_iter().filter(|(_, is)| *is).map(|(reason, _)| reason).collect();
        let asked = |reason: &Reason| self.reasons.is_empty() || self.reasons.contains(reason);
        if !reasons.iter().any(asked) {
            return Ok(());
        }
        let mut m = Map::new();
        let mut set = |k: &str, v: Value| {
            m.insert(k.into(), v);
        };
        set("accessor", entry.accessor.clone().into());
        set("display_name", entry.display_name.clone().into());
        set("namespace", namespace.into());
        set("reasons", reasons.iter().map(|r| r.word()).collect());
        set("policies", entry.policies.clone().into());
        set("identity_policies", of_entity.into());
        set("sudo_paths", sudo.iter().take(SUDO_PATHS).cloned().collect());
        set("sudo_path_count", sudo.len().into());
        set("creation_time", entry.issued().rfc3339_secs().into());
        set("creation_path", entry.path.clone().into());
        set("ttl", entry.ttl_left_secs(self.now).into());
        set("expire_time", entry.expires.map_or(Value::Null, |t| t.rfc3339_secs().into()));
        set("period", entry.period_secs.into());
        set("explicit_max_ttl", entry.explicit_max_ttl_secs.into());
        set("orphan", entry.parent().is_none().into());
        set("entity_id", entry.entity_id.clone().into());
        set("role", entry.role.clone().into());
        set("last_used_time", last_used.map_or(Value::Null, |t| t.rfc3339_secs().into()));
        self.found.push(Value::Object(m));
        Ok(())
    }

    /// What a token may do, and the policies it has by its entity. An entity that is disabled may do nothing.
    fn rights(
        &self,
        core: &Core,
        open: &Open,
        tx: &mut Tx,
        id: &TokenId,
        entry: &TokenEntry,
    ) -> Result<(Option<Arc<Compiled>>, Vec<String>)> {
        let names = Arc::<[String]>::from(entry.policies.as_slice()).into();
        tx.within(SYSTEM.of(id.namespace), |tx| {
            let who = match entry.entity_id.as_str() {
                "" => None,
                of => match open.identities.get(tx, of)? {
                    Some(who) if !who.entity.disabled => Some(who),
                    _ => return Ok((None, Vec::new())),
                },
            };
            let of_entity = who.as_ref().map(|w| w.policies.to_vec()).unwrap_or_default();
            Ok((Some(open.policies.union(tx, &names, who.as_ref(), core.policy_time())?), of_entity))
        })
    }

    /// The paths on which a union gives `sudo`, and the policies that do.
    fn sudo_of(&mut self, union: &Arc<Compiled>) -> Arc<[Value]> {
        let address = Arc::as_ptr(union) as usize;
        if let Some((_, paths)) = self.sudo.get(&address) {
            return paths.clone();
        }
        let gives = |rule: &holdfast_policy::ResultantRule<'_>| {
            let p = rule.permissions;
            (p.capabilities.contains(Capability::Sudo) && !p.capabilities.contains(Capability::Deny)).then(|| {
                let policies = p.granting_policies(Capability::Sudo).iter().map(|name| name.to_string());
                let mut m = Map::new();
                m.insert("path".into(), rule.expression.into());
                m.insert("policies".into(), policies.collect::<Vec<_>>().into());
                Value::Object(m)
            })
        };
        let paths: Arc<[Value]> = union.acl.rules().iter().filter_map(gives).collect();
        if self.sudo.len() >= REMEMBERED {
            self.sudo.clear();
        }
        self.sudo.insert(address, (union.clone(), paths.clone()));
        paths
    }
}

/// Not through the cache, which is for what is asked for.
fn reader(core: &Core, open: &Open) -> Tx {
    Tx::read_only(core.store.view(), Barrier::clone(&open.barrier.load()))
}
