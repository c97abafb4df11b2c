//! `sys/policies/acl/*`, `sys/policies/detailed/acl/*`, `sys/policy/*`.

use holdfast_policy::{Policy, Rule};
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Timestamp, Transaction, Value, parameters};

use super::System;
use crate::layout::{POLICIES, SYSTEM};
use crate::names;
use crate::policies::{self, StoredPolicy};
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// The policy in HCL or JSON, as it is or in base64.
        policy: Option<String>,
        /// When the policy ends (RFC 3339).
        expiration: Option<String>,
        /// How long the policy lives.
        ttl: Option<Seconds>,
        /// The version that must be there; 0 or -1: none.
        cas: Option<i64>,
        /// Writes must name the version that they replace.
        cas_required: Option<bool>,
        /// Values of templates may bring a slash into a path.
        allow_slashes_in_identity_templates: Option<bool>,
        /// Values of templates may bring * and + into a path.
        allow_wildcards_in_identity_templates: Option<bool>,
    }
}
parameters! {
    pub struct WriteOld {
        /// The policy in HCL or JSON, as it is or in base64.
        policy: Option<String>,
        /// The old name of policy.
        rules: Option<String>,
        /// When the policy ends (RFC 3339).
        expiration: Option<String>,
        /// How long the policy lives.
        ttl: Option<Seconds>,
        /// The version that must be there; 0 or -1: none.
        cas: Option<i64>,
        /// Writes must name the version that they replace.
        cas_required: Option<bool>,
        /// Values of templates may bring a slash into a path.
        allow_slashes_in_identity_templates: Option<bool>,
        /// Values of templates may bring * and + into a path.
        allow_wildcards_in_identity_templates: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("policies/acl", "List the policies.", |p| p.list(list))
        .path("policies/acl/{name...}", "Read, write and delete a policy.", |p| {
            p.read(read).list(list).update(write).patch(patch).delete(delete)
        })
        .path("policies/detailed/acl", "List the policies with their texts.", |p| p.list(list_detailed))
        .path("policies/detailed/acl/{name...}", "List the policies of a folder with their texts.", |p| {
            p.list(list_detailed)
        })
        .path("policy", "List the policies (old route).", |p| p.read(list_old).list(list_old))
        .path("policy/{name...}", "Read, write and delete a policy (old route).", |p| {
            p.read(read_old).list(list_old).update(write_old).delete(delete)
        })
}

const ROOT: &str = "root";
const HIDDEN: &str = "response-wrapping";

/// The policies of a folder with their texts, in the order of lists; those that have ended are not there.
fn living(sys: &System, tx: &mut Tx, call: &Call<'_>) -> Result<Vec<(String, StoredPolicy)>> {
    let folder = call.captures.get("name").unwrap_or_default().trim_matches('/').to_lowercase();
    let folder = if folder.is_empty() { folder } else { format!("{folder}/") };
    let now = sys.core()?.policy_time();
    let names = tx.within(SYSTEM, |tx| names::below(tx, POLICIES, &folder))?;
    let mut found = Vec::with_capacity(names.len() + 1);
    for name in names.into_iter().filter(|n| n != HIDDEN) {
        if let Some(policy) = policies::read(tx, &name)?.filter(|p| !p.has_ended(now)) {
            found.push((name, policy));
        }
    }
    Ok(found)
}

fn listed(sys: &System, tx: &mut Tx, call: &Call<'_>) -> Result<Vec<String>> {
    let mut names: Vec<String> = living(sys, tx, call)?.into_iter().map(|(name, _)| name).collect();
    if call.captures.get("name").unwrap_or_default().trim_matches('/').is_empty() && call.request.namespace.is_empty() {
        names.push(ROOT.into());
    }
    Ok(names)
}

fn list(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(listed(sys, tx, call)?)
}

fn list_old(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let names = listed(sys, tx, call)?;
    if names.is_empty() {
        return list(sys, tx, call, ());
    }
    let mut m = Map::new();
    m.insert("keys".into(), names.clone().into());
    m.insert("policies".into(), names.into());
    Ok(Response::both(m))
}

fn list_detailed(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let mut all = living(sys, tx, call)?;
    all.push((ROOT.into(), StoredPolicy::default()));
    let mut m = Map::new();
    m.insert("keys".into(), all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().into());
    let info = all.iter().map(|(name, policy)| (name.clone(), Value::Object(shown(name, policy, "policy"))));
    m.insert("key_info".into(), Value::Object(info.collect()));
    Ok(Response::data(m))
}

fn name_of(call: &Call<'_>) -> String {
    call.capture("name").trim_end_matches('/').to_lowercase()
}

/// The policy of the path, which must not have ended.
fn found(sys: &System, tx: &mut Tx, call: &Call<'_>) -> Result<(String, StoredPolicy)> {
    sys.core()?.metrics.policies_read.add(1);
    let name = name_of(call);
    if name.is_empty() {
        return Err(Error::UnsupportedOperation);
    }
    if name == ROOT {
        return Ok((name, StoredPolicy::default()));
    }
    let now = sys.core()?.policy_time();
    let policy = policies::read(tx, &name)?.filter(|p| !p.has_ended(now)).ok_or(Error::NotFound)?;
    Ok((name, policy))
}

fn shown(name: &str, p: &StoredPolicy, key: &str) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("name".into(), name.into());
    m.insert(key.into(), p.text.clone().into());
    m.insert("cas_required".into(), p.cas_required.into());
    m.insert("version".into(), p.cas.into());
    m.insert("allow_slashes_in_identity_templates".into(), p.allow_slashes.into());
    m.insert("allow_wildcards_in_identity_templates".into(), p.allow_wildcards.into());
    if name != ROOT {
        m.insert("modified".into(), Timestamp::from_secs(p.modified).rfc3339().into());
    }
    if let Some(end) = p.expires {
        m.insert("expiration".into(), Timestamp::from_secs(end).rfc3339().into());
    }
    m
}

