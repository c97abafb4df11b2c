//! `auth/token/create*`.

use holdfast_sdk::parameters::{Names, Seconds, StringMap};
use holdfast_sdk::{Call, Error, Place, Response, Result, Timestamp, TokenType, Transaction, parameters};

use super::policies_of::{Asked, policies_of};
use super::roles::{self, Role, matches};
use super::routes::{capped, shown_auth};
use super::{Issue, TokenBackend, TokenEntry, batch, load};
use crate::layout::{ROLES, ROOT, TOKENS};
use crate::tx::Tx;
use crate::{cubbyhole, identity, random};

parameters! {
    pub struct Create {
        /// A token id of the caller's choice; needs sudo.
        id: Option<String>,
        /// Policies of the token; the caller's where none are named.
        policies: Option<Names>,
        /// Shown in the audit log and stored with the token.
        meta: Option<StringMap>,
        /// The token has no parent; needs sudo.
        no_parent: Option<bool>,
        /// Leave out the default policy.
        no_default_policy: Option<bool>,
        /// Whether the token can be renewed.
        renewable: Option<bool>,
        /// How long the token lives.
        ttl: Option<Seconds>,
        /// The old name of ttl.
        lease: Option<Seconds>,
        /// A hard end, counted from the issue.
        explicit_max_ttl: Option<Seconds>,
        /// The token is periodic: each renewal gives this long; needs sudo.
        period: Option<Seconds>,
        /// The name in the audit log.
        display_name: Option<String>,
        /// How often the token may be used; 0 is no limit.
        num_uses: Option<i64>,
        /// service or batch.
        r#type: Option<String>,
        /// An entity alias; with a role only.
        entity_alias: Option<String>,
    }
}

pub fn create(backend: &TokenBackend, tx: &mut Tx, call: &Call<'_>, p: Create) -> Result<Response> {
    let orphan = p.no_parent.unwrap_or(false);
    if orphan && !call.caller.sudo && call.caller.token_id.is_some() {
        return Err(Error::bad_request("root or sudo privileges required to create orphan token"));
    }
    created(backend, tx, call, p, orphan, None)
}

pub fn create_orphan(backend: &TokenBackend, tx: &mut Tx, call: &Call<'_>, p: Create) -> Result<Response> {
    created(backend, tx, call, p, true, None)
}

pub fn create_by_role(backend: &TokenBackend, tx: &mut Tx, call: &Call<'_>, p: Create) -> Result<Response> {
    let name = call.capture("role_name");
    if !holdfast_sdk::names::is_plain(name) {
        return Err(Error::UnsupportedPath);
    }
    let role = roles::load(tx, name)?.ok_or_else(|| Error::bad_request(format!("unknown role {name}")))?;
    let response = created(backend, tx, call, p, role.orphan, Some((name, &role)))?;
    tx.within(TOKENS, |tx| tx.note_use(&format!("roles/{name}"), Place::Name(ROLES, name)));
    Ok(response)
}

/// Durations in seconds; 0 is none.
#[derive(Clone, Copy)]
struct Times {
    ttl: u64,
    period: u64,
    explicit_max: u64,
}

impl Times {
    fn of(p: &Create) -> Result<Times> {
        let seconds = |name: &str, value: Option<Seconds>| match value {
            Some(Seconds(s)) => u64::try_from(s).map_err(|_| Error::bad_request(format!("{name} must be positive"))),
            None => Ok(0),
        };
        let explicit_max = seconds("explicit_max_ttl", p.explicit_max_ttl)?;
        let period = seconds("period", p.period)?;
        let ttl = seconds("ttl", p.ttl)?;
        let ttl = if ttl == 0 { seconds("lease", p.lease)? } else { ttl };
        Ok(Times { ttl, period, explicit_max })
    }

    /// Below what a role sets.
    fn below(&self, role: &Role, warnings: &mut Vec<String>) -> Times {
        let mut less = |asked: u64, limit: u64, what: &str| {
            let less = lesser(asked, limit);
            if asked > 0 && limit > 0 {
                warnings.push(format!(
                    "{what} specified both during creation call and in role; using the lesser value of {less} seconds"
                ));
            }
            less
        };
        Times {
            ttl: self.ttl,
            explicit_max: less(self.explicit_max, role.explicit_max_ttl_secs, "Explicit max TTL"),
            period: less(self.period, role.period_secs, "Period"),
        }
    }
}

/// The lesser of two durations; 0 is none.
pub fn lesser(a: u64, b: u64) -> u64 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

