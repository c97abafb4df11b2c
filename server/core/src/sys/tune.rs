//! `sys/mounts/PATH/tune`, `sys/auth/PATH/tune`: settings of a mount that can be changed.

use holdfast_sdk::parameters::{Lenient, Seconds, StringMap};
use holdfast_sdk::{Call, Error, Map, Response, Result, Value, parameters};

use super::System;
use crate::router::{self, Lockout, MountEntry};
use crate::tx::Tx;
use crate::{Core, TtlLimits, jobs, managed_keys, moves};

/// Auth methods that know users who can be locked out.
const WITH_USERS: &[&str] = &["userpass", "ldap", "approle"];

parameters! {
    pub struct Tuning {
        /// The TTL of leases that ask for none.
        default_lease_ttl: Option<Value>,
        /// The longest TTL.
        max_lease_ttl: Option<Value>,
        /// What people read in the list.
        description: Option<String>,
        /// Request keys that the audit log shows as they are.
        audit_non_hmac_request_keys: Option<Vec<String>>,
        /// Answer keys that the audit log shows as they are.
        audit_non_hmac_response_keys: Option<Vec<String>>,
        /// Whether the mount is shown without a token: unauth or hidden.
        listing_visibility: Option<String>,
        /// Request headers that the engine sees.
        passthrough_request_headers: Option<Vec<String>>,
        /// Headers that the engine may set.
        allowed_response_headers: Option<Vec<String>>,
        /// Names of managed keys (sys/managed-keys) that the mount may use.
        allowed_managed_keys: Option<Vec<String>>,
        /// Options of the engine; an empty value takes one away.
        options: Option<StringMap>,
        /// The kind of tokens that an auth method gives: service, batch, default-service or default-batch.
        token_type: Option<String>,
        /// When users are locked out: lockout_threshold, lockout_duration, lockout_counter_reset_duration, lockout_disable.
        user_lockout_config: Option<Map<String, Value>>,
        /// Accepted where it is empty; every engine is part of the program.
        plugin_version: Option<String>,
        /// Only when the mount is made.
        force_no_cache: Option<bool>,
    }
}

pub fn read_secret(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    read(sys, tx, call.capture("path"), false)
}

pub fn read_auth(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    read(sys, tx, call.capture("path"), true)
}

pub fn secret(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Tuning) -> Result<Response> {
    change(sys, tx, call, p, false)
}

pub fn auth(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Tuning) -> Result<Response> {
    change(sys, tx, call, p, true)
}

/// The mount of a path below `sys/mounts` or `sys/auth`; the former reaches auth methods too, under `auth/`.
fn find(tx: &mut Tx, path: &str, auth: bool) -> Result<(String, Option<MountEntry>)> {
    let path = router::mount_path(path)?;
    let full = if auth { format!("auth/{path}") } else { path };
    let found = router::load(tx)?.into_iter().find(|e| e.full_path() == full);
    Ok((full, found))
}

fn read(sys: &System, tx: &mut Tx, path: &str, auth: bool) -> Result<Response> {
    let (path, found) = find(tx, path, auth)?;
    let e = found.ok_or_else(|| Error::bad_request(format!("no mount at {path:?}")))?;
    let limits = e.limits(sys.core()?.options.limits);
    let mut m = Map::new();
    m.insert("default_lease_ttl".into(), limits.default_secs.into());
    m.insert("max_lease_ttl".into(), limits.max_secs.into());
    m.insert("description".into(), e.description.clone().into());
    m.insert("force_no_cache".into(), e.force_no_cache.into());
    if !e.options.is_empty() {
        m.insert("options".into(), router::options_value(&e));
    }
    m.extend(router::shown_tuning(&e));
    if let Some(lockout) = &e.lockout {
        m.extend(router::shown_lockout(lockout));
    }
    Ok(Response::both(m))
}

