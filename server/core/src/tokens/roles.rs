//! `auth/token/roles/*`: what tokens made by a role may be.

use holdfast_sdk::names::is_plain;
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    AddressBlock, Call, Error, Map, Place, Response, Result, TokenType, Transaction, Value, parameters, record,
};
use minicbor::{Decode, Encode};

use super::TokenBackend;
use crate::layout::{ROLES, TOKENS};
use crate::tx::Tx;

/// Which type of token a role gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Choice {
    #[n(0)]
    Service,
    #[n(1)]
    Batch,
    /// A service token, unless the caller asks for a batch token.
    #[n(2)]
    #[default]
    DefaultService,
    #[n(3)]
    DefaultBatch,
}

impl Choice {
    fn parse(text: &str) -> Result<Choice> {
        match text {
            "service" => Ok(Choice::Service),
            "batch" => Ok(Choice::Batch),
            "default-service" => Ok(Choice::DefaultService),
            "default-batch" => Ok(Choice::DefaultBatch),
            _ => Err(Error::bad_request(format!(
                "invalid 'token_type' value {text:?}: it is service, batch, default-service or default-batch"
            ))),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Choice::Service => "service",
            Choice::Batch => "batch",
            Choice::DefaultService => "default-service",
            Choice::DefaultBatch => "default-batch",
        }
    }

    /// The type of a token whose creator asked for `wanted`.
    pub fn of(self, wanted: Option<TokenType>) -> TokenType {
        match self {
            Choice::Service => TokenType::Service,
            Choice::Batch => TokenType::Batch,
            Choice::DefaultService => wanted.unwrap_or(TokenType::Service),
            Choice::DefaultBatch => wanted.unwrap_or(TokenType::Batch),
        }
    }
}

#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct Role {
    #[n(0)]
    pub allowed_policies: Vec<String>,
    #[n(1)]
    pub allowed_policies_glob: Vec<String>,
    #[n(2)]
    pub disallowed_policies: Vec<String>,
    #[n(3)]
    pub disallowed_policies_glob: Vec<String>,
    /// None: never given.
    #[n(4)]
    pub allowed_entity_aliases: Option<Vec<String>>,
    #[n(5)]
    pub orphan: bool,
    #[n(6)]
    pub not_renewable: bool,
    #[n(7)]
    pub path_suffix: String,
    #[n(8)]
    pub token_type: Choice,
    #[n(9)]
    pub bound_cidrs: Vec<String>,
    #[n(10)]
    pub explicit_max_ttl_secs: u64,
    #[n(11)]
    pub period_secs: u64,
    #[n(12)]
    pub no_default_policy: bool,
    #[n(13)]
    pub num_uses: i64,
    /// Shown under their old names too, since they were given so.
    #[n(14)]
    old_explicit_max_ttl: bool,
    #[n(15)]
    old_period: bool,
    #[n(16)]
    old_bound_cidrs: bool,
}
holdfast_sdk::record!(Role);

parameters! {
    pub struct Write {
        /// Policies that its tokens may have.
        allowed_policies: Option<Vec<String>>,
        /// Policies that its tokens may have, with stars.
        allowed_policies_glob: Option<Vec<String>>,
        /// Policies that its tokens may not have.
        disallowed_policies: Option<Vec<String>>,
        /// Policies that its tokens may not have, with stars.
        disallowed_policies_glob: Option<Vec<String>>,
        /// Entity aliases that its tokens may be for.
        allowed_entity_aliases: Option<Vec<String>>,
        /// Its tokens have no parent.
        orphan: Option<bool>,
        /// Whether its tokens can be renewed.
        renewable: Option<bool>,
        /// What its tokens' creation path ends in; tokens can be revoked by it.
        path_suffix: Option<String>,
        /// service, batch, default-service or default-batch.
        token_type: Option<String>,
        /// Networks that its tokens may be used from.
        token_bound_cidrs: Option<Vec<String>>,
        /// The old name of token_bound_cidrs.
        bound_cidrs: Option<Vec<String>>,
        /// A hard end of its tokens, counted from their issue.
        token_explicit_max_ttl: Option<Seconds>,
        /// The old name of token_explicit_max_ttl.
        explicit_max_ttl: Option<Seconds>,
        /// Its tokens are periodic: each renewal gives this long.
        token_period: Option<Seconds>,
        /// The old name of token_period.
        period: Option<Seconds>,
        /// Leave out the default policy.
        token_no_default_policy: Option<bool>,
        /// How often its tokens may be used; 0 is no limit.
        token_num_uses: Option<i64>,
    }
}

/// A path's suffix: `\w[\w-.]+\w`.
fn is_suffix(suffix: &str) -> bool {
    is_plain(suffix) && suffix.len() >= 3
}