fn created(
    backend: &TokenBackend,
    tx: &mut Tx,
    call: &Call<'_>,
    p: Create,
    orphan: bool,
    role: Option<(&str, &Role)>,
) -> Result<Response> {
    // A caller without a stored token has a batch token.
    let parent_id = call.caller.token_id.ok_or_else(|| Error::bad_request("batch tokens cannot create more tokens"))?;
    let parent =
        load(tx, &parent_id)?.ok_or_else(|| Error::bad_request("parent token lookup failed: no parent found"))?;
    if parent.num_uses > 0 {
        return Err(Error::bad_request("restricted use token cannot generate child tokens"));
    }
    let foreign = parent_id.namespace != tx.namespace();
    if foreign && !call.caller.sudo {
        return Err(Error::bad_request(
            "root or sudo privileges required to directly generate a token in a child namespace",
        ));
    }
    let (role_name, role) = role.unzip();
    let token_type = type_of(&p, role)?;
    let alias = alias_of(&p, role)?;
    let num_uses = p.num_uses.unwrap_or(0);
    if num_uses < 0 {
        return Err(Error::bad_request("number of uses cannot be negative"));
    }
    let times = Times::of(&p)?;
    let sudo = call.caller.sudo;
    if times.period > 0 && !sudo {
        return Err(Error::bad_request("root or sudo privileges required to create periodic token"));
    }
    let is_batch = token_type == TokenType::Batch;
    if is_batch {
        let asked =
            [("period", times.period > 0), ("explicit_max_ttl", times.explicit_max > 0), ("num_uses", num_uses > 0)];
        if let Some((name, _)) = asked.iter().find(|(_, given)| *given) {
            return Err(Error::bad_request(format!("batch tokens cannot have {name:?} set")));
        }
    }
    let mut warnings = Vec::new();
    // The token keeps what its creator asked for; what the role says is asked again at each renewal.
    let limited = match role.filter(|_| !is_batch) {
        Some(role) => times.below(role, &mut warnings),
        None => times,
    };
    let num_uses = match role.map_or(0, |r| r.num_uses) {
        0 => num_uses,
        limit if num_uses == 0 => limit,
        limit => limit.min(num_uses),
    };
    let asked = Asked {
        named: p.policies.map(|n| n.0).filter(|n| !n.is_empty()),
        no_default: p.no_default_policy.unwrap_or(false),
        role,
    };
    let mut about_policies = Vec::new();
    let policies = policies_of(tx, call, &parent, asked, &mut about_policies)?;
    let root = policies.iter().any(|p| p == "root");
    if root && foreign {
        return Err(Error::bad_request("root tokens may not be created from a parent namespace"));
    }
    if root && is_batch {
        return Err(Error::bad_request("batch tokens cannot be root tokens"));
    }
    let for_ever = root && limited.ttl == 0 && limited.period == 0;
    if for_ever && parent.expires.is_some() {
        return Err(Error::bad_request("expiring root tokens cannot create non-expiring root tokens"));
    }
    // A root token that nobody gave a TTL lives for ever, or to its hard end.
    let ttl = if for_ever { limited.explicit_max } else { backend.first_ttl(&limited, &mut warnings) };
    let own_id = own_id(p.id, sudo, is_batch, &mut warnings)?;
    if own_id.is_some() && tx.namespace() != ROOT {
        return Err(Error::bad_request("token IDs can only be manually specified in the root namespace"));
    }
    warnings.append(&mut about_policies);
    let suffix = role.map_or("", |r| r.path_suffix.as_str());
    let slash = if suffix.is_empty() { "" } else { "/" };
    let issue = Issue {
        policies,
        path: format!("{}{}{slash}{suffix}", call.mount_point, call.path),
        metadata: p.meta.unwrap_or_default().0,
        display_name: display_name(p.display_name.as_deref()),
        num_uses,
        ttl_secs: ttl,
        period_secs: times.period,
        explicit_max_ttl_secs: times.explicit_max,
        renewable: p.renewable.unwrap_or(true) && !role.is_some_and(|r| r.not_renewable),
        parent: (!orphan).then_some(parent_id),
        role: role_name.unwrap_or_default().to_owned(),
        bound_cidrs: role.map(|r| r.bound_cidrs.clone()).unwrap_or_default(),
        batch: is_batch,
        entity_id: match alias {
            Some(name) => entity_of(tx, call, &name)?,
            // An entity of another namespace is nobody here.
            None if orphan || foreign => String::new(),
            None => parent.entity_id,
        },
        ..Issue::default()
    };
    let (token, entry) = self::issue(tx, issue, own_id, call.now)?;
    Ok(Response { auth: Some(shown_auth(tx, &entry, token, ttl)?), warnings, ..Response::default() })
}

/// The entity that the token store knows by an alias, made if it is new.
fn entity_of(tx: &mut Tx, call: &Call<'_>, alias: &str) -> Result<String> {
    let entity = identity::entity_of_login(tx, call.mount_accessor, alias, &[], call.now)?;
    if entity.disabled {
        return Err(Error::PermissionDenied);
    }
    Ok(random::uuid_text(&entity.id))
}

