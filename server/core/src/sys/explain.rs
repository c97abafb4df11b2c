//! `sys/policies/explain`: why a request is or would be refused.
//!
//! The policies are asked as a request asks them. Of its own token a caller learns what these policies say and nothing
//! else: neither whether something is stored at the path nor, where it is refused, which mount there is. Of others'
//! tokens and of policies by name only who has `sudo` here is told.

use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::{Acl, Check, Denied, Explanation, NotApplied, Operation, ParameterValue, RuleOf, WhyNotApplied};
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Map, Operation as Asking, Response, Result, Routes, Value, parameters};

use super::System;
use super::capabilities::{Whose, union};
use crate::handle::is_of_root_alone;
use crate::layout::SYSTEM;
use crate::namespaces;
use crate::policies::{self, Compiled, system_time};
use crate::tokens;
use crate::tx::Tx;
use crate::{Core, Open};

parameters! {
    pub struct Asked {
        /// The path of the request, below the namespace.
        path: Option<String>,
        /// What it does: read, list, scan, create, update, patch, delete, or write (create or update).
        operation: Option<String>,
        /// Another word for operation.
        capability: Option<String>,
        /// The parameters of the request.
        parameters: Option<Map<String, Value>>,
        /// Another word for parameters.
        data: Option<Map<String, Value>>,
        /// For how long the request wants its answer wrapped.
        wrap_ttl: Option<Seconds>,
        /// The namespace of the path, below the one that this is sent to.
        namespace: Option<String>,
        /// The token that is asked about, by its accessor; without this the caller's own. Needs sudo.
        accessor: Option<String>,
        /// Policies that are asked about instead of a token. Needs sudo.
        policies: Option<Vec<String>>,
    }
}

/// Names of policies that are united for one question.
const POLICIES: usize = 256;
/// The longest path.
const PATH_BYTES: usize = 8192;
const ROUTE: &str = "sys/policies/explain";
/// Answered in every state, before there are tokens.
const BARE: &[&str] = &[
    "sys/health",
    "sys/init",
    "sys/leader",
    "sys/seal-status",
    "sys/unseal",
    "sys/unseal/custodians",
    "sys/unseal/custodians/sign",
];

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    // Whoever has a token may ask about it, whatever its policies say: they are what is asked about.
    routes.path("policies/explain", "Why a request is or would be refused.", |p| p.update(explain).unauthenticated())
}

/// Whose request it is, as far as policies know.
struct Asker {
    /// None: its entity is gone or disabled.
    union: Option<Arc<Compiled>>,
    /// The namespace that its policies are of.
    namespace: String,
    missing_policies: Vec<String>,
}

fn explain(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let asker = asker(sys, tx, call, &p)?;
    let operations = operations(&p)?;
    let path = path(&p)?;
    let namespace = match p.namespace.as_deref().map(|n| n.trim_matches('/')).filter(|n| !n.is_empty()) {
        Some(below) => format!("{}{below}/", call.request.namespace),
        None => call.request.namespace.clone(),
    };
    let asked = Question {
        core: &core,
        open: &open,
        namespace,
        path,
        parameters: p.parameters.as_ref().or(p.data.as_ref()),
        wrap_ttl: p.wrap_ttl.as_ref().map(|s| Duration::from_secs(u64::try_from(s.0).unwrap_or(0))),
    };
    let mut answers = operations.iter().map(|o| asked.answer(&asker, *o)).collect::<Result<Vec<_>>>()?;
    // Of two, the one that is refused says more.
    let refused = answers.iter().position(|a| a["allowed"] == false).unwrap_or(answers.len() - 1);
    let each: Map<String, Value> =
        operations.iter().zip(&answers).map(|(o, a)| (word(*o).to_owned(), a["allowed"].clone())).collect();
    let mut m = answers.swap_remove(refused);
    if operations.len() > 1 {
        m.insert("operations".into(), Value::Object(each));
    }
    Ok(Response::both(m))
}

