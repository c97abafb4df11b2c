//! From a login to a token: the entity, the limits of the mount, the token itself.

use holdfast_sdk::{Error, Login, LoginTokenType, Response, Result, Timestamp};

use crate::identity;
use crate::random::uuid_text;
use crate::router::Mount;
use crate::tokens::{self, Issue, capped, lesser};
use crate::tx::Tx;
use crate::{TtlLimits, policies};

/// Make the token of a login, and the answer of it.
pub fn complete(
    tx: &mut Tx,
    mount: &Mount,
    system: TtlLimits,
    path: &str,
    mut response: Response,
    now: Timestamp,
) -> Result<Response> {
    let Some(login) = response.login.take() else { return Ok(response) };
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
        entity_id = uuid_text(&entity.id);
        created = entity.created == now.0;
    }
    let policies = policies_of(&login)?;
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
        metadata: login.metadata,
        ..Issue::default()
    };
    let (token, entry) = tokens::issue(tx, issue, None, now)?;
    let auth = tokens::shown_auth(tx, &entry, token, ttl_secs)?;
    response.auth = Some(holdfast_sdk::Auth { entity_created: created, ..auth });
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
