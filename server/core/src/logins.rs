//! From a login to a token: second factors, the entity, the limits of the mount, the token itself.

use std::sync::Arc;

use holdfast_sdk::{Error, Login, LoginTokenType, Request, Response, Result, Timestamp, TokenType};

use crate::identity::{self, store as entities};
use crate::mfa::{self, Demand, Factors, SecondFactors, Waiting};
use crate::random::{self, uuid_text};
use crate::router::Mount;
use crate::tokens::{self, Issue, capped, lesser};
use crate::tx::Tx;
use crate::{Core, TtlLimits, namespaces, policies};

const NEEDS_MORE: &str = "A login request was issued that is subject to MFA validation. Please make sure to validate \
                          the login by sending another request to mfa/validate endpoint.";

/// Make the token of a login, and the answer of it. A login that needs a second factor and brings none gives nothing
/// yet: it is to wait once the answer is committed.
pub fn complete(
    tx: &mut Tx,
    mount: &Mount,
    system: TtlLimits,
    request: &Request,
    mut response: Response,
    factors: &SecondFactors,
    now: Timestamp,
) -> Result<(Response, Option<Waiting>)> {
    let Some(login) = response.login.take() else { return Ok((response, None)) };
    let (entity, demands) = demands(tx, mount, &login)?;
    if !demands.is_empty() {
        let given = mfa::of_headers(&request.presented.mfa);
        if given.is_empty() {
            let waiting = Waiting {
                id: random::uuid()?,
                namespace: tx.namespace(),
                mount: (mount.entry.uuid, mount.entry.moves),
                path: request.path.clone(),
                login: *login,
            };
            return Ok((needs_more(response, &waiting, &demands), Some(waiting)));
        }
        mfa::require(tx, &factors.attempts, &demands, entity, &given, now).map_err(|e| match e {
            Error::Status(403, _) => Error::PermissionDenied,
            other => other,
        })?;
    }
    Ok((issue(tx, mount, system, &request.path, *login, response, now)?, None))
}

/// Make the token of a login that waited, if the factors are right.
pub fn validate(core: &Arc<Core>, tx: &mut Tx, waiting: &Waiting, given: &Factors, now: Timestamp) -> Result<Response> {
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let index = core.store.view().index();
    let router = core.router_in(&open, waiting.namespace)?;
    let (uuid, moves) = waiting.mount;
    let found = router.mounts().find(|m| m.entry.uuid == uuid && m.entry.moves == moves);
    // Its logins end with a mount.
    let mount = found.ok_or(Error::PermissionDenied)?;
    tx.depend_on(mount.key.clone(), index);
    let (entity, demands) = demands(tx, mount, &waiting.login)?;
    mfa::require(tx, &open.second_factors.attempts, &demands, entity, given, now)?;
    let response = issue(tx, mount, core.options.limits, &waiting.path, waiting.login.clone(), Response::empty(), now)?;
    if response.auth.as_ref().is_some_and(|a| a.token_type == TokenType::Service && a.lease_secs > 0) {
        let namespace = namespaces::path_of(tx, waiting.namespace)?;
        core.allow_lease(&open, tx, (&namespace, &waiting.path), mount, &waiting.login.counted_as)?;
    }
    Ok(response)
}

/// What a login needs beside what it has shown, and whose it is. Nothing is made of it yet.
fn demands(tx: &mut Tx, mount: &Mount, login: &Login) -> Result<(Option<[u8; 16]>, Vec<Demand>)> {
    let enforcements = mfa::enforcements(tx)?;
    if enforcements.is_empty() {
        return Ok((None, Vec::new()));
    }
    let accessor = &mount.entry.accessor;
    let entity = match &login.alias {
        Some(alias) => entities::entity_by_factors(tx, accessor, &alias.name)?,
        None => None,
    };
    if entity.as_ref().is_some_and(|e| e.disabled) {
        return Err(Error::PermissionDenied);
    }
    let groups = identity::groups_at_login(tx, entity.as_ref(), accessor, login.group_aliases.as_deref())?;
    let entity = entity.map(|e| e.id);
    let demands = mfa::demanded(tx, enforcements, &mfa::Who { mount: &mount.entry, entity, groups: &groups })?;
    Ok((entity, demands))
}

/// The answer of a login that is to wait.
fn needs_more(response: Response, waiting: &Waiting, demands: &[Demand]) -> Response {
    let requirement = identity::map([
        ("mfa_request_id", uuid_text(&waiting.id).into()),
        ("mfa_constraints", mfa::constraints(demands).into()),
    ]);
    Response { mfa_requirement: Some(requirement), ..response }.warn(NEEDS_MORE)
}