pub fn load(tx: &mut Tx, name: &str) -> Result<Option<Role>> {
    tx.within(TOKENS, |tx| record::get(tx, Place::Name(ROLES, name)))
}

fn named<'a>(call: &'a Call<'_>) -> Result<&'a str> {
    Some(call.capture("role_name")).filter(|n| is_plain(n)).ok_or(Error::UnsupportedPath)
}

pub fn list(_: &TokenBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(tx.within(TOKENS, |tx| tx.names(ROLES, "", "", 0))?)
}

pub fn exists(_: &TokenBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    match named(call) {
        Ok(name) => Ok(Some(load(tx, name)?.is_some())),
        Err(_) => Ok(None),
    }
}

pub fn read(_: &TokenBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = named(call)?;
    Ok(Response::data(shown(name, &load(tx, name)?.ok_or(Error::NotFound)?)))
}

pub fn delete(_: &TokenBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = named(call)?;
    tx.within(TOKENS, |tx| {
        tx.forget_use(&format!("roles/{name}"))?;
        tx.delete(Place::Name(ROLES, name))
    })?;
    Ok(Response::empty())
}

pub fn write(backend: &TokenBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = named(call)?;
    let mut role = load(tx, name)?.unwrap_or_default();
    let mut warnings = role.change(p)?;
    role.check()?;
    let (max, most) = (role.explicit_max_ttl_secs, backend.limits.max_secs);
    if max > most {
        warnings.push(format!(
            "Given explicit max TTL of {max} seconds is greater than the {most} seconds that the system or the mount \
             allows; until this is changed, tokens of this role cannot be created"
        ));
    }
    tx.within(TOKENS, |tx| record::put(tx, Place::Name(ROLES, name), &role))?;
    Ok(Response { warnings, ..Response::empty() })
}

/// Lower case, sorted, each once.
fn names(list: Vec<String>) -> Vec<String> {
    let mut list: Vec<String> = list.iter().map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect();
    list.sort();
    list.dedup();
    list
}

fn seconds(field: &str, Seconds(s): Seconds) -> Result<u64> {
    u64::try_from(s).map_err(|_| {
        Error::bad_request(format!("error converting input for field {field:?}: cannot provide negative value '{s}'"))
    })
}

/// A value that has an old and a new name. True: it came under the old one alone.
fn of_two<T>(new: Option<T>, old: Option<T>, field: &str, warnings: &mut Vec<String>) -> Option<(T, bool)> {
    match (new, old) {
        (Some(new), old) => {
            if old.is_some() {
                warnings.push(format!(
                    "Both 'token_{field}' and deprecated '{field}' value supplied, ignoring the deprecated value"
                ));
            }
            Some((new, false))
        }
        (None, Some(old)) => Some((old, true)),
        (None, None) => None,
    }
}

impl Role {
    /// Take what is named over; everything else stays.
    fn change(&mut self, p: Write) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let lists = [
            (&mut self.allowed_policies, p.allowed_policies),
            (&mut self.allowed_policies_glob, p.allowed_policies_glob),
            (&mut self.disallowed_policies, p.disallowed_policies),
            (&mut self.disallowed_policies_glob, p.disallowed_policies_glob),
        ];
        for (ours, given) in lists {
            if let Some(list) = given {
                *ours = names(list);
            }
        }
        if let Some(list) = p.allowed_entity_aliases {
            self.allowed_entity_aliases = Some(names(list));
        }
        self.orphan = p.orphan.unwrap_or(self.orphan);
        self.not_renewable = p.renewable.map_or(self.not_renewable, |r| !r);
        self.no_default_policy = p.token_no_default_policy.unwrap_or(self.no_default_policy);
        if let Some(suffix) = p.path_suffix {
            if !suffix.is_empty() && !is_suffix(&suffix) {
                return Err(Error::bad_request(
                    "given role path suffix contains invalid characters; must match \\w[\\w-.]+\\w",
                ));
            }
            self.path_suffix = suffix;
        }
        if let Some(choice) = p.token_type {
            self.token_type = Choice::parse(&choice)?;
        }
        if let Some((blocks, old)) = of_two(p.token_bound_cidrs, p.bound_cidrs, "bound_cidrs", &mut warnings) {
            let blocks = AddressBlock::parse_all(&blocks)
                .map_err(|e| Error::bad_request(format!("error parsing role fields: {e}")))?;
            self.bound_cidrs = blocks.iter().map(ToString::to_string).collect();
            self.old_bound_cidrs = old;
        }
        let max = of_two(p.token_explicit_max_ttl, p.explicit_max_ttl, "explicit_max_ttl", &mut warnings);
        if let Some((value, old)) = max {
            self.explicit_max_ttl_secs = seconds("token_explicit_max_ttl", value)?;
            self.old_explicit_max_ttl = old;
        }
        if let Some((value, old)) = of_two(p.token_period, p.period, "period", &mut warnings) {
            self.period_secs = seconds("token_period", value)?;
            self.old_period = old;
        }
        if let Some(n) = p.token_num_uses {
            if n < 0 {
                return Err(Error::bad_request("error parsing role fields: 'token_num_uses' cannot be negative"));
            }
            self.num_uses = n;
        }
        Ok(warnings)
    }

    /// What cannot stand together.
    fn check(&self) -> Result<()> {
        let refused = |why: &str| Err(Error::bad_request(format!("'token_type' cannot be {why}")));
        if matches!(self.token_type, Choice::Batch | Choice::DefaultBatch) && self.num_uses > 0 {
            return refused("'batch' or 'default-batch' when set to generate tokens with limited use count");
        }
        if self.token_type != Choice::Batch {
            return Ok(());
        }
        match () {
            () if !self.orphan => refused("'batch' when role is set to generate non-orphan tokens"),
            () if self.period_secs > 0 => refused("'batch' when role is set to generate periodic tokens"),
            () if !self.not_renewable => refused("'batch' when role is set to generate renewable tokens"),
            () if self.explicit_max_ttl_secs > 0 => {
                refused("'batch' when role is set to generate tokens with an explicit max TTL")
            }
            () => Ok(()),
        }
    }

    /// The role says which policies its tokens may have, whatever the creator has itself.
    pub fn limits_policies(&self) -> bool {
        let lists = [
            &self.allowed_policies,
            &self.allowed_policies_glob,
            &self.disallowed_policies,
            &self.disallowed_policies_glob,
        ];
        lists.iter().any(|l| !l.is_empty())
    }

    pub fn forbids(&self, policy: &str) -> bool {
        self.disallowed_policies.iter().any(|p| p == policy)
            || self.disallowed_policies_glob.iter().any(|p| matches(p, policy))
    }
}

