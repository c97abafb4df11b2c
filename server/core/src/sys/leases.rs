//! `sys/leases/*`, and the older `sys/renew`, `sys/revoke…` of HashiCorp Vault.

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Lease, Map, Operation, Preparation, Prepared, Response, Result, Routes, Timestamp, Value, parameters,
};

use super::System;
use crate::layout::NamespaceId;
use crate::leases::{EngineLease, How, Of};
use crate::tx::{Effect, Tx};
use crate::{Core, Open, intents, jobs, leases, tokens};

/// Leases of engines that the end of a mount waits for; more are left to a job.
pub const WHILE_ONE_WAITS: usize = 128;
/// Irrevocable leases in a list that was asked for without a limit.
const LISTED: usize = 10_000;
/// How long `revoke-force` tries to revoke before it forgets.
const BEFORE_FORGETTING: Duration = Duration::from_secs(10);

parameters! {
    pub struct ById {
        /// The id of the lease.
        lease_id: Option<Value>,
        /// Answer only when it is done (the default), or else when it is begun.
        sync: Option<bool>,
    }
}
parameters! {
    pub struct Renew {
        /// The id of the lease.
        lease_id: Option<Value>,
        /// How much longer it should live, from now.
        increment: Option<Seconds>,
    }
}
parameters! {
    pub struct Prefix {
        /// Answer only when it is done (the default), or else when it is begun. What is not done within 90 s goes on
        /// behind.
        sync: Option<bool>,
    }
}
parameters! {
    pub struct Counted {
        /// irrevocable, or live: those of engines, counted by mount and role.
        r#type: Option<String>,
        /// Count those of the namespaces below too.
        include_child_namespaces: Option<bool>,
        /// How many are listed at most; none is no limit.
        limit: Option<String>,
    }
}

pub fn routes(mut routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes = routes
        .path("leases", "The leases that cannot be revoked.", |p| p.read(irrevocable).root_protected())
        .path("leases/count", "How many leases there are, or cannot be revoked.", |p| p.read(count))
        .path("leases/tidy", "Remove what leases that are gone have left.", |p| p.update(tidy))
        .path("leases/lookup", "Look a lease up.", |p| p.update(lookup).list(list).root_protected_for(Operation::List))
        .path("leases/lookup/{prefix...}", "List leases.", |p| p.list(list).root_protected());
    for base in ["leases/", ""] {
        for by_path in ["", "/{lease_id+}"] {
            routes = routes
                .path(&format!("{base}renew{by_path}"), "Renew a lease.", |p| {
                    p.update(renew).prepared(Operation::Update, renew_outside)
                })
                .path(&format!("{base}revoke{by_path}"), "Revoke a lease.", |p| {
                    p.update(revoke).prepared(Operation::Update, revoke_outside)
                });
        }
        routes = routes
            .path(&format!("{base}revoke-prefix/{{prefix+}}"), "Revoke all leases below a path.", |p| {
                p.update(revoke_prefix).prepared(Operation::Update, revoke_prefix_outside).root_protected()
            })
            .path(&format!("{base}revoke-force/{{prefix+}}"), "Forget all leases below a path.", |p| {
                p.update(revoke_force).prepared(Operation::Update, revoke_force_outside).root_protected()
            });
    }
    routes
}

/// The lease that is asked about: in the path, else in the body.
fn named(call: &Call<'_>, given: Option<Value>) -> Result<String> {
    if let Some(id) = call.captures.get("lease_id") {
        return Ok(id.to_owned());
    }
    match given {
        None | Some(Value::Null) => Err(Error::bad_request("lease_id must be specified")),
        Some(Value::String(id)) if id.is_empty() => Err(Error::bad_request("lease_id must be specified")),
        Some(Value::String(id)) => Ok(id),
        Some(_) => Err(Error::bad_request("invalid lease ID")),
    }
}