fn read(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let (name, policy) = found(sys, tx, call)?;
    Ok(Response::data(shown(&name, &policy, "policy")))
}

fn read_old(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let (name, policy) = found(sys, tx, call)?;
    Ok(Response::both(shown(&name, &policy, "rules")))
}

fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = writable(call)?;
    if p.policy.as_deref().is_none_or(str::is_empty) {
        return Err(Error::bad_request("'policy' parameter not supplied or empty"));
    }
    // A policy that has ended counts as absent, but its versions go on: what named one stays refused.
    let before = policies::read(tx, &name)?;
    let required = p.cas_required.unwrap_or(false) || before.as_ref().is_some_and(|b| b.cas_required);
    if required && p.cas.is_none() {
        return Err(Error::bad_request("check-and-set parameter required for this call"));
    }
    // What is not named is taken away.
    let version = before.map_or(0, |b| b.cas);
    let warnings = changed(sys, tx, call, &name, StoredPolicy { cas: version, ..StoredPolicy::default() }, p)?;
    Ok(Response { warnings, ..Response::empty() })
}

fn write_old(sys: &System, tx: &mut Tx, call: &Call<'_>, p: WriteOld) -> Result<Response> {
    let old_name = p.policy.is_none() && p.rules.is_some();
    let p = Write {
        policy: p.policy.or(p.rules),
        expiration: p.expiration,
        ttl: p.ttl,
        cas: p.cas,
        cas_required: p.cas_required,
        allow_slashes_in_identity_templates: p.allow_slashes_in_identity_templates,
        allow_wildcards_in_identity_templates: p.allow_wildcards_in_identity_templates,
    };
    let response = write(sys, tx, call, p)?;
    Ok(if old_name { response.warn("'rules' is deprecated, please use 'policy' instead") } else { response })
}

fn patch(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = writable(call)?;
    if p.policy.as_deref().is_some_and(str::is_empty) {
        return Err(Error::bad_request("'policy' parameter not supplied or empty"));
    }
    let now = sys.core()?.policy_time();
    let before = policies::read(tx, &name)?.filter(|b| !b.has_ended(now));
    let before = before.ok_or_else(|| Error::bad_request("policy not found"))?;
    let warnings = changed(sys, tx, call, &name, before, p)?;
    Ok(Response { status: Some(200), warnings, ..Response::empty() })
}

