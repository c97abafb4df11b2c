//! One question to an [`Acl`](crate::Acl), and its answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::parameter::value_is_among;
use crate::{Capabilities, Capability, Operation, Permissions, ResponseFilter};

/// What a request wants.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// What it wants to do.
    pub operation: Operation,
    /// At which path, with that of its namespace before it.
    pub path: &'a str,
    /// Its parameters: those of the body, or of the query for a read or list.
    pub parameters: Option<&'a Map<String, Value>>,
    /// The wrapping TTL that it asks for; `None`: it asks for no wrapping.
    pub wrap_ttl: Option<Duration>,
    /// Whether the path needs `sudo` as well.
    pub root_protected: bool,
    /// The time by which rules that end are judged.
    pub now: SystemTime,
}

impl<'a> Check<'a> {
    /// A request without parameters and wrapping for an ordinary path.
    pub fn new(operation: Operation, path: &'a str, now: SystemTime) -> Check<'a> {
        Check { operation, path, parameters: None, wrap_ttl: None, root_protected: false, now }
    }
}

/// Whether a request may be carried out, and what binds its answer.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// Whether it may because a policy is `root`.
    pub root: bool,
    /// Whether the caller has `sudo` at the path, or is root.
    pub sudo: bool,
    /// All that the caller may do at the path; empty for root.
    pub capabilities: Capabilities,
    /// The names of the policies that grant the operation, for the audit.
    pub granting_policies: Arc<[Arc<str>]>,
    /// The limit to list with, where a rule has one: what the request asked
    /// for, or else the rule's limit.
    pub pagination_limit: Option<u64>,
    /// Which keys of the listing are shown; see
    /// [`Acl::shows`](crate::Acl::shows).
    pub response_filter: Option<Arc<ResponseFilter>>,
    /// Why it may not. For the log and the operator, never for the caller.
    pub denied: Option<Denied>,
}

/// Why a request may not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// No rule matches the path.
    #[error("no rule matches the path")]
    NoRule,
    /// The rule that counts denies.
    #[error("the rule that counts denies")]
    Explicitly,
    /// The rule that counts does not grant what the operation needs.
    #[error("the rule that counts does not grant {}", .0.as_str())]
    Capability(Capability),
    /// The path needs `sudo`.
    #[error("the path needs sudo")]
    Sudo,
    /// The rule wants the answer wrapped, or wrapped for another time.
    #[error("the rule wants another wrapping TTL")]
    WrappingTtl,
    /// A required parameter is missing.
    #[error("the parameter {0:?} is required")]
    Required(String),
    /// A parameter, or its value, is denied.
    #[error("the parameter {0:?}, or its value, is denied")]
    DeniedParameter(String),
    /// A parameter, or its value, is not among those allowed.
    #[error("the parameter {0:?}, or its value, is not allowed")]
    NotAllowed(String),
    /// The limit asked for is over the rule's, or no limit.
    #[error("the limit asked for is not one up to {0}")]
    PaginationLimit(u64),
}

impl Decision {
    pub(crate) fn root(granting: Arc<[Arc<str>]>) -> Decision {
        Decision {
            allowed: true,
            root: true,
            sudo: true,
            capabilities: Capabilities::NONE,
            granting_policies: granting,
            pagination_limit: None,
            response_filter: None,
            denied: None,
        }
    }

    /// The decision by the rule that counts.
    pub(crate) fn by(permissions: Option<&Permissions>, check: &Check<'_>) -> Decision {
        let capabilities = permissions.map_or(Capabilities::NONE, |p| p.capabilities);
        let mut decision = Decision {
            allowed: false,
            root: false,
            sudo: capabilities.contains(Capability::Sudo),
            capabilities,
            granting_policies: Arc::default(),
            pagination_limit: None,
            response_filter: None,
            denied: None,
        };
        let judged =
            permissions.ok_or(Denied::NoRule).and_then(|permissions| Ok((permissions, judge(permissions, check)?)));
        match judged {
            Ok((permissions, limit)) => {
                decision.allowed = true;
                decision.pagination_limit = limit;
                decision.granting_policies = permissions.granting_policies(check.operation.capability()).clone();
                if check.operation.lists() {
                    decision.response_filter.clone_from(&permissions.response_filter);
                }
            }
            Err(denied) => decision.denied = Some(denied),
        }
        decision
    }
}