fn asker(sys: &System, tx: &mut Tx, call: &Call<'_>, p: &Asked) -> Result<Asker> {
    let token = call.request.token.as_ref().ok_or(Error::PermissionDenied)?;
    let held = tokens::find_valid(tx, token.expose(), call.now)?
        .filter(|held| held.entry.admits(call.request.remote))
        .ok_or(Error::PermissionDenied)?;
    let own = Whose::of(held.namespace, &held.entry);
    let accessor = p.accessor.as_deref().filter(|a| !a.is_empty());
    let names = p.policies.as_deref().filter(|names| !names.is_empty());
    if accessor.is_none() && names.is_none() {
        return Asker::of(sys, tx, &own);
    }
    let now = system_time(sys.core()?.policy_time());
    let route = format!("{}{ROUTE}", call.request.namespace);
    let check = Check { root_protected: true, ..Check::new(Operation::Update, &route, now) };
    if !union(sys, tx, &own)?.is_some_and(|own| own.acl.check(&check).allowed) {
        return Err(Error::PermissionDenied);
    }
    match (accessor, names) {
        (Some(_), Some(_)) => Err(Error::bad_request("either accessor or policies may be given")),
        (Some(accessor), None) => {
            let invalid = || Error::bad_request("invalid accessor");
            let id = tokens::by_accessor(tx, accessor)?.ok_or_else(invalid)?;
            let entry = tokens::load_valid(tx, &id, call.now)?.ok_or_else(invalid)?;
            Asker::of(sys, tx, &Whose::of(id.namespace, &entry))
        }
        (None, names) => {
            let names: Vec<String> = names.unwrap_or_default().iter().map(|name| name.to_lowercase()).collect();
            if names.len() > POLICIES {
                return Err(Error::bad_request(format!("at most {POLICIES} policies may be given")));
            }
            Asker::of(sys, tx, &Whose { namespace: tx.namespace(), policies: &names, entity_id: "" })
        }
    }
}

impl Asker {
    fn of(sys: &System, tx: &mut Tx, whose: &Whose<'_>) -> Result<Asker> {
        let union = union(sys, tx, whose)?;
        let now = sys.core()?.policy_time();
        let mut missing_policies = Vec::new();
        let namespace = tx.within(SYSTEM.of(whose.namespace), |tx| {
            for name in whose.policies.iter().filter(|n| !policies::is_built_in(n)) {
                if policies::read(tx, name)?.is_none_or(|policy| policy.has_ended(now)) {
                    missing_policies.push(name.clone());
                }
            }
            namespaces::path_of(tx, whose.namespace)
        })?;
        Ok(Asker { union, namespace, missing_policies })
    }
}

/// One request that is asked about.
struct Question<'a> {
    core: &'a Arc<Core>,
    open: &'a Open,
    /// Of the path; with a slash at its end, or empty.
    namespace: String,
    path: &'a str,
    parameters: Option<&'a Map<String, Value>>,
    wrap_ttl: Option<Duration>,
}

/// What the answer says first.
struct Verdict {
    allowed: bool,
    reason: &'static str,
    explanation: String,
    needed: Option<&'static str>,
}

