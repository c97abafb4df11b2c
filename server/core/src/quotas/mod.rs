//! Quotas: how many requests a client may send in a time, for everything, a namespace, a mount, a path or a role.
//!
//! The rules are stored; what is counted is in memory and starts anew with the node that is active. Where there is
//! no rule, a request costs one look at a flag.

pub mod leases;
mod limiter;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_sdk::{Place, Request, Result, Transaction, record};
use minicbor::{Decode, Encode};

use self::leases::LeaseRule;
use self::limiter::{Limiter, Verdict};
use crate::layout::{QUOTAS, SETTINGS, STORE};
use crate::router::Mount;
use crate::tx::Tx;
use crate::{Answer, Core, Open};

/// Rules that there may be.
pub const MOST: usize = 10_000;
/// Where the settings are.
const CONFIG: &[u8] = b"quotas";

/// A rate limit as it is stored.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Rule {
    #[n(0)]
    pub name: String,
    /// The path of its namespace, with a slash at its end unless it is the root.
    #[n(1)]
    pub namespace: String,
    /// With a slash at its end; empty: no mount.
    #[n(2)]
    pub mount: String,
    /// Behind the mount; with a `*` at its end, whatever begins so.
    #[n(3)]
    pub path: String,
    #[n(4)]
    pub role: String,
    /// Requests in an interval.
    #[n(5)]
    pub rate: f64,
    #[n(6)]
    pub interval_ms: u64,
    /// How long a client stays out that has asked for too much; 0: until the interval is over.
    #[n(7)]
    pub block_ms: u64,
    /// Counts for the namespaces below too.
    #[n(8)]
    pub inheritable: bool,
    /// Changes with each write: what was counted by an earlier one counts no longer.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub written: [u8; 16],
}
holdfast_sdk::record!(Rule);

impl Rule {
    /// As it was given.
    pub fn full_path(&self) -> String {
        format!("{}{}{}", self.namespace, self.mount, self.path)
    }

    /// It is on all that this one is on.
    pub fn is_on_the_same(&self, other: &Rule) -> bool {
        (&self.namespace, &self.mount, &self.path, &self.role)
            == (&other.namespace, &other.mount, &other.path, &other.role)
    }

    /// How closely it fits a request; the closest rule counts alone. None: it does not.
    fn fits(&self, namespace: &str, mount: Option<&Mount>, path: &str, role: Option<&str>) -> Option<u32> {
        let at_home = self.namespace == namespace;
        if self.mount.is_empty() {
            // The deeper the namespace the closer.
            let reaches = at_home || (self.inheritable && namespace.starts_with(&self.namespace));
            return reaches.then(|| 1 + self.namespace.matches('/').count() as u32);
        }
        let mount = mount.filter(|m| at_home && m.full_path == self.mount)?;
        let behind = path.strip_prefix(&mount.full_path).unwrap_or("");
        let on_path = match self.path.strip_suffix('*') {
            _ if self.path.is_empty() => true,
            Some(start) => behind.starts_with(start),
            None => behind == self.path,
        };
        let on_role = self.role.is_empty() || Some(self.role.as_str()) == role;
        let closeness = [(10_000, true), (20_000, !self.path.is_empty()), (40_000, !self.role.is_empty())];
        (on_path && on_role)
            .then(|| closeness.iter().filter(|(_, is)| *is).map(|(n, _)| n).sum::<u32>() + self.path.len() as u32)
    }
}

/// What counts for all rules.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Config {
    #[n(0)]
    pub exempt_paths: Vec<String>,
    #[n(1)]
    pub audits: bool,
    #[n(2)]
    pub shows_headers: bool,
}
holdfast_sdk::record!(Config);

impl Default for Config {
    fn default() -> Config {
        let exempt = [
            "sys/generate-recovery-token/attempt",
            "sys/generate-recovery-token/update",
            "sys/generate-root/attempt",
            "sys/generate-root/update",
            "sys/health",
            "sys/seal-status",
            "sys/unseal",
        ];
        Config { exempt_paths: exempt.map(str::to_owned).to_vec(), audits: false, shows_headers: false }
    }
}

