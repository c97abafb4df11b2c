//! `role`: who may log in, how secret ids are, and what the tokens are.

use holdfast_sdk::parameters::{Page, Seconds};
use holdfast_sdk::token_parameters::seconds;
use holdfast_sdk::{
    AddressBlock, Call, Error, Map, OldNames, Place, Response, Result, TokenFields, TokenParameters, Tx, Value,
    parameters, record, uuid,
};
use minicbor::{Decode, Encode};

use crate::{Approle, ROLE_IDS, ROLES, role_name, store};

#[derive(Clone, Encode, Decode)]
pub struct Role {
    /// Names the role in keys: one that is made anew under its name has another.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub internal_id: [u8; 16],
    /// Its secret ids are known by their HMAC under this key alone.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub hmac_key: [u8; 32],
    #[n(2)]
    pub role_id: String,
    #[n(3)]
    pub bind_secret_id: bool,
    /// None: never given.
    #[n(4)]
    pub secret_id_bound_cidrs: Option<Vec<String>>,
    /// 0: no limit.
    #[n(5)]
    pub secret_id_num_uses: i64,
    /// 0: no limit.
    #[n(6)]
    pub secret_id_ttl_secs: u64,
    #[n(7)]
    pub local_secret_ids: bool,
    #[n(8)]
    pub tokens: TokenParameters,
}
holdfast_sdk::record!(Role);

parameters! {
    pub struct Write {
        /// The role's id; a made one by default.
        role_id: Option<String>,
        /// Whether a login needs a secret id.
        bind_secret_id: Option<bool>,
        /// Networks from which secret ids may be used.
        secret_id_bound_cidrs: Option<Vec<String>>,
        /// The old name of secret_id_bound_cidrs.
        bound_cidr_list: Option<Vec<String>>,
        /// How often a secret id may be used; 0 is no limit.
        secret_id_num_uses: Option<i64>,
        /// How long a secret id lives; 0 is no limit.
        secret_id_ttl: Option<Seconds>,
        /// Secret ids are local to the cluster; only when the role is made.
        local_secret_ids: Option<bool>,
        /// The old name of token_policies.
        policies: Option<Vec<String>>,
        /// The old name of token_period.
        period: Option<Seconds>,
    }
    with token: TokenFields
}

parameters! {
    pub struct RoleId {
        /// The role's id.
        role_id: Option<String>,
    }
}

impl Role {
    fn new() -> Result<Role> {
        Ok(Role {
            internal_id: uuid::bytes()?,
            hmac_key: uuid::bytes()?,
            role_id: uuid::random()?,
            bind_secret_id: true,
            secret_id_bound_cidrs: None,
            secret_id_num_uses: 0,
            secret_id_ttl_secs: 0,
            local_secret_ids: false,
            tokens: TokenParameters::default(),
        })
    }

    pub fn load(tx: &mut Tx, name: &str) -> Result<Option<Role>> {
        record::get(tx, Place::Name(ROLES, name))
    }

    /// The role of a role id, with its name.
    pub fn of_id(tx: &mut Tx, role_id: &str) -> Result<Option<(String, Role)>> {
        let Some(name) = tx.get(Place::Id(ROLE_IDS, role_id))? else { return Ok(None) };
        let name = String::from_utf8(name).map_err(Error::internal)?;
        Ok(Role::load(tx, &name)?.map(|role| (name, role)))
    }

    /// Save what was changed. A role that would let in whoever knows its id, from anywhere, is refused.
    pub fn save(&self, tx: &mut Tx, name: &str) -> Result<()> {
        let bound = self.secret_id_bound_cidrs.as_ref().is_some_and(|c| !c.is_empty());
        if !self.bind_secret_id && !bound && self.tokens.bound_cidrs.is_empty() {
            return Err(Error::Status(500, vec!["at least one constraint should be enabled on the role".into()]));
        }
        record::put(tx, Place::Name(ROLES, name), self)
    }

    /// Give the role another id. No two roles have the same.
    fn take_role_id(&mut self, tx: &mut Tx, name: &str, role_id: String) -> Result<()> {
        match tx.get(Place::Id(ROLE_IDS, &role_id))? {
            Some(owner) if owner != name.as_bytes() => {
                return Err(Error::Status(500, vec!["role_id already in use".into()]));
            }
            _ => {}
        }
        tx.delete(Place::Id(ROLE_IDS, &self.role_id))?;
        tx.put(Place::Id(ROLE_IDS, &role_id), name.into())?;
        self.role_id = role_id;
        Ok(())
    }

    pub fn set_num_uses(&mut self, uses: i64) -> Result<()> {
        if uses < 0 {
            return Err(Error::bad_request("secret_id_num_uses cannot be negative"));
        }
        self.secret_id_num_uses = uses;
        Ok(())
    }
}

