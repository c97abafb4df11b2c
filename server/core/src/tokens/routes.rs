//! `auth/token/*`.

use std::sync::Weak;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Auth, Call, Error, Map, Place, Renewal, Response, Result, Routes, Timestamp, TokenId, Transaction, Value, duration,
    parameters,
};

use super::create::lesser;
use super::{Held, TokenEntry, TtlLimits, by_accessor, create, find_valid, load_valid, roles};
use crate::layout::{ACCESSOR, NamespaceId, ROOT, TOKENS, USES};
use crate::router::Handler;
use crate::tx::Tx;
use crate::{Core, identity, jobs, last_use, namespaces};

const CANNOT_BE_RENEWED: &str = "batch tokens cannot be renewed";
const CANNOT_BE_REVOKED: &str = "batch tokens cannot be revoked";

/// The token store as an auth method, mounted at `auth/token/`.
pub struct TokenBackend {
    pub core: Weak<Core>,
    pub limits: TtlLimits,
}

parameters! {
    pub struct ByToken {
        /// The token.
        token: Option<Value>,
    }
}
parameters! {
    pub struct ByAccessor {
        /// The accessor of the token.
        accessor: Option<String>,
    }
}
parameters! {
    pub struct Renew {
        /// The token to renew.
        token: Option<String>,
        /// How much longer the token should live, from now.
        increment: Option<Seconds>,
    }
}
parameters! {
    pub struct RenewAccessor {
        /// The accessor of the token.
        accessor: Option<String>,
        /// How much longer the token should live, from now.
        increment: Option<Seconds>,
    }
}
parameters! {
    pub struct Page {
        /// Start behind this entry.
        after: Option<String>,
        /// Entries at most.
        limit: Option<i64>,
    }
}

impl TokenBackend {
    pub fn routes() -> Routes<TokenBackend, Tx> {
        Routes::new()
            .path("create", "Create a token, a child of the caller's.", |p| p.update(create::create))
            .path("create/{role_name}", "Create a token as a role has it.", |p| p.update(create::create_by_role))
            .path("create-orphan", "Create a token without a parent.", |p| p.update(create::create_orphan))
            .path("roles", "List the token roles.", |p| p.list(roles::list))
            .path("roles/{role_name}", "Read, write and delete a token role.", |p| {
                p.read(roles::read).write(roles::exists, roles::write).delete(roles::delete)
            })
            .path("tidy", "Remove what tokens that are gone have left.", |p| p.update(TokenBackend::tidy))
            .path("lookup", "Look a token up.", |p| p.read(TokenBackend::lookup).update(TokenBackend::lookup))
            .path("lookup-self", "Look the caller's token up.", |p| {
                p.read(TokenBackend::lookup_self).update(TokenBackend::lookup_self).reads_anywhere()
            })
            .path("lookup-accessor", "Look a token up by its accessor.", |p| p.update(TokenBackend::lookup_accessor))
            .path("renew", "Renew a token.", |p| p.update(TokenBackend::renew))
            .path("renew-self", "Renew the caller's token.", |p| p.update(TokenBackend::renew_self))
            .path("renew-accessor", "Renew a token by its accessor.", |p| p.update(TokenBackend::renew_accessor))
            .path("revoke", "Revoke a token and its children.", |p| p.update(TokenBackend::revoke))
            .path("revoke-self", "Revoke the caller's token and its children.", |p| p.update(TokenBackend::revoke_self))
            .path("revoke-accessor", "Revoke a token by its accessor.", |p| p.update(TokenBackend::revoke_accessor))
            .path("revoke-orphan", "Revoke a token; its children live on.", |p| p.update(TokenBackend::revoke_orphan))
            .path("accessors", "List the accessors of all tokens.", |p| {
                p.list(TokenBackend::accessors).root_protected()
            })
    }