fn lookup(_: &System, tx: &mut Tx, call: &Call<'_>, p: ById) -> Result<Response> {
    let id = named(call, p.lease_id)?;
    let invalid = || Error::bad_request("invalid lease");
    let mut m = Map::new();
    m.insert("path".into(), id.rsplit_once('/').map_or("", |(path, _)| path).into());
    match leases::find(tx, &id)?.ok_or_else(invalid)? {
        Of::Token(token, _) => {
            let e = tokens::load_valid(tx, &token, call.now)?.ok_or_else(invalid)?;
            let renewed = (e.last_renewal_ns > 0).then_some(Timestamp(e.last_renewal_ns));
            show(&mut m, e.issued(), e.expires, renewed, e.renewable, e.ttl_left_secs(call.now));
        }
        Of::Engine(e) => {
            let left = e.ttl_left_secs(call.cluster_now);
            show(&mut m, e.issued(), Some(e.expires()), e.last_renewal(), e.renewable, left);
            if let Some(key) = e.ending() {
                m.insert("ttl".into(), 0.into());
                m.insert("revocation".into(), Value::Object(revocation(tx, key)?));
            }
        }
    }
    m.insert("id".into(), id.into());
    if !call.request.namespace.is_empty() {
        m.insert("namespace_path".into(), call.request.namespace.clone().into());
    }
    Ok(Response::data(m))
}

fn show(
    m: &mut Map<String, Value>,
    issued: Timestamp,
    expires: Option<Timestamp>,
    renewed: Option<Timestamp>,
    renewable: bool,
    ttl_secs: u64,
) {
    let text = |t: Option<Timestamp>| t.map_or(Value::Null, |t| t.rfc3339().into());
    m.insert("issue_time".into(), issued.rfc3339().into());
    m.insert("expire_time".into(), text(expires));
    m.insert("last_renewal".into(), text(renewed));
    m.insert("renewable".into(), renewable.into());
    m.insert("ttl".into(), ttl_secs.into());
}

/// How far the end of a lease is.
fn revocation(tx: &mut Tx, key: &intents::Key) -> Result<Map<String, Value>> {
    let mut m = Map::new();
    if let Some((state, tries, last_error)) = intents::why(tx, key)? {
        m.insert("state".into(), if state == intents::State::GivenUp { "irrevocable" } else { "pending" }.into());
        m.insert("tries".into(), tries.into());
        m.insert("last_error".into(), last_error.map_or(Value::Null, Value::from));
        m.insert("intent".into(), key.id().into());
    }
    Ok(m)
}

fn list(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let folder = call.captures.get("prefix").unwrap_or_default().trim_end_matches('/');
    Response::list(leases::list(tx, &if folder.is_empty() { String::new() } else { format!("{folder}/") })?)
}

/// What the work outside needs of the server.
fn unsealed(sys: &System) -> Result<(Arc<Core>, Arc<Open>)> {
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    Ok((core, open))
}

fn renew_outside(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Renew) -> Result<Option<Preparation>> {
    let id = named(call, p.lease_id)?;
    let lease = match leases::find(tx, &id)? {
        Some(Of::Token(..)) => return Err(Error::bad_request("tokens cannot be renewed through this endpoint")),
        Some(Of::Engine(lease)) if lease.lives(call.cluster_now) => *lease,
        _ => return Err(Error::bad_request("lease not found")),
    };
    if !lease.renewable {
        return Err(Error::bad_request("lease is not renewable"));
    }
    let increment = match p.increment {
        Some(s) if s.0 < 0 => {
            return Err(Error::bad_request(format!(
                "error converting input for field \"increment\": cannot provide negative value '{}'",
                s.0
            )));
        }
        Some(s) => s.0.unsigned_abs(),
        None => 0,
    };
    let (core, open) = unsealed(sys)?;
    let space = tx.namespace();
    Ok(Some(Box::pin(async move {
        let granted = leases::renew(&core, &open, space, lease, increment).await?;
        Ok(Arc::new(granted) as Prepared)
    })))
}

fn renew(_: &System, _: &mut Tx, call: &Call<'_>, p: Renew) -> Result<Response> {
    let id = named(call, p.lease_id)?;
    let granted: &holdfast_sdk::lease::Granted =
        call.prepared.and_then(|p| p.downcast_ref()).ok_or_else(|| Error::bad_request("lease not found"))?;
    let lease = Lease { id, ttl_secs: granted.ttl_secs, renewable: true };
    let warnings = granted.warning.iter().cloned().collect();
    Ok(Response { lease: Some(lease), warnings, ..Response::default() })
}

fn revoke_outside(sys: &System, tx: &mut Tx, call: &Call<'_>, p: ById) -> Result<Option<Preparation>> {
    let id = named(call, p.lease_id)?;
    let Some(Of::Engine(lease)) = leases::find(tx, &id)? else { return Ok(None) };
    if p.sync == Some(false) {
        return Ok(None);
    }
    let (core, open) = unsealed(sys)?;
    let space = tx.namespace();
    Ok(Some(Box::pin(async move {
        let ended = leases::revoke_now(&core, &open, space, &lease).await;
        ended.map_err(|e| Error::bad_request(format!("failed to revoke entry: {e}")))?;
        Ok(Arc::new(()) as Prepared)
    })))
}

