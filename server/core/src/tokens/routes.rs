//! `auth/token/*`.

use holdfast_hsm::memory::Secret;
use holdfast_sdk::parameters::{Names, Seconds, StringMap};
use holdfast_sdk::{
    Auth, Call, Error, Map, Place, Response, Result, Routes, Timestamp, TokenType, Transaction, Value, duration,
    parameters,
};

use super::{Issue, TokenEntry, TtlLimits, by_accessor, load, load_valid};
use crate::layout::{ACCESSOR, POLICIES, SYSTEM, TOKEN, TOKENS};
use crate::tx::Tx;
use crate::{cubbyhole, policies, random};

/// The token store as an auth method, mounted at `auth/token/`.
pub struct TokenBackend {
    pub limits: TtlLimits,
}

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
            .path("create", "Create a token, a child of the caller's.", |p| p.update(TokenBackend::create))
            .path("create-orphan", "Create a token without a parent.", |p| p.update(TokenBackend::create_orphan))
            .path("lookup", "Look a token up.", |p| p.read(TokenBackend::lookup).update(TokenBackend::lookup))
            .path("lookup-self", "Look the caller's token up.", |p| {
                p.read(TokenBackend::lookup_self).update(TokenBackend::lookup_self)
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

    fn create(&self, tx: &mut Tx, call: &Call<'_>, p: Create) -> Result<Response> {
        let orphan = p.no_parent.unwrap_or(false);
        if orphan && !call.caller.sudo {
            return Err(Error::bad_request("root or sudo privileges required to create orphan token"));
        }
        self.issue(tx, call, p, orphan)
    }

    fn create_orphan(&self, tx: &mut Tx, call: &Call<'_>, p: Create) -> Result<Response> {
        self.issue(tx, call, p, true)
    }

    fn issue(&self, tx: &mut Tx, call: &Call<'_>, p: Create, orphan: bool) -> Result<Response> {
        let Some(parent_id) = call.caller.token_id else {
            return Err(Error::bad_request("parent token lookup failed"));
        };
        let parent =
            load(tx, &parent_id)?.ok_or_else(|| Error::bad_request("parent token lookup failed: no parent found"))?;
        if parent.num_uses > 0 {
            return Err(Error::bad_request("restricted use token cannot generate child tokens"));
        }
        match p.r#type.as_deref() {
            None | Some("" | "service") => {}
            Some("batch") => return Err(Error::bad_request("batch tokens are not offered by this version")),
            Some(other) => return Err(Error::bad_request(format!("invalid 'token_type' value {other:?}"))),
        }
        if p.entity_alias.is_some_and(|a| !a.is_empty()) {
            return Err(Error::bad_request("'entity_alias' is only allowed in combination with token role"));
        }
        let num_uses = p.num_uses.unwrap_or(0);
        if num_uses < 0 {
            return Err(Error::bad_request("number of uses cannot be negative"));
        }
        let sudo = call.caller.sudo;
        let mut warnings = Vec::new();
        let policies =
            self.policies_of(tx, call, &parent, p.policies, p.no_default_policy.unwrap_or(false), &mut warnings)?;
        let root = policies.iter().any(|p| p == "root");
        let seconds = |name: &str, value: Option<Seconds>| match value {
            Some(Seconds(s)) if s < 0 => Err(Error::bad_request(format!("{name} must be positive"))),
            Some(Seconds(s)) => Ok(s as u64),
            None => Ok(0),
        };
        let explicit_max = seconds("explicit_max_ttl", p.explicit_max_ttl)?;
        let period = seconds("period", p.period)?;
        let asked = seconds("ttl", p.ttl)?;
        let asked = if asked == 0 { seconds("lease", p.lease)? } else { asked };
        if period > 0 && !sudo {
            return Err(Error::bad_request("root or sudo privileges required to create periodic token"));
        }
        if root && parent.expires.is_some() && asked == 0 && period == 0 {
            return Err(Error::bad_request("expiring root tokens cannot create non-expiring root tokens"));
        }
        let ttl = if root && asked == 0 && period == 0 && explicit_max == 0 {
            0
        } else {
            self.first_ttl(asked, period, explicit_max, &mut warnings)
        };
        let id = match p.id.filter(|i| !i.is_empty()) {
            None => super::new_service_id()?,
            Some(_) if !sudo => return Err(Error::bad_request("root or sudo privileges required to specify token id")),
            Some(id) if id.contains('.') => {
                return Err(Error::bad_request("custom token ID cannot contain the '.' character"));
            }
            Some(id) if id.starts_with("hvs") || id.chars().any(char::is_whitespace) => {
                return Err(Error::bad_request(
                    "custom token ID must not start with 'hvs' and must not contain white space",
                ));
            }
            Some(id) => id,
        };
        let hash = super::id_of(tx, &id);
        if load(tx, &hash)?.is_some() {
            return Err(Error::bad_request("cannot create a token with a duplicate ID"));
        }
        if !cubbyhole::is_empty(tx, &hash)? {
            // Only an id of the caller's choice can come back before the job that cleans up is done.
            return Err(Error::bad_request(
                "what an earlier token with this ID kept is still being deleted: try again in a moment",
            ));
        }
        let metadata = p.meta.unwrap_or_default().0;
        let display_name = match p.display_name.as_deref().map(display_part) {
            None => "token".to_owned(),
            Some(n) if n.is_empty() => "token".to_owned(),
            Some(n) => format!("token-{n}"),
        };
        let issue = Issue {
            policies,
            path: format!("{}{}", call.mount_point, call.path),
            metadata,
            display_name,
            num_uses,
            ttl_secs: ttl,
            period_secs: period,
            explicit_max_ttl_secs: explicit_max,
            renewable: p.renewable.unwrap_or(true),
            parent: (!orphan).then_some(parent_id),
        };
        let mut entry = TokenEntry::new(issue, random::alphanumeric(24)?, call.now);
        super::store(tx, &id, &mut entry)?;
        let auth = shown_auth(&entry, id, ttl);
        Ok(Response { auth: Some(auth), warnings, ..Response::default() })
    }

    /// The new token's policies: the named ones if the caller may give them, else the caller's own.
    fn policies_of(
        &self,
        tx: &mut Tx,
        call: &Call<'_>,
        parent: &TokenEntry,
        named: Option<Names>,
        no_default: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<String>> {
        let named = named.map(|n| n.0).filter(|n| !n.is_empty());
        let inherited = named.is_none();
        let mut list: Vec<String> = named.unwrap_or_else(|| parent.policies.clone());
        for name in &mut list {
            *name = name.trim().to_lowercase();
        }
        list.retain(|n| !n.is_empty());
        list.sort();
        list.dedup();
        if list.iter().any(|n| n == "root") {
            if !parent.is_root() {
                return Err(Error::bad_request("root tokens may not be created without parent token being root"));
            }
            return Ok(vec!["root".into()]);
        }
        if !inherited && !call.caller.sudo {
            let missing: Vec<&String> =
                list.iter().filter(|n| *n != "default" && !parent.policies.contains(n)).collect();
            if !missing.is_empty() {
                return Err(Error::bad_request("child policies must be subset of parent"));
            }
        }
        if !no_default
            && !list.iter().any(|n| n == "default")
            && (parent.policies.iter().any(|n| n == "default") || (call.caller.sudo && !inherited))
        {
            list.push("default".into());
            list.sort();
        }
        if let Some(name) = list.iter().find(|n| policies::NOT_ASSIGNABLE.contains(&n.as_str())) {
            return Err(Error::bad_request(format!("cannot assign policy {name:?}")));
        }
        for name in &list {
            let there = name == "default" || tx.within(SYSTEM, |tx| tx.get(Place::Name(POLICIES, name)))?.is_some();
            if !there {
                warnings.push(format!("Policy {name:?} does not exist"));
            }
        }
        Ok(list)
    }

    fn first_ttl(&self, asked: u64, period: u64, explicit_max: u64, warnings: &mut Vec<String>) -> u64 {
        let limit = |max: u64| if explicit_max > 0 { max.min(explicit_max) } else { max };
        if period > 0 {
            let max = limit(self.limits.max_secs);
            if period > max {
                warnings.push(capped("period", period, max));
            }
            return period.min(max);
        }
        if explicit_max > self.limits.max_secs {
            warnings.push(format!(
                "Explicit max TTL specified during token creation of {} exceeds the maximum of {}; it is capped to it",
                short(explicit_max),
                short(self.limits.max_secs)
            ));
        }
        let max = limit(self.limits.max_secs);
        let wanted = if asked > 0 { asked } else { self.limits.default_secs.min(max) };
        if wanted > max {
            warnings.push(capped("TTL", wanted, max));
        }
        wanted.min(max)
    }

    fn lookup(&self, tx: &mut Tx, call: &Call<'_>, p: ByToken) -> Result<Response> {
        match p.token {
            None | Some(Value::Null) => self.lookup_self(tx, call, ()),
            Some(Value::String(t)) if t.is_empty() => self.lookup_self(tx, call, ()),
            Some(Value::String(t)) => {
                let id = super::id_of(tx, &t);
                let entry =
                    load_valid(tx, &id, call.now)?.ok_or_else(|| Error::Status(403, vec!["bad token".into()]))?;
                self.shown(tx, &id, &entry, &t, call.now)
            }
            Some(_) => Err(Error::Status(403, vec!["invalid token".into()])),
        }
    }

    fn lookup_self(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        let (id, token) = own_token(call)?;
        let entry = load(tx, &id)?.ok_or(Error::PermissionDenied)?;
        self.shown(tx, &id, &entry, token, call.now)
    }

    fn lookup_accessor(&self, tx: &mut Tx, call: &Call<'_>, p: ByAccessor) -> Result<Response> {
        let (id, entry) = self.named_by_accessor(tx, call, p.accessor)?;
        self.shown(tx, &id, &entry, "", call.now)
    }

    fn named_by_accessor(
        &self,
        tx: &mut Tx,
        call: &Call<'_>,
        accessor: Option<String>,
    ) -> Result<([u8; 32], TokenEntry)> {
        let accessor = accessor.filter(|a| !a.is_empty()).ok_or_else(|| Error::bad_request("missing accessor"))?;
        let invalid = || Error::bad_request("invalid accessor");
        let id = by_accessor(tx, &accessor)?.ok_or_else(invalid)?;
        let entry = load_valid(tx, &id, call.now)?.ok_or_else(invalid)?;
        Ok((id, entry))
    }

    fn shown(&self, tx: &mut Tx, id: &[u8; 32], e: &TokenEntry, token: &str, now: Timestamp) -> Result<Response> {
        let left = match e.num_uses {
            0 => 0,
            _ => tx.within(TOKENS, |tx| tx.count(Place::Ordered(crate::layout::USES, id)))?,
        };
        let mut d = Map::new();
        let mut set = |k: &str, v: Value| {
            d.insert(k.into(), v);
        };
        set("accessor", e.accessor.clone().into());
        set("creation_time", e.issued().secs().into());
        set("creation_ttl", e.creation_ttl_secs.into());
        set("display_name", e.display_name.clone().into());
        set("entity_id", e.entity_id.clone().into());
        set("expire_time", e.expires.map_or(Value::Null, |t| t.rfc3339().into()));
        set("explicit_max_ttl", e.explicit_max_ttl_secs.into());
        set("id", token.into());
        if e.path != "auth/token/root" {
            set("issue_time", e.issued().rfc3339().into());
        }
        if e.last_renewal_ns > 0 {
            set("last_renewal", Timestamp(e.last_renewal_ns).rfc3339().into());
            set("last_renewal_time", Timestamp(e.last_renewal_ns).secs().into());
        }
        set("meta", metadata_value(&e.metadata));
        set("num_uses", left.into());
        set("orphan", e.parent.is_none().into());
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
        let id = super::id_of(tx, &token);
        let entry = load_valid(tx, &id, call.now)?.ok_or_else(|| Error::bad_request("token not found"))?;
        self.renewed(tx, call, id, entry, token, p.increment)
    }

    fn renew_self(&self, tx: &mut Tx, call: &Call<'_>, p: Renew) -> Result<Response> {
        let (id, token) = own_token(call)?;
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
        id: [u8; 32],
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
        let mut warnings = Vec::new();
        let age = call.now.secs().saturating_sub(e.issued().secs());
        let max = if e.explicit_max_ttl_secs > 0 { e.explicit_max_ttl_secs } else { u64::MAX };
        let (wanted, max, what) = match e.period_secs {
            0 => {
                let wanted = if increment > 0 { increment as u64 } else { e.ttl_secs };
                (wanted, max.min(self.limits.max_secs), "TTL")
            }
            period => (period, max, "period"),
        };
        let left = max.saturating_sub(age);
        if wanted > left {
            warnings.push(capped(what, wanted, if wanted > max { max } else { left }));
        }
        let ttl = wanted.min(left);
        if e.period_secs == 0 && increment > 0 && ttl < e.ttl_left_secs(call.now) && ttl == increment as u64 {
            warnings.push(format!("the token now ends in {}: earlier than before, as asked", short(ttl)));
        }
        e.ttl_secs = ttl;
        e.last_renewal_ns = call.now.0;
        super::set_end(tx, &id, &mut e, Some(call.now.plus_secs(ttl)))?;
        let auth = shown_auth(&e, token, ttl);
        Ok(Response { auth: Some(auth), warnings, ..Response::default() })
    }

    fn revoke(&self, tx: &mut Tx, _: &Call<'_>, p: ByToken) -> Result<Response> {
        let token = named_token(p)?;
        let id = super::id_of(tx, &token);
        if load(tx, &id)?.is_none() {
            return Ok(Response::empty());
        }
        super::revoke_tree(tx, &id)?;
        Ok(Response::empty())
    }

    fn revoke_self(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        let (id, _) = own_token(call)?;
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
        let id = super::id_of(tx, &token);
        if load(tx, &id)?.is_none() {
            return Err(Error::bad_request("token to revoke not found"));
        }
        super::revoke_orphaning(tx, &id)?;
        Ok(Response::empty())
    }

    fn accessors(&self, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
        let ids = tx.within(TOKENS, |tx| tx.ordered(ACCESSOR, &[], &[], 100_000))?;
        let mut keys = Vec::with_capacity(ids.len());
        for (_, id) in ids {
            let Ok(id) = <[u8; 32]>::try_from(id) else { continue };
            let entry: Option<TokenEntry> =
                tx.within(TOKENS, |tx| holdfast_sdk::record::get(tx, Place::Ordered(TOKEN, &id)))?;
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

fn own_token<'a>(call: &'a Call<'_>) -> Result<([u8; 32], &'a str)> {
    match (call.caller.token_id, &call.request.token) {
        (Some(id), Some(token)) => Ok((id, token.expose())),
        _ => Err(Error::PermissionDenied),
    }
}

fn metadata_value(pairs: &[(String, String)]) -> Value {
    if pairs.is_empty() {
        return Value::Null;
    }
    Value::Object(pairs.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect())
}

fn shown_auth(e: &TokenEntry, token: String, ttl: u64) -> Auth {
    Auth {
        client_token: Secret::new(token),
        accessor: e.accessor.clone(),
        policies: e.policies.clone(),
        token_policies: e.policies.clone(),
        identity_policies: Vec::new(),
        metadata: match metadata_value(&e.metadata) {
            Value::Object(m) => m,
            _ => Map::new(),
        },
        display_name: e.display_name.clone(),
        lease_secs: ttl,
        renewable: e.renewable,
        entity_id: e.entity_id.clone(),
        token_type: TokenType::Service,
        orphan: e.parent.is_none(),
        num_uses: e.num_uses,
    }
}

/// Letters, digits and dashes of a display name, as it is stored.
fn display_part(name: &str) -> String {
    let cleaned: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    cleaned.trim_matches('-').to_owned()
}

fn short(secs: u64) -> String {
    let text = duration::go_text(i128::from(secs) * 1_000_000_000);
    let text = text.strip_suffix("m0s").map_or(text.clone(), |t| format!("{t}m"));
    text.strip_suffix("h0m").map_or(text.clone(), |t| format!("{t}h"))
}

fn capped(what: &str, wanted: u64, max: u64) -> String {
    format!(
        "{what} of {:?} exceeded the effective max_ttl of {:?}; {what} value is capped accordingly",
        short(wanted),
        short(max)
    )
}