    fn lookup(&self, tx: &mut Tx, call: &Call<'_>, p: ByToken) -> Result<Response> {
        match p.token {
            None | Some(Value::Null) => self.lookup_self(tx, call, ()),
            Some(Value::String(t)) if t.is_empty() => self.lookup_self(tx, call, ()),
            Some(Value::String(t)) => {
                let held =
                    named_valid(tx, &t, call.now)?.ok_or_else(|| Error::Status(403, vec!["bad token".into()]))?;
                self.shown(tx, &held, &t, call.now)
            }
            Some(_) => Err(Error::Status(403, vec!["invalid token".into()])),
        }
    }

    fn lookup_self(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        let token = call.request.token.as_ref().ok_or(Error::PermissionDenied)?.expose();
        let held = super::read(tx, token)?.ok_or(Error::PermissionDenied)?;
        self.shown(tx, &held, token, call.now)
    }

    fn lookup_accessor(&self, tx: &mut Tx, call: &Call<'_>, p: ByAccessor) -> Result<Response> {
        let (id, entry) = self.named_by_accessor(tx, call, p.accessor)?;
        self.shown(tx, &Held { namespace: id.namespace, id: Some(id), entry }, "", call.now)
    }

    fn named_by_accessor(
        &self,
        tx: &mut Tx,
        call: &Call<'_>,
        accessor: Option<String>,
    ) -> Result<(TokenId, TokenEntry)> {
        let accessor = accessor.filter(|a| !a.is_empty()).ok_or_else(|| Error::bad_request("missing accessor"))?;
        let invalid = || Error::bad_request("invalid accessor");
        let id = by_accessor(tx, &accessor)?.ok_or_else(invalid)?;
        let entry = load_valid(tx, &id, call.now)?.ok_or_else(invalid)?;
        Ok((id, entry))
    }

    fn shown(&self, tx: &mut Tx, held: &Held, token: &str, now: Timestamp) -> Result<Response> {
        let e = &held.entry;
        let left = match &held.id {
            Some(id) if e.num_uses > 0 => {
                tx.within(TOKENS.of(id.namespace), |tx| tx.count(Place::Ordered(USES, &id.own)))?
            }
            _ => 0,
        };
        let of_entity = tx.within(TOKENS.of(held.namespace), |tx| identity_policies(tx, e))?;
        let last_used = held.id.as_ref().map(|id| last_use::of_token(tx, id)).transpose()?.flatten();
        let mut d = Map::new();
        let mut set = |k: &str, v: Value| {
            d.insert(k.into(), v);
        };
        set("accessor", e.accessor.clone().into());
        if !e.bound_cidrs.is_empty() {
            set("bound_cidrs", e.bound_cidrs.clone().into());
        }
        set("creation_time", e.issued().secs().into());
        set("creation_ttl", e.creation_ttl_secs.into());
        set("display_name", e.display_name.clone().into());
        set("entity_id", e.entity_id.clone().into());
        set("expire_time", e.expires.map_or(Value::Null, |t| t.rfc3339().into()));
        set("explicit_max_ttl", e.explicit_max_ttl_secs.into());
        set("id", token.into());
        if !of_entity.is_empty() {
            set("identity_policies", of_entity.into());
            set("external_namespace_policies", Value::Object(Map::new()));
        }
        if e.path != "auth/token/root" {
            set("issue_time", e.issued().rfc3339().into());
        }
        if e.last_renewal_ns > 0 {
            set("last_renewal", Timestamp(e.last_renewal_ns).rfc3339().into());
            set("last_renewal_time", Timestamp(e.last_renewal_ns).secs().into());
        }
        if let Some(at) = last_used {
            set("last_used_time", at.rfc3339_secs().into());
        }
        set("meta", metadata_value(&e.metadata));
        if held.namespace != ROOT {
            set("namespace_path", namespaces::path_of(tx, held.namespace)?.into());
        }
        set("num_uses", left.into());
        set("orphan", e.parent().is_none().into());
        set("path", e.path.clone().into());
        if e.period_secs > 0 {
            set("period", e.period_secs.into());
        }
        set("policies", e.policies.clone().into());
        if e.path != "auth/token/root" {
            set("renewable", e.renewable.into());
        }
        if !e.role.is_empty() {
            set("role", e.role.clone().into());
        }
        set("ttl", e.ttl_left_secs(now).into());
        set("type", e.token_type().word().into());
        Ok(Response::data(d))
    }

