//! What there is, counted now and then by the active node: entities, secrets of kv mounts, tokens by policy, method and TTL.
//!
//! A count walks keys, and of tokens their records, in steps; nothing waits for it. How often depends on how long it takes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use holdfast_sdk::{Error, Result, Table};
use holdfast_storage::prefix_end;

use crate::layout::{IDENTITY, NamespaceId, ROOT, Scope, TOKEN, TOKENS, identity};
use crate::router::{self, Handler};
use crate::tokens::TokenEntry;
use crate::tx::Tx;
use crate::{Core, Open, namespaces};

/// Records of one step.
const STEP: usize = 1000;
/// Pauses between counts: not more than a hundredth of the time is spent on them.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// Tokens whose records are looked at; with more of them there are no counts by policy, method and TTL.
const MOST_TOKENS: usize = 200_000;
/// Series of one name.
const SERIES: usize = 256;
/// Upper ends of the TTLs that tokens are counted by, as in Vault.
const TTLS: [(&str, u64); 9] = [
    ("1m", 60),
    ("10m", 600),
    ("20m", 1200),
    ("1h", 3600),
    ("2h", 7200),
    ("1d", 86_400),
    ("2d", 172_800),
    ("7d", 604_800),
    ("30d", 2_592_000),
];
const LONGER: &str = "+Inf";

/// Counts by what they are of.
pub type Counts = BTreeMap<(String, String), u64>;

/// The last count.
#[derive(Default)]
pub struct Usage {
    pub entities: u64,
    pub entity_aliases: u64,
    /// By namespace and mount.
    pub secrets: Counts,
    pub tokens: Option<Tokens>,
}

#[derive(Default)]
pub struct Tokens {
    /// By namespace and policy, auth method, TTL.
    pub by_policy: Counts,
    pub by_auth: Counts,
    pub by_ttl: Counts,
    looked_at: usize,
}

/// Count for as long as the server is active.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    core.while_open(open, run);
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    let mut pause = Duration::from_secs(1);
    loop {
        tokio::time::sleep(pause).await;
        let (core, open) = (core.clone(), open.clone());
        let start = Instant::now();
        match tokio::task::spawn_blocking(move || count_and_keep(&core, &open)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(e)) => tracing::warn!(error = %e, "what there is cannot be counted; it is tried again"),
            Err(e) => tracing::error!(error = %e, "a count of what there is ended in a defect"),
        }
        pause = (start.elapsed() * 100).clamp(PAUSES.0, PAUSES.1);
    }
}

/// A namespace, and its mounts whose secrets are counted.
type Place = (NamespaceId, String, Vec<(String, Scope, Table)>);

/// False: the server was sealed meanwhile.
fn count_and_keep(core: &Weak<Core>, open: &Weak<Open>) -> Result<bool> {
    let Some(places) = with(core, open, places)? else { return Ok(false) };
    let all: Vec<NamespaceId> = places.iter().map(|place| place.0).collect();
    let Some(usage) = count(core, open, places)? else { return Ok(false) };
    let kept = with(core, open, |_, open| {
        open.usage.store(Some(Arc::new(usage)));
        // One that was sealed while it was counted is not named.
        if all.iter().any(|namespace| open.barrier.load().is_sealed(namespace)) {
            open.usage.store(None);
        }
        Ok(())
    })?;
    Ok(kept.is_some())
}

/// None: the server was sealed meanwhile.
fn count(core: &Weak<Core>, open: &Weak<Open>, places: Vec<Place>) -> Result<Option<Usage>> {
    let mut usage = Usage { tokens: Some(Tokens::default()), ..Usage::default() };
    for (namespace, path, mounts) in places {
        let Some(n) = keys(core, open, IDENTITY.of(namespace), identity::ENTITY)? else { return Ok(None) };
        usage.entities += n;
        let Some(n) = keys(core, open, IDENTITY.of(namespace), identity::ALIAS)? else { return Ok(None) };
        usage.entity_aliases += n;
        for (mount, scope, table) in mounts {
            let Some(n) = keys(core, open, scope, table)? else { return Ok(None) };
            if usage.secrets.len() < SERIES {
                usage.secrets.insert((path.clone(), mount), n);
            }
        }
        let Some(tokens) = &mut usage.tokens else { continue };
        match count_tokens(core, open, namespace, &path, tokens)? {
            None => return Ok(None),
            Some(true) => {}
            Some(false) => usage.tokens = None,
        }
    }
    Ok(Some(usage))
}

