//! `secret-id`: make, look up and destroy what a role's programs log in with.

use holdfast_sdk::parameters::{Page, Seconds};
use holdfast_sdk::token_parameters::seconds;
use holdfast_sdk::{AddressBlock, Body, Call, Error, Map, Response, Result, Timestamp, Tx, Value, parameters, uuid};

use crate::roles::{self, Role};
use crate::store::{self, SecretId};
use crate::{Approle, role_name};

/// Secret ids that one tidying request removes.
const TIDIED: usize = 1000;
/// Each new one takes so many that ended with it: what nobody tidies does not pile up.
const TIDIED_BY_EACH: usize = 2;

parameters! {
    /// What a secret id is to be.
    pub struct Make {
        /// What tokens made with it carry: JSON or k=v,k=v.
        metadata: Option<String>,
        /// Networks from which it may be used, within the role's.
        cidr_list: Option<Vec<String>>,
        /// Networks that its tokens are bound to, within the role's.
        token_bound_cidrs: Option<Vec<String>>,
        /// How often it may be used, within the role's limit.
        num_uses: Option<i64>,
        /// How long it lives, within the role's limit.
        ttl: Option<Seconds>,
    }
}

parameters! {
    pub struct MakeCustom {
        /// The secret id.
        secret_id: Option<String>,
    }
    with make: Make
}

parameters! {
    pub struct BySecretId {
        /// The secret id.
        secret_id: Option<String>,
    }
}

parameters! {
    pub struct ByAccessor {
        /// The accessor of the secret id.
        secret_id_accessor: Option<String>,
    }
}

fn given(value: Option<String>, name: &str) -> Result<String> {
    value.filter(|v| !v.is_empty()).ok_or_else(|| Error::bad_request(format!("missing {name}")))
}

/// The role of the path; the status says what it means if it is not there.
fn role(tx: &mut Tx, call: &Call<'_>, absent: u16) -> Result<Role> {
    let name = role_name(call);
    Role::load(tx, &name)?.ok_or_else(|| Error::Status(absent, vec![format!("role {name:?} does not exist")]))
}

pub fn list(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: Page) -> Result<Response> {
    let role = role(tx, call, 400)?;
    let (after, limit) = p.bounds();
    let mut all = store::accessors(tx, &role, call.now)?;
    all.retain(|a| a.as_str() > after);
    if limit > 0 {
        all.truncate(limit);
    }
    Response::list(all)
}

pub fn make(approle: &Approle, tx: &mut Tx, call: &Call<'_>, p: Make) -> Result<Response> {
    insert(approle, tx, call, p, None)
}

pub fn make_custom(approle: &Approle, tx: &mut Tx, call: &Call<'_>, p: MakeCustom) -> Result<Response> {
    let secret_id = given(p.secret_id, "secret_id")?;
    insert(approle, tx, call, p.make, Some(secret_id))
}

/// `custom`: the caller brings the secret id.
fn insert(approle: &Approle, tx: &mut Tx, call: &Call<'_>, p: Make, custom: Option<String>) -> Result<Response> {
    let role = role(tx, call, 404)?;
    if !role.bind_secret_id {
        return Err(Error::bad_request("bind_secret_id is not set on the role"));
    }
    let secret_id = match custom {
        Some(id) => id,
        None => uuid::random()?,
    };
    let made = new(approle, &role, p, call.now)?;
    let key = store::key(&role, &secret_id)?;
    if store::load(tx, &key, call.now)?.is_some() {
        return Err(Error::Status(500, vec!["the secret ID is already registered".into()]));
    }
    store::sweep(tx, call.now, TIDIED_BY_EACH)?;
    store::insert(tx, &key, &made)?;
    let mut data = Map::new();
    data.insert("secret_id".into(), secret_id.into());
    data.insert("secret_id_accessor".into(), made.accessor.clone().into());
    data.insert("secret_id_num_uses".into(), made.num_uses.into());
    data.insert("secret_id_ttl".into(), made.ttl_secs.into());
    Ok(Response { accessor: Some(made.accessor), ..Response::data(data) })
}

/// A secret id within its role's limits.
fn new(approle: &Approle, role: &Role, p: Make, now: Timestamp) -> Result<SecretId> {
    let num_uses = p.num_uses.unwrap_or(role.secret_id_num_uses);
    if num_uses < 0 {
        return Err(Error::bad_request("num_uses cannot be negative"));
    }
    if role.secret_id_num_uses > 0 && (num_uses == 0 || num_uses > role.secret_id_num_uses) {
        return Err(Error::bad_request("num_uses cannot be higher than the role's secret_id_num_uses"));
    }
    let ttl_secs = p.ttl.map_or(Ok(role.secret_id_ttl_secs), |ttl| seconds("ttl", ttl))?;
    if role.secret_id_ttl_secs > 0 && (ttl_secs == 0 || ttl_secs > role.secret_id_ttl_secs) {
        return Err(Error::bad_request("ttl cannot be longer than the role's secret_id_ttl"));
    }
    let ttl_secs = ttl_secs.min(approle.max_ttl_secs);
    let cidr_list = roles::blocks(&p.cidr_list.unwrap_or_default())?;
    within(&cidr_list, role.secret_id_bound_cidrs.as_deref().unwrap_or_default())?;
    let token_bound_cidrs = roles::blocks(&p.token_bound_cidrs.unwrap_or_default())?;
    within(&token_bound_cidrs, &role.tokens.bound_cidrs)?;
    Ok(SecretId {
        accessor: uuid::random()?,
        num_uses,
        ttl_secs,
        created_ns: now.0,
        updated_ns: now.0,
        ends_ns: (ttl_secs > 0).then(|| now.plus_secs(ttl_secs).0),
        cidr_list,
        token_bound_cidrs,
        metadata: metadata(p.metadata.as_deref().unwrap_or(""))?,
    })
}