    fn renew(&self, tx: &mut Tx, call: &Call<'_>, p: Renew) -> Result<Response> {
        let token = p.token.filter(|t| !t.is_empty()).ok_or_else(|| Error::bad_request("missing token ID"))?;
        let held = named_valid(tx, &token, call.now)?.ok_or_else(|| Error::bad_request("token not found"))?;
        let id = held.id.ok_or_else(|| Error::bad_request(CANNOT_BE_RENEWED))?;
        self.renewed(tx, call, id, held.entry, token, p.increment)
    }

    fn renew_self(&self, tx: &mut Tx, call: &Call<'_>, p: Renew) -> Result<Response> {
        let (id, token) = own_token(call, CANNOT_BE_RENEWED)?;
        let entry = load_valid(tx, &id, call.now)?.ok_or(Error::PermissionDenied)?;
        self.renewed(tx, call, id, entry, token.to_owned(), p.increment)
    }

    fn renew_accessor(&self, tx: &mut Tx, call: &Call<'_>, p: RenewAccessor) -> Result<Response> {
        let (id, entry) = self.named_by_accessor(tx, call, p.accessor)?;
        self.renewed(tx, call, id, entry, String::new(), p.increment)
    }

    fn renewed(
        &self,
        tx: &mut Tx,
        call: &Call<'_>,
        id: TokenId,
        mut e: TokenEntry,
        token: String,
        increment: Option<Seconds>,
    ) -> Result<Response> {
        let increment = increment.map_or(0, |s| s.0);
        if increment < 0 {
            return Err(Error::bad_request(format!("cannot provide negative value '{increment}'")));
        }
        if !e.renewable {
            return Err(Error::bad_request("invalid lease ID: lease is not renewable"));
        }
        let (mut period, mut explicit_max) = (e.period_secs, e.explicit_max_ttl_secs);
        let (mut limits, mut usual) = (self.limits, e.ttl_secs);
        if let Some(mount) = e.auth_mount {
            let (of_mount, login) = self.renewal_of_login(tx, (id.namespace, mount), &e)?;
            period = login.period_secs;
            usual = if login.ttl_secs > 0 { login.ttl_secs } else { of_mount.default_secs };
            limits = TtlLimits { max_secs: lesser(of_mount.max_secs, login.max_ttl_secs), ..of_mount };
        }
        if !e.role.is_empty() {
            let role = tx.within(TOKENS.of(id.namespace), |tx| roles::load(tx, &e.role))?.ok_or_else(|| {
                Error::bad_request(format!("original token role {:?} could not be found, not renewing", e.role))
            })?;
            // What the role says now counts, not what it said when the token was made.
            period = lesser(period, role.period_secs);
            explicit_max = lesser(explicit_max, role.explicit_max_ttl_secs);
        }
        let mut warnings = Vec::new();
        let age = call.now.secs().saturating_sub(e.issued().secs());
        let max = if explicit_max > 0 { explicit_max } else { u64::MAX };
        let (wanted, max, what) = match period {
            0 => {
                let wanted = if increment > 0 { increment as u64 } else { usual };
                (wanted, max.min(limits.max_secs), "TTL")
            }
            period => (period, max, "period"),
        };
        let left = max.saturating_sub(age);
        if wanted > left {
            warnings.push(capped(what, wanted, if wanted > max { max } else { left }));
        }
        let ttl = wanted.min(left);
        if period == 0 && increment > 0 && ttl < e.ttl_left_secs(call.now) && ttl == increment as u64 {
            warnings
                .push(format!("the token now ends in {}: earlier than before, as asked", duration::short_text(ttl)));
        }
        e.ttl_secs = ttl;
        e.last_renewal_ns = call.now.0;
        super::set_end(tx, &id, &mut e, Some(call.now.plus_secs(ttl)))?;
        let auth = tx.within(TOKENS.of(id.namespace), |tx| shown_auth(tx, &e, token, ttl))?;
        Ok(Response { auth: Some(auth), warnings, ..Response::default() })
    }

