//! `login`, and what a token's renewal asks later.

use holdfast_sdk::token_parameters::is_within;
use holdfast_sdk::{Alias, Call, Error, Login, Parameters, Place, Renewal, Response, Result, Tx, parameters};

use crate::roles::{self, Role};
use crate::store::{self, SecretId};
use crate::{Approle, ROLES, SECRET_IDS};

parameters! {
    pub struct Credentials {
        /// The role's id.
        role_id: Option<String>,
        /// A secret id of the role.
        secret_id: Option<String>,
    }
}

fn trimmed(value: Option<String>) -> Option<String> {
    value.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

fn refused() -> Error {
    Error::LoginRefused("invalid role or secret ID".into())
}

pub fn login(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: Credentials) -> Result<Response> {
    let role_id = trimmed(p.role_id).ok_or_else(|| Error::bad_request("missing role_id"))?;
    let (name, role) = Role::of_id(tx, &role_id)?.ok_or_else(refused)?;
    let mut metadata = vec![("role_name".to_owned(), name.clone())];
    let mut token_blocks = Vec::new();
    if role.bind_secret_id {
        let secret_id = trimmed(p.secret_id).ok_or_else(|| Error::bad_request("missing secret_id"))?;
        let used = use_secret_id(tx, call, &role, &secret_id)?;
        metadata.extend(used.metadata.into_iter().filter(|(k, _)| k != "role_name"));
        token_blocks = used.token_bound_cidrs;
    }
    admits(call, role.secret_id_bound_cidrs.as_deref().unwrap_or_default(), "role")?;
    tx.note_use(&roles::use_of(&name), Place::Name(ROLES, &name));
    let mut login = role.tokens.login(call.request.remote)?;
    // A token that is bound to the caller's address stays so, if that lies in the blocks.
    let bound_closer = role.tokens.strictly_bind_ip && is_within(&token_blocks, call.request.remote);
    if !token_blocks.is_empty() && !bound_closer {
        login.bound_cidrs = token_blocks;
    }
    Ok(Response::login(Login {
        alias: Some(Alias { name: role.role_id, metadata: metadata.clone() }),
        metadata,
        counted_as: name.clone(),
        internal: vec![("role_name".into(), name)],
        ..login
    }))
}

/// Count a use; the last one ends the secret id.
fn use_secret_id(tx: &mut Tx, call: &Call<'_>, role: &Role, secret_id: &str) -> Result<SecretId> {
    let key = store::key(role, secret_id)?;
    let found = store::load(tx, &key, call.now)?.ok_or_else(refused)?;
    admits(call, &found.cidr_list, "secret ID")?;
    match found.num_uses {
        0 => {}
        1 => {
            store::remove(tx, &key, &found)?;
            return Ok(found);
        }
        left => store::update(tx, &key, &SecretId { num_uses: left - 1, updated_ns: call.now.0, ..found.clone() })?,
    }
    tx.note_use(&store::use_of(&found.accessor), Place::Ordered(SECRET_IDS, &key));
    Ok(found)
}

fn admits(call: &Call<'_>, blocks: &[String], whose: &str) -> Result<()> {
    if is_within(blocks, call.request.remote) {
        return Ok(());
    }
    let from = call.request.remote.map_or_else(String::new, |r| r.ip().to_canonical().to_string());
    Err(Error::bad_request(format!("source address {from:?} unauthorized by CIDR restrictions on the {whose}")))
}

/// Who tries to log in. Ids of no role are not counted: that would lock nobody out, and fill the memory.
pub fn name(tx: &mut Tx, call: &Call<'_>) -> Result<Option<String>> {
    // What cannot be read is refused by the login itself.
    let Ok(Credentials { role_id, .. }) = Credentials::parse(&call.request.data) else { return Ok(None) };
    let Some(role_id) = trimmed(role_id) else { return Ok(None) };
    Ok(Role::of_id(tx, &role_id)?.map(|_| role_id))
}

/// The role that a login is for.
pub fn role(tx: &mut Tx, call: &Call<'_>) -> Result<Option<String>> {
    let Ok(Credentials { role_id, .. }) = Credentials::parse(&call.request.data) else { return Ok(None) };
    let Some(role_id) = trimmed(role_id) else { return Ok(None) };
    Ok(Role::of_id(tx, &role_id)?.map(|(name, _)| name))
}

pub fn renew(tx: &mut Tx, internal: &[(String, String)]) -> Result<Renewal> {
    let name = internal.iter().find(|(k, _)| k == "role_name").map_or("", |(_, v)| v.as_str());
    match Role::load(tx, name)? {
        Some(role) => Ok(role.tokens.renewal()),
        None => Err(Error::Status(500, vec![format!("role {name:?} does not exist during renewal")])),
    }
}