/// Whether a text matches an expression in which each `*` is any text.
pub fn matches(expression: &str, text: &str) -> bool {
    let mut parts = expression.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = expression.rfind('*').map(|at| &expression[at + 1..]) else { return rest.is_empty() };
    let between: Vec<&str> = parts.collect();
    for part in &between[..between.len().saturating_sub(1)] {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn shown(name: &str, r: &Role) -> Map<String, Value> {
    let mut m = Map::new();
    let mut set = |k: &str, v: Value| {
        m.insert(k.into(), v);
    };
    set("name", name.into());
    set("allowed_policies", r.allowed_policies.clone().into());
    set("allowed_policies_glob", r.allowed_policies_glob.clone().into());
    set("disallowed_policies", r.disallowed_policies.clone().into());
    set("disallowed_policies_glob", r.disallowed_policies_glob.clone().into());
    set("allowed_entity_aliases", r.allowed_entity_aliases.clone().map_or(Value::Null, Value::from));
    set("orphan", r.orphan.into());
    set("renewable", (!r.not_renewable).into());
    set("path_suffix", r.path_suffix.clone().into());
    set("token_type", r.token_type.word().into());
    set("token_explicit_max_ttl", r.explicit_max_ttl_secs.into());
    set("explicit_max_ttl", if r.old_explicit_max_ttl { r.explicit_max_ttl_secs } else { 0 }.into());
    set("token_period", r.period_secs.into());
    set("period", if r.old_period { r.period_secs } else { 0 }.into());
    set("token_no_default_policy", r.no_default_policy.into());
    if !r.bound_cidrs.is_empty() {
        set("token_bound_cidrs", r.bound_cidrs.clone().into());
        if r.old_bound_cidrs {
            set("bound_cidrs", r.bound_cidrs.clone().into());
        }
    }
    if r.num_uses > 0 {
        set("token_num_uses", r.num_uses.into());
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_text() {
        for (expression, yes, no) in [
            ("app-*", &["app-", "app-x"][..], &["ap", "xapp-"][..]),
            ("*-ro", &["-ro", "a-ro"], &["a-row"]),
            ("a*b*c", &["abc", "axbxc", "abbcc"], &["ac", "abx", "bac"]),
            ("ab*b", &["abb", "abxb"], &["ab"]),
            ("plain", &["plain"], &["plains", "plai"]),
            ("*", &["", "x"], &[]),
        ] {
            for text in yes {
                assert!(matches(expression, text), "{expression} {text}");
            }
            for text in no {
                assert!(!matches(expression, text), "{expression} {text}");
            }
        }
    }

    #[test]
    fn names_and_suffixes_are_as_the_reference_takes_them() {
        assert!(["a", "ab", "a.b", "a-b", "A_9"].iter().all(|n| is_plain(n)));
        assert!(["", "-a", "a-", "a b", "a@b", "ä"].iter().all(|n| !is_plain(n)));
        assert!(is_suffix("suf") && !is_suffix("ab") && !is_suffix("a/b"));
    }
}