    /// What the auth mount that gave a token says now, with the mount's own limits.
    fn renewal_of_login(
        &self,
        tx: &mut Tx,
        (namespace, uuid): (NamespaceId, [u8; 16]),
        e: &TokenEntry,
    ) -> Result<(TtlLimits, Renewal)> {
        let core = self.core.upgrade().ok_or_else(|| Error::Unavailable("the server is stopping".into()))?;
        let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
        let router = core.router_in(&open, namespace)?;
        let mount = router.mounts().find(|m| m.entry.uuid == uuid);
        let gone = || Error::bad_request("the auth method that gave the token is gone, not renewing");
        let mount = mount.ok_or_else(gone)?;
        let Handler::Engine(backend) = &mount.handler else { return Err(gone()) };
        let renewal = tx.within(mount.scope, |tx| backend.renew_login(tx, &e.internal))?;
        let mut policies: Vec<String> = renewal.policies.iter().map(|p| p.trim().to_lowercase()).collect();
        policies.retain(|p| !p.is_empty());
        if !renewal.no_default_policy {
            policies.push("default".into());
        }
        policies.sort();
        policies.dedup();
        if policies != e.policies {
            return Err(Error::bad_request("policies have changed, not renewing: log in again"));
        }
        Ok((mount.entry.limits(core.options.limits), renewal))
    }

    fn revoke(&self, tx: &mut Tx, _: &Call<'_>, p: ByToken) -> Result<Response> {
        if let Some(id) = stored(tx, &named_token(p)?)? {
            super::revoke_tree(tx, &id)?;
        }
        Ok(Response::empty())
    }

    fn revoke_self(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        let (id, _) = own_token(call, CANNOT_BE_REVOKED)?;
        super::revoke_tree(tx, &id)?;
        Ok(Response::empty())
    }

    fn revoke_accessor(&self, tx: &mut Tx, _: &Call<'_>, p: ByAccessor) -> Result<Response> {
        let accessor = p.accessor.filter(|a| !a.is_empty()).ok_or_else(|| Error::bad_request("missing accessor"))?;
        let Some(id) = by_accessor(tx, &accessor)? else {
            return Ok(Response::empty().warn("No token found with this accessor"));
        };
        super::revoke_tree(tx, &id)?;
        Ok(Response::empty())
    }

    fn revoke_orphan(&self, tx: &mut Tx, call: &Call<'_>, p: ByToken) -> Result<Response> {
        let token = named_token(p)?;
        if !call.caller.sudo {
            return Err(Error::bad_request("root or sudo privileges required to revoke and orphan"));
        }
        let id = stored(tx, &token)?.ok_or_else(|| Error::bad_request("token to revoke not found"))?;
        super::revoke_orphaning(tx, &id)?;
        Ok(Response::empty())
    }

    fn tidy(&self, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
        start_tidy(tx)?;
        Ok(Response { status: Some(202), ..Response::empty() }
            .warn("Tidy operation successfully started. It is a job: see sys/jobs."))
    }

    fn accessors(&self, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
        let namespace = tx.namespace();
        let ids = tx.within(TOKENS, |tx| tx.ordered(ACCESSOR, &[], &[], 100_000))?;
        let mut keys = Vec::with_capacity(ids.len());
        for (_, id) in ids {
            let Ok(own) = <[u8; 32]>::try_from(id) else { continue };
            let entry = super::load(tx, &TokenId { namespace, own })?;
            keys.extend(entry.filter(|e| !e.has_ended(call.now)).map(|e| e.accessor));
        }
        keys.sort();
        Response::list(keys)
    }
}