fn revoke(_: &System, tx: &mut Tx, call: &Call<'_>, p: ById) -> Result<Response> {
    let id = named(call, p.lease_id)?;
    match leases::find(tx, &id)? {
        Some(Of::Token(token, _)) => tokens::revoke_tree(tx, &token)?,
        Some(Of::Engine(lease)) => match lease.ending() {
            Some(key) => intents::hurry(tx, key)?,
            None => drop(leases::take_out(tx, &id)?),
        },
        None => {}
    }
    Ok(answered(p.sync == Some(false)))
}

/// 202 where the work goes on behind.
fn answered(behind: bool) -> Response {
    Response { status: behind.then_some(202), ..Response::empty() }
}

fn prefix_of<'c>(call: &'c Call<'_>) -> &'c str {
    call.capture("prefix").trim_end_matches('/')
}

/// What a client has waited for.
struct Waited {
    /// All that there was has ended.
    for_all: bool,
}

fn revoke_prefix_outside(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Prefix) -> Result<Option<Preparation>> {
    if p.sync == Some(false) {
        return Ok(None);
    }
    let (core, open) = unsealed(sys)?;
    let (space, prefix, now) = (tx.namespace(), prefix_of(call).to_owned(), call.now);
    Ok(Some(Box::pin(async move {
        let ended = leases::revoke_below(&core, &open, space, &prefix, now, |_| false);
        let Ok(ended) = tokio::time::timeout(jobs::LONGEST_WAIT, ended).await else {
            return Ok(Arc::new(Waited { for_all: false }) as Prepared);
        };
        let (tried, failed) = ended?;
        match failed.first() {
            None => Ok(Arc::new(Waited { for_all: true }) as Prepared),
            Some((id, e)) => Err(Error::bad_request(format!(
                "failed to revoke {id:?} ({} / {tried}): failed to revoke entry: {e}",
                failed.len()
            ))),
        }
    })))
}

fn revoke_prefix(_: &System, tx: &mut Tx, call: &Call<'_>, _: Prefix) -> Result<Response> {
    let waited: Option<&Waited> = call.prepared.and_then(|p| p.downcast_ref());
    let behind = waited.is_none_or(|w| !w.for_all);
    // What is left of tokens, of engines where nobody waited for it, and what was being made meanwhile.
    if let Some(job) = end_below(tx, call, How::Revoke)?
        && !behind
    {
        tx.effect(Effect::AwaitJob(job));
    }
    Ok(answered(behind))
}

/// End what is below a prefix, and the lease of that name. What is returned is the job that goes on with it.
fn end_below(tx: &mut Tx, call: &Call<'_>, how: How) -> Result<Option<[u8; 16]>> {
    let prefix = prefix_of(call);
    match leases::find(tx, prefix)? {
        Some(Of::Token(token, _)) => tokens::revoke_tree(tx, &token)?,
        Some(Of::Engine(lease)) if how == How::Forget => leases::forget_by_force(tx, &lease)?,
        Some(Of::Engine(_)) => drop(leases::take_out(tx, prefix)?),
        None => {}
    }
    let (folder, mut cursor) = (format!("{prefix}/"), Vec::new());
    if !leases::end_below(tx, &folder, how, call.now, &mut cursor)? {
        return Ok(None);
    }
    let forget = how == How::Forget;
    jobs::add(tx, jobs::Kind::RevokeLeases { folder, before: call.now.0, cursor, forget }).map(Some)
}

/// What can be revoked is revoked before everything is forgotten.
fn revoke_force_outside(sys: &System, tx: &mut Tx, call: &Call<'_>, _: Prefix) -> Result<Option<Preparation>> {
    let (core, open) = unsealed(sys)?;
    let (space, prefix, now) = (tx.namespace(), prefix_of(call).to_owned(), call.now);
    Ok(Some(Box::pin(async move {
        let tried = leases::revoke_below(&core, &open, space, &prefix, now, |failed| {
            for (id, e) in failed {
                tracing::warn!(lease = %id, error = %e, "a lease that is to be forgotten by force cannot be revoked");
            }
            true
        });
        if let Ok(tried) = tokio::time::timeout(BEFORE_FORGETTING, tried).await {
            tried?;
        }
        Ok(Arc::new(()) as Prepared)
    })))
}