fn change(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Tuning, auth: bool) -> Result<Response> {
    let (path, found) = find(tx, call.capture("path"), auth)?;
    let mut entry =
        found.ok_or_else(|| Error::bad_request(format!("tune of path {path:?} failed: no mount entry found")))?;
    moves::refuse_while_under_way(&entry)?;
    p.fits(&entry)?;
    let core = sys.core()?;
    p.is_known_to_all(&core)?;
    p.apply(core.options.limits, &mut entry)?;
    let mut response = Response::empty();
    if let Some(options) = &p.options
        && change_options(&mut entry, options)?
    {
        let factory = core.options.engines.factory(entry.auth, &entry.kind);
        let factory = factory.ok_or_else(|| Error::internal(format!("no engine of type {:?}", entry.kind)))?;
        let backend = factory(&core.with_effective_limits(&entry)).map_err(Error::bad_request)?;
        if tx.within(tx.mount(entry.uuid), |tx| backend.take_over(tx, call.now))? {
            jobs::add(tx, jobs::Kind::UpgradeMount { mount: entry.uuid, path: path.clone(), cursor: Vec::new() })?;
        }
        response = response.warn(
            "Upgrading mount from version 1 to version 2. The mount answers as version 2 from now on, \
             while what is stored is upgraded in the background (see sys/jobs).",
        );
    }
    router::save(tx, &entry)?;
    Ok(response)
}

/// Take new options over. True: the engine has to be made anew with them.
fn change_options(entry: &mut MountEntry, options: &StringMap) -> Result<bool> {
    let mut anew = false;
    for (name, value) in &options.0 {
        if name == "version" && entry.kind == "kv" {
            anew |= check_version(entry, value)?;
        }
        entry.options.retain(|(n, _)| n != name);
        if !value.is_empty() {
            entry.options.push((name.clone(), value.clone()));
        }
    }
    Ok(anew)
}

/// A kv mount goes from version 1 to 2 and never back. True: it does.
fn check_version(entry: &MountEntry, wanted: &str) -> Result<bool> {
    let number = |text: &str| text.parse::<u32>().ok();
    let unreadable = || Error::bad_request(format!("unable to parse options: the version {wanted:?} is no number"));
    let now = entry.option("version").and_then(number).unwrap_or(1);
    match number(wanted) {
        None if wanted.is_empty() => Err(Error::bad_request("invalid version provided: it is empty")),
        None => Err(unreadable()),
        Some(v) if v == now => Ok(false),
        Some(2) => Ok(true),
        Some(1) => Err(Error::bad_request(format!("cannot downgrade mount from version {now}"))),
        Some(v) => Err(Error::bad_request(format!("invalid version provided: {v}"))),
    }
}

impl Tuning {
    /// The `config` of a mount that is being made.
    pub fn of_new_mount(&self, core: &Core, entry: &mut MountEntry) -> Result<()> {
        self.is_of_the_program(entry)?;
        self.is_known_to_all(core)?;
        self.apply(core.options.limits, entry)?;
        entry.force_no_cache = self.force_no_cache.unwrap_or(false);
        Ok(())
    }

    /// Refuse what a member's earlier program would drop when it writes the mount.
    fn is_known_to_all(&self, core: &Core) -> Result<()> {
        match self.allowed_managed_keys.as_ref().is_some_and(|keys| !keys.is_empty()) {
            true => managed_keys::are_known_to_all(core),
            false => Ok(()),
        }
    }

    /// Refuse what this kind of mount does not have.
    fn fits(&self, entry: &MountEntry) -> Result<()> {
        if entry.is_built_in() && !entry.auth {
            let fixed = [
                ("default_lease_ttl", self.default_lease_ttl.is_some()),
                ("max_lease_ttl", self.max_lease_ttl.is_some()),
                ("description", self.description.is_some()),
                ("listing_visibility", self.listing_visibility.is_some()),
                ("options", self.options.is_some()),
            ];
            if let Some((name, _)) = fixed.iter().find(|(_, given)| *given) {
                return Err(Error::bad_request(format!("cannot tune parameter {name} of {}", entry.full_path())));
            }
        }
        if self.token_type.is_some() && !entry.auth {
            return Err(Error::bad_request("'token_type' can only be modified on auth mounts"));
        }
        if self.token_type.is_some() && entry.is_built_in() {
            return Err(Error::bad_request("'token_type' cannot be set for 'token' or 'ns_token' auth mounts"));
        }
        if self.user_lockout_config.is_some() && !(entry.auth && WITH_USERS.contains(&entry.kind.as_str())) {
            return Err(Error::bad_request(format!(
                "tuning of user lockout configuration for auth type {:?} not allowed",
                entry.kind
            )));
        }
        self.is_of_the_program(entry)
    }