/// Judges a request; the limit for its list if there is one.
fn judge(permissions: &Permissions, check: &Check<'_>) -> Result<Option<u64>, Denied> {
    let capabilities = permissions.capabilities;
    if capabilities.contains(Capability::Deny) {
        return Err(Denied::Explicitly);
    }
    let needed = check.operation.capability();
    if !capabilities.contains(needed) {
        return Err(Denied::Capability(needed));
    }
    if check.root_protected && !capabilities.contains(Capability::Sudo) {
        return Err(Denied::Sudo);
    }
    judge_wrapping(permissions, check.wrap_ttl)?;
    if check.operation.has_parameters() {
        judge_parameters(permissions, check.parameters)?;
    }
    match permissions.pagination_limit {
        Some(limit) if check.operation.lists() => judge_limit(limit, check.parameters).map(Some),
        _ => Ok(None),
    }
}

/// With a rule for the wrapping TTL a request must ask for wrapping. United
/// rules may leave no TTL that fits.
fn judge_wrapping(permissions: &Permissions, asked: Option<Duration>) -> Result<(), Denied> {
    let fits = match (permissions.min_wrapping_ttl, permissions.max_wrapping_ttl) {
        (None, None) => true,
        (min, max) => {
            asked.is_some_and(|asked| min.is_none_or(|min| asked >= min) && max.is_none_or(|max| asked <= max))
        }
    };
    if fits { Ok(()) } else { Err(Denied::WrappingTtl) }
}

fn judge_parameters(permissions: &Permissions, parameters: Option<&Map<String, Value>>) -> Result<(), Denied> {
    for name in &permissions.required_parameters {
        if !parameters.is_some_and(|parameters| parameters.contains_key(name)) {
            return Err(Denied::Required(name.clone()));
        }
    }
    let allowed = &permissions.allowed_parameters;
    let denied = &permissions.denied_parameters;
    if allowed.is_empty() && denied.is_empty() {
        return Ok(());
    }
    let any_other_is_allowed = allowed.is_empty() || allowed.contains_key("*");
    for (name, value) in parameters.into_iter().flatten() {
        let lowered = name.to_lowercase();
        if denied.contains_key("*") || is_denied(value, denied.get(&lowered)) {
            return Err(Denied::DeniedParameter(name.clone()));
        }
        let fits = match allowed.get(&lowered) {
            // What stands under "*" is for any name, so not for a parameter
            // that is really called so.
            Some(_) if lowered == "*" => any_other_is_allowed,
            Some(named) => value_is_among(value, named),
            None => any_other_is_allowed,
        };
        if !fits {
            return Err(Denied::NotAllowed(name.clone()));
        }
    }
    Ok(())
}

fn is_denied(value: &Value, named: Option<&Vec<crate::ParameterValue>>) -> bool {
    named.is_some_and(|named| value_is_among(value, named))
}

/// The limit to list with: what is asked, if it is one up to the rule's; the
/// rule's if none is asked.
fn judge_limit(limit: u64, parameters: Option<&Map<String, Value>>) -> Result<u64, Denied> {
    let asked = match parameters.and_then(|parameters| parameters.get("limit")) {
        None | Some(Value::Null) => return Ok(limit),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) if text.is_empty() => return Ok(limit),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    match asked {
        Some(0) => Ok(limit),
        Some(asked) if asked <= limit => Ok(asked),
        _ => Err(Denied::PaginationLimit(limit)),
    }
}