fn writable(call: &Call<'_>) -> Result<String> {
    match name_of(call) {
        name if name.is_empty() => Err(Error::UnsupportedPath),
        name if name == ROOT || name == HIDDEN => Err(Error::bad_request(format!("cannot update {name:?} policy"))),
        name => Ok(name),
    }
}

/// Store a policy with what the request names changed. What the caller should know about it comes back.
fn changed(
    sys: &System,
    tx: &mut Tx,
    call: &Call<'_>,
    name: &str,
    mut policy: StoredPolicy,
    p: Write,
) -> Result<Vec<String>> {
    sys.core()?.metrics.policies_written.add(1);
    match (p.cas, policy.cas) {
        (None, _) | (Some(0 | -1), 0) => {}
        (Some(-1), _) => return Err(Error::bad_request("check-and-set parameter set to -1 on existing entry")),
        (Some(asked), version) if u64::try_from(asked) != Ok(version) => {
            return Err(Error::bad_request(format!(
                "check-and-set parameter {asked} did not match the current version {version}"
            )));
        }
        (Some(_), _) => {}
    }
    if let Some(text) = p.policy {
        policy.text = decoded(text);
    }
    let parsed = Policy::parse(name, &policy.text);
    let parsed = parsed.map_err(|e| Error::bad_request(format!("failed to parse policy: {e}")))?;
    if let Some(end) = end_of(p.expiration.as_deref(), p.ttl, sys.core()?.policy_time())? {
        policy.expires = Some(end);
    }
    policy.cas_required = p.cas_required.unwrap_or(policy.cas_required);
    policy.allow_slashes = p.allow_slashes_in_identity_templates.unwrap_or(policy.allow_slashes);
    policy.allow_wildcards = p.allow_wildcards_in_identity_templates.unwrap_or(policy.allow_wildcards);
    policy.cas += 1;
    policy.modified = call.now.secs();
    policies::write(tx, name, &policy)?;
    Ok(parsed.rules().iter().filter(|r| r.needs_approval()).map(refuses).collect())
}

fn refuses(rule: &Rule) -> String {
    format!(
        "path {:?} ({}) asks for control_group or mfa_methods, which this version cannot ask for: the rule refuses \
         every request, as deny does, until it is written without them",
        rule.path, rule.position
    )
}

/// When a policy ends, in Unix seconds.
fn end_of(expiration: Option<&str>, ttl: Option<Seconds>, now: Timestamp) -> Result<Option<u64>> {
    let end = match (expiration.filter(|t| !t.is_empty()), ttl) {
        (Some(_), Some(_)) => {
            return Err(Error::bad_request("cannot supply both 'expiration' and 'ttl' for policies"));
        }
        (Some(text), None) => {
            let time = Timestamp::parse_rfc3339(text);
            time.ok_or_else(|| Error::bad_request("expiration is no RFC 3339 time, as 2030-01-31T12:00:00Z"))?.secs()
        }
        (None, Some(Seconds(0)) | None) => return Ok(None),
        (None, Some(Seconds(s))) => {
            let ttl = u64::try_from(s)
                .map_err(|_| Error::bad_request(format!("field \"ttl\": cannot provide negative value '{s}'")))?;
            now.secs().saturating_add(ttl)
        }
    };
    if end <= now.secs() {
        return Err(Error::bad_request("refusing to update policy as expiration time has already elapsed"));
    }
    Ok(Some(end))
}

/// A policy may come in base64; blanks are a policy that grants nothing.
fn decoded(text: String) -> String {
    use base64::Engine;
    if text.trim().is_empty() {
        return text;
    }
    match base64::engine::general_purpose::STANDARD.decode(text.trim()).map(String::from_utf8) {
        Ok(Ok(plain)) => plain,
        _ => text,
    }
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    if matches!(name.as_str(), ROOT | "default" | HIDDEN) {
        return Err(Error::bad_request(format!("cannot delete {name:?} policy")));
    }
    tx.within(SYSTEM, |tx| tx.delete(Place::Name(POLICIES, &name)))?;
    Ok(Response::empty())
}