/// The token of the body; something else than a text is no token.
fn named_token(p: ByToken) -> Result<String> {
    match p.token {
        None | Some(Value::Null) => Err(Error::bad_request("missing token ID")),
        Some(Value::String(t)) if t.is_empty() => Err(Error::bad_request("missing token ID")),
        Some(Value::String(t)) => Ok(t),
        Some(_) => Err(Error::Status(403, vec!["invalid token".into()])),
    }
}

/// The token that a request names, if it is good and one of this namespace: the request was sent on to the
/// namespace of its token, where the caller may ask there at all.
fn named_valid(tx: &mut Tx, token: &str, now: Timestamp) -> Result<Option<Held>> {
    let here = tx.namespace();
    Ok(find_valid(tx, token, now)?.filter(|held| held.namespace == here))
}

/// Where the caller's token is stored; `not_for_batch` is what a batch token is told.
fn own_token<'a>(call: &'a Call<'_>, not_for_batch: &str) -> Result<(TokenId, &'a str)> {
    match (call.caller.token_id, &call.request.token) {
        (Some(id), Some(token)) => Ok((id, token.expose())),
        (None, Some(_)) => Err(Error::bad_request(not_for_batch)),
        (_, None) => Err(Error::PermissionDenied),
    }
}

/// Where a token that is to be revoked is stored, if it is there.
fn stored(tx: &mut Tx, token: &str) -> Result<Option<TokenId>> {
    let here = tx.namespace();
    match super::read(tx, token)?.filter(|held| held.namespace == here) {
        Some(Held { id: None, .. }) => Err(Error::bad_request(CANNOT_BE_REVOKED)),
        Some(Held { id, entry, .. }) => Ok(id.filter(|_| !entry.orphaning)),
        None => Ok(None),
    }
}

fn metadata_value(pairs: &[(String, String)]) -> Value {
    if pairs.is_empty() {
        return Value::Null;
    }
    Value::Object(pairs.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect())
}

/// Start the walk through the token store, unless it is under way.
pub fn start_tidy(tx: &mut Tx) -> Result<()> {
    let here = tx.namespace();
    let is_it = |job: &jobs::Job| job.namespace() == here && matches!(job.kind, jobs::Kind::TidyTokens { .. });
    let runs = jobs::list(tx)?.iter().any(|(_, job)| is_it(job));
    if !runs {
        jobs::add(tx, jobs::Kind::tidy_tokens())?;
    }
    Ok(())
}

/// The policies that a token has through its entity.
fn identity_policies(tx: &mut Tx, e: &TokenEntry) -> Result<Vec<String>> {
    Ok(identity::resolve(tx, &e.entity_id)?.map(|who| who.policies.to_vec()).unwrap_or_default())
}

/// A token as the answer that hands it out or renews it shows it.
pub fn shown_auth(tx: &mut Tx, e: &TokenEntry, token: String, ttl: u64) -> Result<Auth> {
    let of_entity = identity_policies(tx, e)?;
    let mut policies = [&e.policies[..], &of_entity].concat();
    policies.sort();
    policies.dedup();
    Ok(Auth {
        client_token: Secret::new(token),
        entity_created: false,
        accessor: e.accessor.clone(),
        policies,
        token_policies: e.policies.clone(),
        identity_policies: of_entity,
        no_default_policy: false,
        metadata: match metadata_value(&e.metadata) {
            Value::Object(m) => m,
            _ => Map::new(),
        },
        display_name: e.display_name.clone(),
        lease_secs: ttl,
        renewable: e.renewable,
        entity_id: e.entity_id.clone(),
        token_type: e.token_type(),
        orphan: e.parent().is_none(),
        num_uses: e.num_uses,
    })
}

/// A warning that a duration is cut.
pub fn capped(what: &str, wanted: u64, max: u64) -> String {
    format!(
        "{what} of {:?} exceeded the effective max_ttl of {:?}; {what} value is capped accordingly",
        duration::short_text(wanted),
        duration::short_text(max)
    )
}