impl Config {
    fn exempts(&self, namespace: &str, path: &str) -> bool {
        let path = format!("{namespace}{}", path.trim_end_matches('/'));
        self.exempt_paths.iter().any(|exempt| match exempt.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == exempt.trim_end_matches('/'),
        })
    }
}

pub fn config(tx: &mut Tx) -> Result<Config> {
    Ok(tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, CONFIG)))?.unwrap_or_default())
}

pub fn save_config(tx: &mut Tx, config: &Config) -> Result<()> {
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, CONFIG), config))
}

/// All rules, in the order of their storage keys.
pub fn rules(tx: &mut Tx) -> Result<Vec<Rule>> {
    let (mut found, mut cursor) = (Vec::new(), Vec::new());
    loop {
        let batch = tx.within(STORE, |tx| tx.below(QUOTAS, "", &cursor, 256))?;
        for (_, bytes) in &batch.entries {
            found.push(record::read(bytes)?);
        }
        match batch.after {
            Some(after) => cursor = after,
            None => return Ok(found),
        }
    }
}

pub fn rule(tx: &mut Tx, name: &str) -> Result<Option<Rule>> {
    tx.within(STORE, |tx| record::get(tx, Place::Name(QUOTAS, name)))
}

pub fn save(tx: &mut Tx, rule: &Rule) -> Result<()> {
    tx.within(STORE, |tx| record::put(tx, Place::Name(QUOTAS, &rule.name), rule))
}

pub fn forget(tx: &mut Tx, name: &str) -> Result<()> {
    tx.within(STORE, |tx| tx.delete(Place::Name(QUOTAS, name)))
}

/// What is on a namespace, or in it, goes with it: the next one of its name begins without.
pub fn forget_in(tx: &mut Tx, namespace: &str) -> Result<()> {
    for rule in rules(tx)?.into_iter().filter(|r| r.namespace == namespace) {
        forget(tx, &rule.name)?;
    }
    for rule in leases::all(tx)?.into_iter().filter(|r| r.on.namespace == namespace) {
        leases::forget(tx, &rule.on.name)?;
    }
    Ok(())
}

/// What is on a mount goes with it.
pub fn forget_of_mount(tx: &mut Tx, namespace: &str, mount: &str) -> Result<()> {
    for rule in rules(tx)?.into_iter().filter(|r| r.namespace == namespace && r.mount == mount) {
        forget(tx, &rule.name)?;
    }
    for rule in leases::all(tx)?.into_iter().filter(|r| r.on.namespace == namespace && r.on.mount == mount) {
        leases::forget(tx, &rule.on.name)?;
    }
    Ok(())
}

/// The rules in force.
pub struct Quotas {
    /// There is a rule, or there may be one.
    some: AtomicBool,
    rules: ArcSwap<InForce>,
    /// The last batch that changed a rule or the settings.
    changed_at: AtomicU64,
    reading: Mutex<()>,
}

#[derive(Default)]
struct InForce {
    config: Config,
    rules: Vec<(Rule, Arc<Limiter>)>,
    leases: Vec<LeaseRule>,
    /// One of them is on a role.
    by_role: bool,
    read_at: u64,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            some: AtomicBool::new(true),
            rules: ArcSwap::from_pointee(InForce::default()),
            changed_at: AtomicU64::new(1),
            reading: Mutex::new(()),
        }
    }
}

impl Quotas {
    /// The batch of `index`, which is about to be published, changed a rule or a setting.
    pub fn changed(&self, index: u64) {
        self.changed_at.fetch_max(index, Ordering::SeqCst);
        self.some.store(true, Ordering::SeqCst);
    }

    /// There is certainly no rule.
    pub fn are_none(&self) -> bool {
        !self.some.load(Ordering::SeqCst)
    }