    /// Every engine has one version: the program's.
    fn is_of_the_program(&self, entry: &MountEntry) -> Result<()> {
        match self.plugin_version.as_deref() {
            None | Some("" | router::BUILTIN_VERSION) => Ok(()),
            Some(other) => {
                Err(Error::bad_request(format!("plugin not found in the catalog: {}, version={other}", entry.kind)))
            }
        }
    }

    fn apply(&self, system: TtlLimits, e: &mut MountEntry) -> Result<()> {
        if let Some(secs) = ttl(&self.default_lease_ttl, "default_lease_ttl")? {
            e.default_ttl_secs = secs;
        }
        if let Some(secs) = ttl(&self.max_lease_ttl, "max_lease_ttl")? {
            e.max_ttl_secs = secs;
        }
        let max = e.limits(system).max_secs;
        if e.default_ttl_secs > max {
            return Err(Error::bad_request(format!(
                "backend max lease TTL of {max} would be less than backend default lease TTL of {}",
                e.default_ttl_secs
            )));
        }
        if let Some(d) = &self.description {
            e.description.clone_from(d);
        }
        let list = |to: &mut Vec<String>, from: &Option<Vec<String>>| {
            if let Some(f) = from {
                to.clone_from(f);
            }
        };
        list(&mut e.plain_request_keys, &self.audit_non_hmac_request_keys);
        list(&mut e.plain_response_keys, &self.audit_non_hmac_response_keys);
        list(&mut e.passthrough_request_headers, &self.passthrough_request_headers);
        list(&mut e.allowed_response_headers, &self.allowed_response_headers);
        list(&mut e.allowed_managed_keys, &self.allowed_managed_keys);
        // As they are kept: upper and lower case are the same.
        e.allowed_managed_keys.iter_mut().for_each(|name| name.make_ascii_lowercase());
        if let Some(v) = &self.listing_visibility {
            if !matches!(v.as_str(), "" | "unauth" | "hidden") {
                return Err(Error::bad_request(format!("invalid listing_visibility {v}")));
            }
            e.listing_visibility.clone_from(v);
        }
        if let Some(v) = self.token_type.as_deref().filter(|_| e.auth) {
            e.token_type = match v {
                "" => "default-service".into(),
                "default-service" | "default-batch" | "service" | "batch" => v.to_owned(),
                _ => return Err(Error::bad_request("invalid value for 'token_type'")),
            };
        }
        if let Some(config) = self.user_lockout_config.as_ref().filter(|_| e.auth) {
            let mut lockout = e.lockout.take().unwrap_or_default();
            change_lockout(&mut lockout, config)?;
            e.lockout = Some(lockout);
        }
        Ok(())
    }
}

fn ttl(value: &Option<Value>, name: &str) -> Result<Option<u64>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        // The command line sends what was not asked for as an empty text.
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) if s == "system" => Ok(Some(0)),
        Some(v) => match Seconds::lenient(v) {
            Ok(Seconds(s)) if s >= 0 => Ok(Some(s.unsigned_abs())),
            _ => Err(Error::bad_request(format!("unable to parse {name}: {v} is no duration"))),
        },
    }
}

fn change_lockout(lockout: &mut Lockout, config: &Map<String, Value>) -> Result<()> {
    let duration = |name: &str| -> Result<Option<u64>> { ttl(&config.get(name).cloned(), name) };
    if let Some(v) = config.get("lockout_threshold").filter(|v| !v.is_null()) {
        let count = i64::lenient(v).ok().and_then(|n| u64::try_from(n).ok());
        lockout.threshold =
            count.ok_or_else(|| Error::bad_request(format!("unable to parse user lockout threshold: {v}")))?;
    }
    if let Some(secs) = duration("lockout_duration")? {
        lockout.duration_secs = secs;
    }
    if let Some(secs) = duration("lockout_counter_reset_duration")? {
        lockout.counter_reset_secs = secs;
    }
    match config.get("lockout_disable") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(b)) => lockout.disabled = *b,
        Some(v) => return Err(Error::bad_request(format!("lockout_disable must be a boolean, not {v}"))),
    }
    Ok(())
}