/// Look at the server for a moment: nothing of it is held between two looks.
fn with<R>(
    core: &Weak<Core>,
    open: &Weak<Open>,
    look: impl FnOnce(&Arc<Core>, &Arc<Open>) -> Result<R>,
) -> Result<Option<R>> {
    let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return Ok(None) };
    if open.closing.load(std::sync::atomic::Ordering::SeqCst) {
        return Ok(None);
    }
    look(&core, &open).map(Some)
}

fn places(core: &Arc<Core>, open: &Arc<Open>) -> Result<Vec<Place>> {
    let mut tx = core.reader(open);
    let mut all = vec![(ROOT, String::new())];
    all.extend(namespaces::below(&mut tx, "")?.into_iter().map(|n| (n.uuid, n.path)));
    all.retain(|(namespace, _)| !tx.is_sealed(namespace));
    drop(tx);
    let mut places = Vec::with_capacity(all.len());
    for (namespace, path) in all {
        let Some(space) = core.space_of(open, namespace)? else { continue };
        let router = core.router_of(open, &space)?;
        let counted = router.mounts().filter_map(|mount| match &mount.handler {
            Handler::Engine(backend) => Some((mount.full_path.clone(), mount.scope, backend.secrets()?)),
            _ => None,
        });
        places.push((namespace, path, counted.collect()));
    }
    Ok(places)
}

/// The records of a table, by their keys: values may be large, and are not looked at.
fn keys(core: &Weak<Core>, open: &Weak<Open>, scope: Scope, table: Table) -> Result<Option<u64>> {
    let prefix = [&scope.prefix()[..], &[table.0]].concat();
    let end = prefix_end(&prefix);
    let (mut start, mut counted) = (prefix, 0);
    loop {
        let step = with(core, open, |core, _| {
            let (mut found, mut last) = (0, None);
            let snapshot = core.store.snapshot();
            let visited = snapshot.keys(&start, end.as_deref(), |key| {
                found += 1;
                if found < STEP {
                    return ControlFlow::Continue(());
                }
                last = Some(key.to_vec());
                ControlFlow::Break(())
            });
            visited.map(|()| (found, last)).map_err(Error::internal)
        })?;
        let Some((found, last)) = step else { return Ok(None) };
        counted += found as u64;
        match last {
            Some(last) => start = [&last[..], &[0]].concat(),
            None => return Ok(Some(counted)),
        }
    }
}

/// Some(false): there are too many.
fn count_tokens(
    core: &Weak<Core>,
    open: &Weak<Open>,
    namespace: NamespaceId,
    path: &str,
    tokens: &mut Tokens,
) -> Result<Option<bool>> {
    let methods = with(core, open, |core, open| {
        let mut tx = core.reader(open);
        let mounts = tx.within(crate::layout::SYSTEM.of(namespace), router::load)?;
        Ok(mounts.into_iter().map(|m| (m.uuid, m.kind)).collect::<BTreeMap<_, _>>())
    })?;
    let Some(methods) = methods else { return Ok(None) };
    let mut after: Vec<u8> = Vec::new();
    loop {
        let step = with(core, open, |core, open| {
            // Not through the cache, which is for what is asked for.
            let mut tx = Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
            tx.within(TOKENS.of(namespace), |tx| holdfast_sdk::Transaction::ordered(tx, TOKEN, &after, &[], STEP))
        })?;
        let Some(step) = step else { return Ok(None) };
        tokens.looked_at += step.len();
        if tokens.looked_at > MOST_TOKENS {
            return Ok(Some(false));
        }
        for (_, bytes) in &step {
            let token: TokenEntry = holdfast_sdk::record::read(bytes)?;
            let method = token.auth_mount.map_or(Some("token"), |uuid| methods.get(&uuid).map(String::as_str));
            let longest = TTLS.iter().find(|(_, secs)| token.creation_ttl_secs > 0 && token.creation_ttl_secs <= *secs);
            tokens.note(path, &token.policies, method.unwrap_or("gone"), longest.map_or(LONGER, |(word, _)| word));
        }
        match step.last() {
            Some((last, _)) if step.len() == STEP => after = [&last[..], &[0]].concat(),
            _ => return Ok(Some(true)),
        }
    }
}

impl Tokens {
    fn note(&mut self, path: &str, policies: &[String], method: &str, ttl: &str) {
        for policy in policies {
            add(&mut self.by_policy, path, policy);
        }
        add(&mut self.by_auth, path, method);
        add(&mut self.by_ttl, path, ttl);
    }
}

/// What is beyond the series that are shown is not counted.
fn add(counts: &mut Counts, path: &str, of: &str) {
    let key = (path.to_owned(), of.to_owned());
    let room = counts.len() < SERIES;
    if let Some(n) = counts.get_mut(&key) {
        *n += 1;
    } else if room {
        counts.insert(key, 1);
    }
}