/// A JSON object of texts, or `k=v,k=v`.
fn metadata(text: &str) -> Result<Vec<(String, String)>> {
    let refuse = || Error::bad_request("failed to parse metadata: it is no JSON object of strings, and no list of k=v");
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.starts_with('{') {
        let Ok(Value::Object(map)) = holdfast_sdk::json::read_value(text.as_bytes()) else { return Err(refuse()) };
        return map.into_iter().map(|(k, v)| Ok((k, v.as_str().ok_or_else(refuse)?.to_owned()))).collect();
    }
    let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (key, value) in text
        .split(',')
        .map(|p| pair(p).filter(|(k, _)| !k.is_empty()).ok_or_else(refuse))
        .collect::<Result<Vec<_>>>()?
    {
        pairs.retain(|(k, _)| *k != key);
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Each block of a secret id must lie in one of its role's, if the role has some.
fn within(blocks: &[String], of_role: &[String]) -> Result<()> {
    if of_role.is_empty() {
        return Ok(());
    }
    let wide = AddressBlock::parse_all(of_role).map_err(Error::internal)?;
    let narrow = AddressBlock::parse_all(blocks).map_err(Error::internal)?;
    match narrow.iter().find(|n| !wide.iter().any(|w| w.contains(n))) {
        None => Ok(()),
        Some(outside) => {
            let text = format!("the CIDR block {outside} of the secret ID is not within those of the role {of_role:?}");
            Err(Error::Status(500, vec![text]))
        }
    }
}

fn shown(tx: &mut Tx, s: &SecretId) -> Result<Map<String, Value>> {
    let last_used = tx.last_use(&store::use_of(&s.accessor))?;
    let mut m = Map::new();
    let mut set = |k: &str, v: Value| {
        m.insert(k.into(), v);
    };
    set("cidr_list", s.cidr_list.clone().into());
    set("creation_time", Timestamp(s.created_ns).rfc3339().into());
    // Go's zero time, which clients know.
    set("expiration_time", s.ends_ns.map_or("0001-01-01T00:00:00Z".into(), |e| Timestamp(e).rfc3339()).into());
    set("last_updated_time", Timestamp(s.updated_ns).rfc3339().into());
    if let Some(at) = last_used {
        set("last_used_time", at.rfc3339_secs().into());
    }
    set("metadata", Value::Object(s.metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect()));
    set("secret_id_accessor", s.accessor.clone().into());
    set("secret_id_num_uses", s.num_uses.into());
    set("secret_id_ttl", s.ttl_secs.into());
    set("token_bound_cidrs", s.token_bound_cidrs.clone().into());
    Ok(m)
}

pub fn lookup(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: BySecretId) -> Result<Response> {
    let secret_id = given(p.secret_id, "secret_id")?;
    let role = role(tx, call, 404)?;
    let found = store::load(tx, &store::key(&role, &secret_id)?, call.now)?;
    match found {
        Some(found) => Ok(Response::data(shown(tx, &found)?)),
        None => Ok(Response::empty()),
    }
}

pub fn destroy(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: BySecretId) -> Result<Response> {
    let secret_id = given(p.secret_id, "secret_id")?;
    let role = role(tx, call, 404)?;
    let key = store::key(&role, &secret_id)?;
    if let Some(found) = store::load(tx, &key, call.now)? {
        store::remove(tx, &key, &found)?;
    }
    Ok(Response::empty())
}

fn no_accessor(accessor: &str) -> String {
    format!("failed to find accessor entry for secret_id_accessor: {accessor:?}")
}

pub fn lookup_accessor(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: ByAccessor) -> Result<Response> {
    let accessor = given(p.secret_id_accessor, "secret_id_accessor")?;
    let role = role(tx, call, 404)?;
    if let Some(key) = store::of_accessor(tx, &role, &accessor)?
        && let Some(found) = store::load(tx, &key, call.now)?
    {
        return Ok(Response::data(shown(tx, &found)?));
    }
    let mut data = Map::new();
    data.insert("error".into(), no_accessor(&accessor).into());
    Ok(Response::gone(Body::Data(data), Vec::new()))
}

pub fn destroy_accessor(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: ByAccessor) -> Result<Response> {
    let accessor = given(p.secret_id_accessor, "secret_id_accessor")?;
    let role = role(tx, call, 404)?;
    if let Some(key) = store::of_accessor(tx, &role, &accessor)?
        && let Some(found) = store::load(tx, &key, call.now)?
    {
        store::remove(tx, &key, &found)?;
        return Ok(Response::empty());
    }
    Err(Error::Status(500, vec![no_accessor(&accessor)]))
}

pub fn tidy(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let removed = store::sweep(tx, call.now, TIDIED)?;
    let text = match removed {
        TIDIED => {
            format!("Removed {TIDIED} secret IDs that had ended or whose role is gone. There are more: ask again.")
        }
        n => format!("Removed all secret IDs that had ended or whose role is gone: {n}."),
    };
    Ok(Response { status: Some(202), ..Response::empty().warn(text) })
}