/// Networks of secret ids: they must be written as blocks.
pub fn blocks(list: &[String]) -> Result<Vec<String>> {
    let list: Vec<String> = list.iter().map(|b| b.trim().to_owned()).filter(|b| !b.is_empty()).collect();
    for text in &list {
        if !text.contains('/') || text.parse::<AddressBlock>().is_err() {
            return Err(Error::bad_request(format!("failed to validate CIDR blocks: invalid CIDR address: {text}")));
        }
    }
    Ok(list)
}

pub fn list(_: &Approle, tx: &mut Tx, _: &Call<'_>, p: Page) -> Result<Response> {
    let (after, limit) = p.bounds();
    Response::list(tx.names(ROLES, "", after, limit)?)
}

pub fn exists(_: &Approle, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(Role::load(tx, &role_name(call))?.is_some()))
}

pub fn read(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = Role::load(tx, &role_name(call))?.ok_or(Error::NotFound)?;
    let mut data = Map::new();
    data.insert("bind_secret_id".into(), role.bind_secret_id.into());
    data.insert("local_secret_ids".into(), role.local_secret_ids.into());
    data.insert("secret_id_bound_cidrs".into(), role.secret_id_bound_cidrs.map_or(Value::Null, Value::from));
    data.insert("secret_id_num_uses".into(), role.secret_id_num_uses.into());
    data.insert("secret_id_ttl".into(), role.secret_id_ttl_secs.into());
    role.tokens.show(&mut data);
    Ok(Response::data(data))
}

pub fn write(approle: &Approle, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = role_name(call);
    let (mut role, is_new) = match Role::load(tx, &name)? {
        Some(role) => (role, false),
        None => (Role::new()?, true),
    };
    let mut warnings = Vec::new();
    match p.local_secret_ids {
        Some(local) if is_new => role.local_secret_ids = local,
        Some(_) => return Err(Error::bad_request("local_secret_ids can only be modified during role creation")),
        None => {}
    }
    role.bind_secret_id = p.bind_secret_id.unwrap_or(role.bind_secret_id);
    if let Some(list) = p.secret_id_bound_cidrs.or(p.bound_cidr_list) {
        role.secret_id_bound_cidrs = Some(blocks(&list)?);
    }
    if let Some(uses) = p.secret_id_num_uses {
        role.set_num_uses(uses)?;
    }
    if let Some(ttl) = p.secret_id_ttl {
        role.secret_id_ttl_secs = seconds("secret_id_ttl", ttl)?;
    }
    let mut token = p.token;
    if let Some(kind @ ("default-service" | "default-batch")) = token.token_type.as_deref() {
        let meant = kind.trim_start_matches("default-").to_owned();
        warnings.push(format!("{kind} has no useful meaning; adjusting to {meant}"));
        token.token_type = Some(meant);
    }
    if p.period.is_some_and(|p| p.0 > i64::try_from(approle.max_ttl_secs).unwrap_or(i64::MAX)) {
        return Err(Error::bad_request("the period is greater than the mount's maximum TTL"));
    }
    role.tokens.change(token, OldNames { policies: p.policies, period: p.period, ..OldNames::default() })?;
    if role.tokens.max_ttl_secs > approle.max_ttl_secs {
        warnings.push(
            "token_max_ttl is greater than the backend mount's maximum TTL value; issued tokens' max TTL value will \
             be truncated"
                .into(),
        );
    }
    match p.role_id {
        Some(id) if id.trim().is_empty() => return Err(Error::bad_request("the role_id is empty")),
        Some(id) => role.take_role_id(tx, &name, id)?,
        None if is_new => {
            let id = role.role_id.clone();
            role.take_role_id(tx, &name, id)?;
        }
        None => {}
    }
    role.save(tx, &name)?;
    Ok(Response { warnings, ..Response::empty() })
}

/// Its secret ids end with it.
/// What the logins of a role are noted by.
pub fn use_of(name: &str) -> String {
    format!("role/{name}")
}

pub fn delete(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = role_name(call);
    if let Some(role) = Role::load(tx, &name)? {
        tx.delete(Place::Id(ROLE_IDS, &role.role_id))?;
        tx.delete(Place::Name(ROLES, &name))?;
        tx.forget_use(&use_of(&name))?;
        store::forget_role(tx, &role)?;
    }
    Ok(Response::empty())
}

pub fn read_role_id(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = Role::load(tx, &role_name(call))?.ok_or(Error::NotFound)?;
    let mut data = Map::new();
    data.insert("role_id".into(), role.role_id.into());
    Ok(Response::data(data))
}

pub fn write_role_id(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: RoleId) -> Result<Response> {
    let name = role_name(call);
    let mut role = Role::load(tx, &name)?.ok_or(Error::UnsupportedPath)?;
    let id = p.role_id.filter(|id| !id.trim().is_empty()).ok_or_else(|| Error::bad_request("missing role_id"))?;
    role.take_role_id(tx, &name, id)?;
    role.save(tx, &name)?;
    Ok(Response::empty())
}