fn revoke_force(_: &System, tx: &mut Tx, call: &Call<'_>, _: Prefix) -> Result<Response> {
    let prefix = prefix_of(call);
    tracing::warn!(prefix, "leases are forgotten by force");
    end_below(tx, call, How::Forget)?;
    Ok(Response::empty())
}

fn tidy(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    tokens::start_tidy(tx)?;
    Ok(Response { status: Some(202), ..Response::empty() }
        .warn("Tidy operation successfully started. It is a job: see sys/jobs."))
}

fn count(sys: &System, tx: &mut Tx, _: &Call<'_>, p: Counted) -> Result<Response> {
    match p.r#type.as_deref() {
        Some("irrevocable") => count_irrevocable(sys, tx),
        Some("live") => count_live(sys, tx),
        _ => Err(Error::NotFound),
    }
}

fn count_irrevocable(sys: &System, tx: &mut Tx) -> Result<Response> {
    let (mut after, mut total, mut counts) = (Vec::new(), 0u64, Map::new());
    let core = sys.core()?;
    loop {
        let batch = leases::irrevocable(tx, &after, leases::BATCH)?;
        for (_, lease) in &batch {
            total += 1;
            let accessor = accessor_of(&core, tx.namespace(), lease)?;
            let so_far = counts.get(&accessor).and_then(Value::as_u64).unwrap_or(0);
            counts.insert(accessor, (so_far + 1).into());
        }
        match batch.last() {
            Some((key, _)) if batch.len() == leases::BATCH => after = key.bytes().to_vec(),
            _ => break,
        }
    }
    let mut m = Map::new();
    m.insert("lease_count".into(), total.into());
    m.insert("counts".into(), Value::Object(counts));
    Ok(Response::data(m))
}

/// Of a mount in service its accessor, of another its path.
fn accessor_of(core: &Arc<Core>, space: NamespaceId, lease: &EngineLease) -> Result<String> {
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let router = core.router_in(&open, space)?;
    let found = router.mounts().find(|m| m.entry.uuid == lease.mount);
    Ok(found.map_or(lease.mount_path().to_owned(), |m| m.entry.accessor.clone()))
}

fn count_live(sys: &System, tx: &mut Tx) -> Result<Response> {
    let (core, open) = unsealed(sys)?;
    let (mut total, mut counts) = (0, Map::new());
    for mount in core.router_in(&open, tx.namespace())?.mounts().filter(|m| !m.entry.auth) {
        let live = leases::count_live(tx, &mount.entry.uuid)?;
        if live == 0 {
            continue;
        }
        total += live;
        let roles = leases::live_by_role(tx, &mount.entry.uuid, LISTED)?;
        let mut shown = Map::new();
        shown.insert("lease_count".into(), live.into());
        shown.insert("roles".into(), Value::Object(roles.into_iter().map(|(r, n)| (r, n.into())).collect()));
        counts.insert(mount.full_path.clone(), Value::Object(shown));
    }
    let mut m = Map::new();
    m.insert("lease_count".into(), total.into());
    m.insert("counts".into(), Value::Object(counts));
    Ok(Response::data(m))
}

fn irrevocable(sys: &System, tx: &mut Tx, _: &Call<'_>, p: Counted) -> Result<Response> {
    if p.r#type.as_deref() != Some("irrevocable") {
        return Err(Error::NotFound);
    }
    let limit = match p.limit.as_deref() {
        None | Some("" | "none") => LISTED,
        Some(text) => match text.parse::<usize>() {
            Ok(n) if n > 0 => n.min(LISTED),
            _ => return Err(Error::bad_request("limit must be 'none' or a positive integer")),
        },
    };
    let core = sys.core()?;
    let mut shown = Vec::new();
    for (key, lease) in leases::irrevocable(tx, &[], limit)? {
        let mut one = Map::new();
        one.insert("lease_id".into(), lease.id.clone().into());
        one.insert("mount_id".into(), accessor_of(&core, tx.namespace(), &lease)?.into());
        let reason = intents::why(tx, &key)?.and_then(|(_, _, error)| error);
        one.insert("error".into(), reason.map_or(Value::Null, Value::from));
        shown.push(Value::Object(one));
    }
    let mut m = Map::new();
    m.insert("lease_count".into(), shown.len().into());
    m.insert("leases".into(), shown.into());
    Ok(Response::data(m))
}