/// A new token with its entry, stored if it is one that is.
pub fn issue(tx: &mut Tx, issue: Issue, own_id: Option<String>, now: Timestamp) -> Result<(String, TokenEntry)> {
    if issue.batch {
        let entry = TokenEntry::new(issue, String::new(), now);
        return Ok((batch::issue(tx, &entry)?, entry));
    }
    let token = match own_id {
        Some(id) => id,
        None => super::new_service_id(tx)?,
    };
    let taken = || Error::bad_request("cannot create a token with a duplicate ID");
    let id = super::id_of(tx, &token)?.ok_or_else(taken)?;
    if load(tx, &id)?.is_some() {
        return Err(taken());
    }
    if !cubbyhole::is_empty(tx, &id)? {
        // Only an id of the caller's choice can come back before the job that cleans up is done.
        return Err(Error::bad_request(
            "what an earlier token with this ID kept is still being deleted: try again in a moment",
        ));
    }
    let mut entry = TokenEntry::new(issue, super::new_accessor(tx)?, now);
    super::store(tx, &token, &mut entry)?;
    Ok((token, entry))
}

fn type_of(p: &Create, role: Option<&Role>) -> Result<TokenType> {
    let asked = match p.r#type.as_deref() {
        None | Some("") => None,
        Some("service") => Some(TokenType::Service),
        Some("batch") => Some(TokenType::Batch),
        Some(other) => {
            return Err(Error::bad_request(format!("invalid 'token_type' value {other:?}: it is service or batch")));
        }
    };
    Ok(match role {
        Some(role) => role.token_type.of(asked),
        None => asked.unwrap_or(TokenType::Service),
    })
}

/// The entity alias that the token is for, as it was given.
fn alias_of(p: &Create, role: Option<&Role>) -> Result<Option<String>> {
    let Some(given) = p.entity_alias.clone().filter(|a| !a.is_empty()) else { return Ok(None) };
    let Some(role) = role else {
        return Err(Error::bad_request("'entity_alias' is only allowed in combination with token role"));
    };
    let alias = given.to_lowercase();
    if !role.allowed_entity_aliases.iter().flatten().any(|a| matches(a, &alias)) {
        return Err(Error::bad_request("invalid 'entity_alias' value"));
    }
    Ok(Some(given))
}

/// The id that the caller chose.
fn own_id(id: Option<String>, sudo: bool, batch: bool, warnings: &mut Vec<String>) -> Result<Option<String>> {
    let Some(id) = id.filter(|i| !i.is_empty()) else { return Ok(None) };
    if !sudo {
        return Err(Error::bad_request("root or sudo privileges required to specify token id"));
    }
    if id.contains('.') {
        return Err(Error::bad_request("custom token ID cannot contain the '.' character"));
    }
    if id.starts_with("hvs") || id.chars().any(char::is_whitespace) {
        return Err(Error::bad_request("custom token ID must not start with 'hvs' and must not contain white space"));
    }
    if batch {
        warnings.push("A batch token holds its entry itself: the custom ID is not used.".into());
        return Ok(None);
    }
    warnings.push(
        "A custom ID for the token is only as hard to guess as it was chosen; leave it out for a random one.".into(),
    );
    Ok(Some(id))
}

fn display_name(given: Option<&str>) -> String {
    match given.filter(|n| !n.is_empty()) {
        Some(n) => display_part(&format!("token-{n}")),
        None => "token".to_owned(),
    }
}

/// Letters, digits and dashes of a display name, as it is stored.
fn display_part(name: &str) -> String {
    let cleaned: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    cleaned.strip_suffix('-').map_or(cleaned.clone(), str::to_owned)
}

impl TokenBackend {
    fn first_ttl(&self, times: &Times, warnings: &mut Vec<String>) -> u64 {
        let limit = |max: u64| if times.explicit_max > 0 { max.min(times.explicit_max) } else { max };
        let max = limit(self.limits.max_secs);
        if times.period > 0 {
            if times.period > max {
                warnings.push(capped("period", times.period, max));
            }
            return times.period.min(max);
        }
        if times.explicit_max > self.limits.max_secs {
            warnings.push(format!(
                "Explicit max TTL specified during token creation of {} exceeds the maximum of {}; it is capped to it",
                holdfast_sdk::duration::short_text(times.explicit_max),
                holdfast_sdk::duration::short_text(self.limits.max_secs)
            ));
        }
        let wanted = if times.ttl > 0 { times.ttl } else { self.limits.default_secs };
        if wanted > max {
            warnings.push(capped("TTL", wanted, max));
        }
        wanted.min(max)
    }
}
