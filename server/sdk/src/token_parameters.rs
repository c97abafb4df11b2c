//! What a role or user of an auth method says of its tokens: the `token_*` parameters that all methods share.
//!
//! A method declares [`TokenFields`] among its parameters (`parameters! { … with token: TokenFields }`), the
//! old names that it still takes by itself, and keeps a [`TokenParameters`] in its record.

use std::net::{IpAddr, SocketAddr};

use minicbor::{Decode, Encode};

use crate::parameters::Seconds;
use crate::{AddressBlock, Error, Login, LoginTokenType, Map, Renewal, Result, Value, parameters};

parameters! {
    /// The shared parameters as a request names them.
    #[derive(Default)]
    pub struct TokenFields {
        /// How long the tokens live at first; 0 is the mount's default.
        token_ttl: Option<Seconds>,
        /// How long the tokens live at most; 0 is the mount's maximum.
        token_max_ttl: Option<Seconds>,
        /// Policies of the tokens.
        token_policies: Option<Vec<String>>,
        /// Networks that a login and its token are bound to.
        token_bound_cidrs: Option<Vec<String>>,
        /// A hard end of the tokens, counted from their issue; 0 is none.
        token_explicit_max_ttl: Option<Seconds>,
        /// Leave out the default policy.
        token_no_default_policy: Option<bool>,
        /// How often a token may be used; 0 is no limit.
        token_num_uses: Option<i64>,
        /// The tokens are periodic: each renewal gives this long.
        token_period: Option<Seconds>,
        /// service, batch, or default: as the mount is tuned.
        token_type: Option<String>,
        /// Bind each token to the address that logged in.
        token_strictly_bind_ip: Option<bool>,
    }
}

/// Values that came under the names that the parameters had at first. Which of them a method takes is its own matter.
#[derive(Default)]
pub struct OldNames {
    pub policies: Option<Vec<String>>,
    pub ttl: Option<Seconds>,
    pub max_ttl: Option<Seconds>,
    pub period: Option<Seconds>,
    pub num_uses: Option<i64>,
    pub bound_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
enum Type {
    #[n(0)]
    #[default]
    Default,
    #[n(1)]
    Service,
    #[n(2)]
    Batch,
}

/// Which values were last given under their old names: they are shown under both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
struct GivenOld {
    #[n(0)]
    policies: bool,
    #[n(1)]
    ttl: bool,
    #[n(2)]
    max_ttl: bool,
    #[n(3)]
    period: bool,
    #[n(4)]
    num_uses: bool,
    #[n(5)]
    bound_cidrs: bool,
}

/// The shared parameters as a record keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct TokenParameters {
    #[n(0)]
    pub policies: Vec<String>,
    #[n(1)]
    pub ttl_secs: u64,
    #[n(2)]
    pub max_ttl_secs: u64,
    #[n(3)]
    pub explicit_max_ttl_secs: u64,
    #[n(4)]
    pub period_secs: u64,
    #[n(5)]
    pub num_uses: i64,
    /// As [`AddressBlock`] writes them.
    #[n(6)]
    pub bound_cidrs: Vec<String>,
    #[n(7)]
    pub no_default_policy: bool,
    #[n(8)]
    pub strictly_bind_ip: bool,
    #[n(9)]
    token_type: Type,
    #[n(10)]
    given_old: GivenOld,
}