impl Question<'_> {
    fn answer(&self, asker: &Asker, operation: Operation) -> Result<Map<String, Value>> {
        let mut m = Map::new();
        m.insert("path".into(), self.path.into());
        m.insert("namespace".into(), self.namespace.clone().into());
        m.insert("operation".into(), word(operation).into());
        let full_path = format!("{}{}", self.namespace, self.path);
        let found = self.found(operation)?;
        let check = Check {
            parameters: self.parameters,
            wrap_ttl: self.wrap_ttl,
            root_protected: found.root_protected,
            ..Check::new(operation, &full_path, system_time(self.core.policy_time()))
        };
        let Some(union) = &asker.union else {
            let text = "the token's entity is gone or disabled: none of its tokens may do anything".to_owned();
            said(&mut m, Verdict { allowed: false, reason: "entity", explanation: text, needed: None });
            return Ok(m);
        };
        union.acl.explain(&check, |explanation| {
            let verdict = self.outside_policies(&found).unwrap_or_else(|| {
                let mut verdict = by_policies(&explanation, operation);
                if verdict.reason == "no_rule" {
                    verdict.explanation.push_str(&self.hint(asker, &union.acl, &check));
                }
                verdict
            });
            // Where the rule grants nothing it is not told: it would tell which mount there is.
            let tells_of_sudo = explanation.decision.allowed || verdict.reason == "sudo";
            m.insert("needs_sudo".into(), (found.root_protected && tells_of_sudo).into());
            if let (false, Some(capability)) = (verdict.allowed, verdict.needed) {
                let also = if verdict.reason == "sudo" { format!("{:?}, ", word(operation)) } else { String::new() };
                let path =
                    if operation.lists() { format!("{}/", self.path.trim_end_matches('/')) } else { self.path.into() };
                let text = format!("path {path:?} {{\n  capabilities = [{also}{capability:?}]\n}}\n");
                m.insert("needed_policy".into(), text.into());
            }
            said(&mut m, verdict);
            m.insert(
                "rule".into(),
                explanation.rule.as_ref().map_or(Value::Null, |rule| {
                    let p = rule.permissions;
                    let mut r = Map::new();
                    r.insert("path".into(), rule.expression.into());
                    r.insert("capabilities".into(), p.capabilities.names().into());
                    r.insert("policies".into(), rule.sources.iter().map(|source| shown(*source)).collect());
                    parameters_of(&mut r, "allowed_parameters", &p.allowed_parameters);
                    parameters_of(&mut r, "denied_parameters", &p.denied_parameters);
                    r.insert("required_parameters".into(), p.required_parameters.clone().into());
                    for (name, ttl) in
                        [("min_wrapping_ttl", p.min_wrapping_ttl), ("max_wrapping_ttl", p.max_wrapping_ttl)]
                    {
                        r.insert(name.into(), ttl.map_or(Value::Null, |ttl| ttl.as_secs().into()));
                    }
                    r.insert("pagination_limit".into(), p.pagination_limit.map_or(Value::Null, Value::from));
                    Value::Object(r)
                }),
            );
            m.insert("also_matching".into(), explanation.also_matching.clone().into());
            m.insert("not_applied".into(), explanation.not_applied.iter().map(not_applied).collect());
        });
        let names = union.acl.policies().iter().map(|policy| Value::from(&**policy.name())).collect();
        m.insert("policies".into(), names);
        m.insert("policies_namespace".into(), asker.namespace.clone().into());
        m.insert("missing_policies".into(), asker.missing_policies.clone().into());
        Ok(m)
    }

    /// What the route asks for by itself.
    fn found(&self, operation: Operation) -> Result<RouteFacts> {
        if self.namespace.is_empty() && BARE.contains(&self.path) {
            return Ok(RouteFacts { unauthenticated: true, ..RouteFacts::default() });
        }
        let Some(mut space) = self.core.space_at(self.open, &self.namespace)? else { return Ok(RouteFacts::default()) };
        // The path may lead through namespaces, whether or not a mount is at its end.
        let mut rest = self.path;
        while let Some((first, below)) = rest.split_once('/')
            && let Some(inner) = self.core.space_at(self.open, &format!("{}{first}/", space.path))?
        {
            (space, rest) = (inner, below);
        }
        let mut facts = RouteFacts { locked: space.locked.is_some(), ..RouteFacts::default() };
        let Some((mount, namespace)) = self.core.mount_at(self.open, &self.namespace, self.path)? else {
            return Ok(facts);
        };
        let full = format!("{}{}", self.namespace, self.path);
        let within = full.strip_prefix(&namespace).unwrap_or(&full);
        facts.of_root_alone = !namespace.is_empty() && is_of_root_alone(within);
        let below = within.strip_prefix(&mount.full_path).unwrap_or("");
        if let Some(found) = mount.handler.find(asking(operation), below) {
            facts.unauthenticated = found.unauthenticated;
            facts.root_protected = found.root_protected;
        }
        Ok(facts)
    }

    fn outside_policies(&self, found: &RouteFacts) -> Option<Verdict> {
        let verdict = |allowed, reason, text: &str| Verdict { allowed, reason, explanation: text.into(), needed: None };
        if found.locked {
            return Some(verdict(false, "namespace_locked", "the namespace is locked: no request is answered in it"));
        }
        if found.of_root_alone {
            return Some(verdict(false, "root_namespace_only", "only the root namespace has this path"));
        }
        found
            .unauthenticated
            .then(|| verdict(true, "no_token_needed", "the path needs no token: policies are not asked"))
    }

    /// What is likely meant where nothing matches.
    fn hint(&self, asker: &Asker, acl: &Acl, check: &Check<'_>) -> String {
        if !self.namespace.starts_with(&asker.namespace) {
            return format!(
                "; the policies are of the namespace {:?} and reach it and what is below it alone",
                asker.namespace
            );
        }
        let Some((mount, below)) = self.path.split_once('/') else { return String::new() };
        let folder = if check.operation.lists() { "metadata" } else { "data" };
        let path = format!("{mount}/{folder}/{below}");
        let full_path = format!("{}{path}", self.namespace);
        let would = acl.check(&Check { path: &full_path, root_protected: false, ..*check });
        match would.allowed {
            true => format!("; {path:?} would be allowed: kv version 2 has its secrets there"),
            false => String::new(),
        }
    }
}