fn issue(
    tx: &mut Tx,
    mount: &Mount,
    system: TtlLimits,
    path: &str,
    login: Login,
    mut response: Response,
    now: Timestamp,
) -> Result<Response> {
    let accessor = &mount.entry.accessor;
    let (mut entity_id, mut created) = (String::new(), false);
    if let Some(alias) = &login.alias {
        let entity = identity::entity_of_login(tx, accessor, &alias.name, &alias.metadata, now)?;
        if entity.disabled {
            return Err(Error::PermissionDenied);
        }
        if let Some(groups) = &login.group_aliases {
            identity::groups_of_login(tx, &entity, accessor, groups, now)?;
        }
        created = entity.created == now.0;
        entity_id = uuid_text(&entity.id);
    }
    let policies = policies_of(&login)?;
    let no_default_policy = login.no_default_policy;
    let batch = is_batch(&login, &mount.entry.token_type)?;
    let limits = mount.entry.limits(system);
    let ttl_secs = first_ttl(&login, limits, batch, &mut response.warnings);
    let issue = Issue {
        policies,
        path: path.to_owned(),
        display_name: display_name(&mount.entry.path, &login.display_name),
        num_uses: login.num_uses,
        ttl_secs,
        period_secs: if batch { 0 } else { login.period_secs },
        explicit_max_ttl_secs: if batch { 0 } else { login.explicit_max_ttl_secs },
        renewable: login.renewable,
        bound_cidrs: login.bound_cidrs,
        batch,
        entity_id,
        auth_mount: Some(mount.entry.uuid),
        mount_moves: mount.entry.moves,
        internal: login.internal,
        counted_as: login.counted_as,
        metadata: login.metadata,
        ..Issue::default()
    };
    let (token, entry) = tokens::issue(tx, issue, None, now)?;
    let auth = tokens::shown_auth(tx, &entry, token, ttl_secs)?;
    response.auth = Some(holdfast_sdk::Auth { entity_created: created, no_default_policy, ..auth });
    Ok(response)
}

/// Lower case, sorted, with the default one.
fn policies_of(login: &Login) -> Result<Vec<String>> {
    let mut list: Vec<String> =
        login.policies.iter().map(|p| p.trim().to_lowercase()).filter(|p| !p.is_empty()).collect();
    if !login.no_default_policy {
        list.push("default".into());
    }
    list.sort();
    list.dedup();
    if list.iter().any(|p| p == "root") {
        return Err(Error::bad_request("auth methods cannot create root tokens"));
    }
    match list.iter().find(|n| policies::NOT_ASSIGNABLE.contains(&n.as_str())) {
        Some(name) => Err(Error::bad_request(format!("cannot assign policy {name:?}"))),
        None => Ok(list),
    }
}

fn is_batch(login: &Login, mount: &str) -> Result<bool> {
    let batch = match (mount, login.token_type) {
        ("service", _) | ("" | "default-service", LoginTokenType::Default) => false,
        ("batch", _) | ("default-batch", LoginTokenType::Default) => true,
        (_, LoginTokenType::Batch) => true,
        (_, LoginTokenType::Service | LoginTokenType::Default) => false,
    };
    if batch && login.num_uses > 0 {
        return Err(Error::bad_request("a batch token cannot have a limited number of uses; this login asks for both"));
    }
    Ok(batch)
}

fn first_ttl(login: &Login, limits: TtlLimits, batch: bool, warnings: &mut Vec<String>) -> u64 {
    let explicit = if batch { 0 } else { login.explicit_max_ttl_secs };
    let max = lesser(lesser(limits.max_secs, login.max_ttl_secs), explicit);
    if login.period_secs > 0 && !batch {
        let max = lesser(limits.max_secs, explicit);
        if login.period_secs > max {
            warnings.push(capped("period", login.period_secs, max));
        }
        return login.period_secs.min(max);
    }
    let wanted = if login.ttl_secs > 0 { login.ttl_secs } else { limits.default_secs };
    // What is cut is told where somebody set it: not the mount's default by the mount's own or the method's maximum.
    if login.ttl_secs > max || (explicit > 0 && wanted > explicit) {
        warnings.push(capped("TTL", wanted, max));
    }
    wanted.min(max)
}

/// The mount's path, then what the method calls the caller.
fn display_name(mount: &str, name: &str) -> String {
    let mount = mount.trim_end_matches('/').replace('/', "-");
    if name.is_empty() { mount } else { format!("{mount}-{name}") }
}