impl TokenParameters {
    /// Take over what a request names; everything else stays. What cannot stand together is refused.
    ///
    /// # Errors
    /// 400 with the reason.
    pub fn change(&mut self, new: TokenFields, old: OldNames) -> Result<()> {
        let given = &mut self.given_old;
        if let Some(list) = newer(new.token_policies, old.policies, &mut given.policies) {
            self.policies = trimmed(list);
        }
        if let Some(s) = newer(new.token_ttl, old.ttl, &mut given.ttl) {
            self.ttl_secs = seconds("token_ttl", s)?;
        }
        if let Some(s) = newer(new.token_max_ttl, old.max_ttl, &mut given.max_ttl) {
            self.max_ttl_secs = seconds("token_max_ttl", s)?;
        }
        if let Some(s) = new.token_explicit_max_ttl {
            self.explicit_max_ttl_secs = seconds("token_explicit_max_ttl", s)?;
        }
        if let Some(s) = newer(new.token_period, old.period, &mut given.period) {
            self.period_secs = seconds("token_period", s)?;
        }
        if let Some(n) = newer(new.token_num_uses, old.num_uses, &mut given.num_uses) {
            self.num_uses = n;
        }
        if let Some(list) = newer(new.token_bound_cidrs, old.bound_cidrs, &mut given.bound_cidrs) {
            let blocks = AddressBlock::parse_all(&list).map_err(|e| Error::bad_request(e.to_string()))?;
            self.bound_cidrs = blocks.iter().map(ToString::to_string).collect();
        }
        self.no_default_policy = new.token_no_default_policy.unwrap_or(self.no_default_policy);
        self.strictly_bind_ip = new.token_strictly_bind_ip.unwrap_or(self.strictly_bind_ip);
        if let Some(word) = new.token_type {
            self.token_type = match word.as_str() {
                "" | "default" => Type::Default,
                "service" => Type::Service,
                "batch" => Type::Batch,
                other => return Err(Error::bad_request(format!("invalid 'token_type' value {other:?}"))),
            };
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        let refused = |why: &str| Err(Error::bad_request(why));
        if self.max_ttl_secs > 0 && self.ttl_secs > self.max_ttl_secs {
            return refused("'token_ttl' cannot be greater than 'token_max_ttl'");
        }
        if self.num_uses < 0 {
            return refused("'token_num_uses' cannot be negative");
        }
        if self.strictly_bind_ip && !self.bound_cidrs.is_empty() {
            return refused("'token_strictly_bind_ip' conflicts with 'token_bound_cidrs'; set only one");
        }
        if self.token_type == Type::Batch && self.period_secs > 0 {
            return refused("'token_type' cannot be 'batch' when set to generate periodic tokens");
        }
        if self.token_type == Type::Batch && self.num_uses > 0 {
            return refused("'token_type' cannot be 'batch' when set to generate tokens with limited use count");
        }
        Ok(())
    }

    /// Add the parameters to what a read answers.
    pub fn show(&self, out: &mut Map<String, Value>) {
        let mut set = |name: &str, value: Value, old: bool| {
            if old && let Some(old_name) = name.strip_prefix("token_") {
                out.insert(old_name.into(), value.clone());
            }
            out.insert(name.into(), value);
        };
        let given = &self.given_old;
        set("token_policies", self.policies.clone().into(), given.policies);
        set("token_ttl", self.ttl_secs.into(), given.ttl);
        set("token_max_ttl", self.max_ttl_secs.into(), given.max_ttl);
        set("token_explicit_max_ttl", self.explicit_max_ttl_secs.into(), false);
        set("token_period", self.period_secs.into(), given.period);
        set("token_num_uses", self.num_uses.into(), given.num_uses);
        set("token_bound_cidrs", self.bound_cidrs.clone().into(), given.bound_cidrs);
        set("token_no_default_policy", self.no_default_policy.into(), false);
        set("token_strictly_bind_ip", self.strictly_bind_ip.into(), false);
        let word = match self.token_type {
            Type::Default => "default",
            Type::Service => "service",
            Type::Batch => "batch",
        };
        set("token_type", word.into(), false);
    }

    /// Whether a caller at this address may log in.
    pub fn admits(&self, remote: Option<SocketAddr>) -> bool {
        is_within(&self.bound_cidrs, remote)
    }

    /// The token's part of a login by a caller at this address.
    ///
    /// # Errors
    /// 400 if the token is to be bound to the caller's address and there is none.
    pub fn login(&self, remote: Option<SocketAddr>) -> Result<Login> {
        let bound_cidrs = match (self.strictly_bind_ip, remote) {
            (false, _) => self.bound_cidrs.clone(),
            (true, Some(from)) => vec![canonical(from).to_string()],
            (true, None) => {
                return Err(Error::bad_request("the token is bound to the caller's address, and this caller has none"));
            }
        };
        Ok(Login {
            policies: self.policies.clone(),
            no_default_policy: self.no_default_policy,
            ttl_secs: self.ttl_secs,
            max_ttl_secs: self.max_ttl_secs,
            period_secs: self.period_secs,
            explicit_max_ttl_secs: self.explicit_max_ttl_secs,
            num_uses: self.num_uses,
            bound_cidrs,
            token_type: match self.token_type {
                Type::Default => LoginTokenType::Default,
                Type::Service => LoginTokenType::Service,
                Type::Batch => LoginTokenType::Batch,
            },
            ..Login::default()
        })
    }

    /// What counts at a renewal.
    pub fn renewal(&self) -> Renewal {
        Renewal {
            policies: self.policies.clone(),
            no_default_policy: self.no_default_policy,
            ttl_secs: self.ttl_secs,
            max_ttl_secs: self.max_ttl_secs,
            period_secs: self.period_secs,
        }
    }
}

/// Whether an address is in one of the blocks. Without blocks every caller is, with blocks none that has no address.
pub fn is_within(blocks: &[String], remote: Option<SocketAddr>) -> bool {
    let Some(from) = remote else { return blocks.is_empty() };
    blocks.is_empty() || blocks.iter().any(|b| b.parse::<AddressBlock>().is_ok_and(|b| b.holds(from.ip())))
}

fn canonical(remote: SocketAddr) -> IpAddr {
    remote.ip().to_canonical()
}

/// The value of a parameter with an old and a new name: the new one wins. `given_old` remembers whether the old
/// name was used.
fn newer<T>(new: Option<T>, old: Option<T>, given_old: &mut bool) -> Option<T> {
    if new.is_some() || old.is_some() {
        *given_old = old.is_some();
    }
    new.or(old)
}

/// Each name once, in the given order.
fn trimmed(list: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(list.len());
    for name in list.iter().map(|n| n.trim()).filter(|n| !n.is_empty()) {
        if !out.iter().any(|n| n == name) {
            out.push(name.to_owned());
        }
    }
    out
}

/// A duration that may not be negative.
///
/// # Errors
/// 400 that names the field.
pub fn seconds(field: &str, Seconds(s): Seconds) -> Result<u64> {
    u64::try_from(s).map_err(|_| {
        Error::bad_request(format!("error converting input for field {field:?}: cannot provide negative value '{s}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;
    use serde_json::json;

    fn change(p: &mut TokenParameters, body: Value) -> Result<()> {
        p.change(TokenFields::parse(body.as_object().unwrap())?, OldNames::default())
    }

    fn shown(p: &TokenParameters) -> Value {
        let mut out = Map::new();
        p.show(&mut out);
        Value::Object(out)
    }

    #[test]
    fn a_change_takes_only_what_it_names() {
        let mut p = TokenParameters::default();
        change(&mut p, json!({"token_policies": ["x", "X", " y", "x", ""], "token_ttl": "10m", "token_max_ttl": 1200}))
            .unwrap();
        change(&mut p, json!({"token_bound_cidrs": "127.0.0.1/8,::1/128"})).unwrap();
        change(&mut p, json!({"token_ttl": "90"})).unwrap();
        let s = shown(&p);
        assert_eq!(s["token_policies"], json!(["x", "X", "y"]));
        assert_eq!(s["token_bound_cidrs"], json!(["127.0.0.1/8", "::1"]));
        assert_eq!(
            (&s["token_ttl"], &s["token_max_ttl"], &s["token_type"]),
            (&json!(90), &json!(1200), &json!("default"))
        );
    }

    #[test]
    fn an_old_name_shows_beside_the_new_one_until_the_new_one_is_given() {
        let mut p = TokenParameters::default();
        let old = |ttl| OldNames { ttl: Some(Seconds(ttl)), ..OldNames::default() };
        let new = |body: Value| TokenFields::parse(body.as_object().unwrap()).unwrap();
        p.change(new(json!({})), old(300)).unwrap();
        assert_eq!((&shown(&p)["ttl"], &shown(&p)["token_ttl"]), (&json!(300), &json!(300)));
        p.change(new(json!({"token_ttl": 360})), old(1)).unwrap();
        assert_eq!(shown(&p)["ttl"], json!(360));
        p.change(new(json!({"token_ttl": 60})), OldNames::default()).unwrap();
        assert_eq!((shown(&p).get("ttl"), &shown(&p)["token_ttl"]), (None, &json!(60)));
    }

    #[test]
    fn what_cannot_stand_together_is_refused() {
        for body in [
            json!({"token_ttl": "2h", "token_max_ttl": "1h"}),
            json!({"token_type": "odd"}),
            json!({"token_type": "default-service"}),
            json!({"token_type": "batch", "token_period": "1h"}),
            json!({"token_type": "batch", "token_num_uses": 2}),
            json!({"token_num_uses": -1}),
            json!({"token_period": -1}),
            json!({"token_bound_cidrs": "nope"}),
            json!({"token_strictly_bind_ip": true, "token_bound_cidrs": "10.0.0.0/8"}),
        ] {
            let refused = change(&mut TokenParameters::default(), body.clone());
            assert!(matches!(refused, Err(Error::BadRequest(_))), "{body}: {refused:?}");
        }
    }

    #[test]
    fn a_token_is_bound_to_the_address_that_logged_in() {
        let mut p = TokenParameters::default();
        change(&mut p, json!({"token_strictly_bind_ip": true})).unwrap();
        let from = "[::ffff:10.1.2.3]:50".parse().unwrap();
        assert_eq!(p.login(Some(from)).unwrap().bound_cidrs, ["10.1.2.3"]);
        assert!(p.login(None).is_err());
    }

    #[test]
    fn blocks_admit_who_is_in_them() {
        let mut p = TokenParameters::default();
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(p.admits(None) && p.admits(at("1.2.3.4:5")));
        change(&mut p, json!({"token_bound_cidrs": "10.0.0.0/8"})).unwrap();
        assert!(p.admits(at("10.9.9.9:1")) && !p.admits(at("11.0.0.1:1")) && !p.admits(None));
    }
}