/// What is known of a route beside policies.
#[derive(Default)]
struct RouteFacts {
    locked: bool,
    of_root_alone: bool,
    unauthenticated: bool,
    root_protected: bool,
}

fn by_policies(explanation: &Explanation<'_>, operation: Operation) -> Verdict {
    let decision = &explanation.decision;
    let Some(denied) = &decision.denied else {
        let (reason, text) = match decision.root {
            true => ("root", "the policy root allows everything".to_owned()),
            false => ("granted", format!("the rule grants {}", operation.capability().as_str())),
        };
        return Verdict { allowed: true, reason, explanation: text, needed: None };
    };
    let (reason, needed) = match denied {
        Denied::NoRule => ("no_rule", Some(operation.capability().as_str())),
        Denied::Explicitly => ("deny", None),
        Denied::Capability(capability) => ("capability", Some(capability.as_str())),
        Denied::Sudo => ("sudo", Some("sudo")),
        Denied::WrappingTtl => ("wrap_ttl", None),
        Denied::Required(_) => ("required_parameter", None),
        Denied::DeniedParameter(_) => ("denied_parameter", None),
        Denied::NotAllowed(_) => ("parameter_not_allowed", None),
        Denied::PaginationLimit(_) => ("pagination_limit", None),
        _ => ("refused", None),
    };
    Verdict { allowed: false, reason, explanation: denied.to_string(), needed }
}

fn said(m: &mut Map<String, Value>, verdict: Verdict) {
    m.insert("allowed".into(), verdict.allowed.into());
    m.insert("reason".into(), verdict.reason.into());
    m.insert("explanation".into(), verdict.explanation.into());
    m.insert("needed".into(), verdict.needed.map_or(Value::Null, Value::from));
}

fn shown(RuleOf { policy, rule }: RuleOf<'_>) -> Value {
    let mut m = Map::new();
    m.insert("name".into(), Value::from(&**policy.name()));
    m.insert("namespace".into(), policy.namespace().into());
    m.insert("path".into(), rule.path.clone().into());
    m.insert("line".into(), rule.position.line.into());
    Value::Object(m)
}

fn not_applied(one: &NotApplied<'_>) -> Value {
    let mut m = shown(one.rule);
    let why = match one.why {
        WhyNotApplied::NoTemplateValue => "a template in its path has no value for this token",
        WhyNotApplied::Expired => "it has ended",
    };
    m["why"] = why.into();
    m
}

fn parameters_of(m: &mut Map<String, Value>, name: &str, parameters: &holdfast_policy::Parameters) {
    let shown = parameters.iter().map(|(k, values)| (k.clone(), values.iter().map(ParameterValue::to_json).collect()));
    m.insert(name.into(), Value::Object(shown.collect()));
}

fn path(p: &Asked) -> Result<&str> {
    let given = p.path.as_deref().unwrap_or_default();
    let path = given.strip_prefix("/v1/").unwrap_or(given).trim_start_matches('/');
    match path.len() {
        0 => Err(Error::bad_request("missing path")),
        1..=PATH_BYTES => Ok(path),
        _ => Err(Error::bad_request(format!("the path is longer than {PATH_BYTES} bytes"))),
    }
}

/// Whether a write creates or updates the engine alone knows, and it is not asked: that would tell what there is.
fn operations(p: &Asked) -> Result<Vec<Operation>> {
    let given = p.operation.as_deref().or(p.capability.as_deref()).unwrap_or("read").to_lowercase();
    Ok(match given.as_str() {
        "read" | "get" => vec![Operation::Read],
        "list" => vec![Operation::List],
        "scan" => vec![Operation::Scan],
        "create" => vec![Operation::Create],
        "update" => vec![Operation::Update],
        "write" | "post" | "put" => vec![Operation::Create, Operation::Update],
        "patch" => vec![Operation::Patch],
        "delete" => vec![Operation::Delete],
        _ => {
            let known = "read, list, scan, create, update, write, patch, delete";
            return Err(Error::bad_request(format!("operation must be one of {known}")));
        }
    })
}

fn word(operation: Operation) -> &'static str {
    operation.capability().as_str()
}

fn asking(operation: Operation) -> Asking {
    match operation {
        Operation::Read => Asking::Read,
        // Routes know a write as an update.
        Operation::Create | Operation::Update => Asking::Update,
        Operation::Patch => Asking::Patch,
        Operation::Delete => Asking::Delete,
        Operation::List => Asking::List,
        Operation::Scan => Asking::Scan,
    }
}