    fn in_force(&self, core: &Core, open: &Open) -> Result<Arc<InForce>> {
        let is_current = |rules: &InForce| rules.read_at >= self.changed_at.load(Ordering::SeqCst);
        let found = self.rules.load_full();
        if is_current(&found) {
            return Ok(found);
        }
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.rules.load_full();
        if is_current(&before) {
            return Ok(before);
        }
        let mut tx = core.reader(open);
        let known: HashMap<&str, &(Rule, Arc<Limiter>)> =
            before.rules.iter().map(|both| (both.0.name.as_str(), both)).collect();
        let limiter = |rule: &Rule| match known.get(rule.name.as_str()) {
            Some((before, limiter)) if before == rule => limiter.clone(),
            _ => Arc::new(Limiter::new(
                rule.rate,
                Duration::from_millis(rule.interval_ms),
                Duration::from_millis(rule.block_ms),
            )),
        };
        let rules: Vec<_> = rules(&mut tx)?.into_iter().map(|rule| (rule.clone(), limiter(&rule))).collect();
        let by_role = rules.iter().any(|(rule, _)| !rule.role.is_empty());
        let (config, leases) = (config(&mut tx)?, leases::all(&mut tx)?);
        let fresh = Arc::new(InForce { config, rules, leases, by_role, read_at: tx.index() });
        self.rules.store(fresh.clone());
        if fresh.rules.is_empty() && fresh.leases.is_empty() {
            self.some.store(false, Ordering::SeqCst);
            // What was changed meanwhile is looked at by the next request.
            if !is_current(&fresh) {
                self.some.store(true, Ordering::SeqCst);
            }
        }
        Ok(fresh)
    }
}

/// What quotas say about a request.
#[derive(Default)]
pub struct Ruling {
    /// For its answer.
    pub headers: Vec<(String, String)>,
    /// The answer, if it is one too many.
    pub refused: Option<Answer>,
    /// That it is refused shows in the audit log.
    pub audits: bool,
}

impl Core {
    /// Whether a rule is on a request, which counts at one node only.
    pub(crate) fn has_rate_limit(&self, open: &Open, request: &Request, mount: Option<&Mount>) -> Result<bool> {
        if open.quotas.are_none() {
            return Ok(false);
        }
        let in_force = open.quotas.in_force(self, open)?;
        if in_force.config.exempts(&request.namespace, &request.path) {
            return Ok(false);
        }
        let fits = |rule: &Rule| rule.fits(&request.namespace, mount, &request.path, None).is_some();
        Ok(in_force.rules.iter().any(|(rule, _)| fits(rule)))
    }

    /// Count a request. None: no rule is on it.
    pub(crate) fn ruling(
        &self,
        open: &Open,
        request: &Request,
        mount: Option<&Mount>,
        role: impl FnOnce() -> Option<String>,
    ) -> Result<Option<Ruling>> {
        let quotas = &open.quotas;
        let in_force = quotas.in_force(self, open)?;
        if in_force.rules.is_empty() || in_force.config.exempts(&request.namespace, &request.path) {
            return Ok(None);
        }
        let role = if in_force.by_role { role() } else { None };
        let fitting = in_force.rules.iter().filter_map(|(rule, limiter)| {
            let closeness = rule.fits(&request.namespace, mount, &request.path, role.as_deref())?;
            Some((closeness, rule, limiter))
        });
        let Some((_, rule, limiter)) = fitting.max_by_key(|(closeness, ..)| *closeness) else { return Ok(None) };
        let client = request.remote.map_or_else(String::new, |r| r.ip().to_canonical().to_string());
        let verdict = limiter.take(&client, self.clock.boot());
        let config = &in_force.config;
        let headers = if config.shows_headers { headers(rule, &verdict, self.clock.now().secs()) } else { Vec::new() };
        let refused = (!verdict.allowed).then(|| {
            self.metrics.quota_refusals.add(1);
            let path = format!("{}{}", request.namespace, request.path);
            Answer::error(429, &format!("request path {path:?}: rate limit quota exceeded"))
        });
        Ok(Some(Ruling { headers, refused, audits: config.audits }))
    }
}

fn headers(rule: &Rule, verdict: &Verdict, now_secs: u64) -> Vec<(String, String)> {
    let in_secs = verdict.resets_in.as_secs() + u64::from(verdict.resets_in.subsec_nanos() > 0);
    let mut headers = vec![
        ("X-Ratelimit-Limit".to_owned(), format!("{}", limiter::whole(rule.rate))),
        ("X-Ratelimit-Remaining".to_owned(), verdict.left.to_string()),
        ("X-Ratelimit-Reset".to_owned(), (now_secs + in_secs).to_string()),
    ];
    if !verdict.allowed {
        headers.push(("Retry-After".to_owned(), in_secs.to_string()));
    }
    headers
}
