//! `login/:username`, and what a token's renewal asks later.

use std::sync::Arc;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Alias, Call, Error, Login, Preparation, Prepared, Renewal, Response, Result, Tx, parameters};

use crate::password::{MAX_PASSWORD_BYTES, Password};
use crate::turns::in_turn;
use crate::users::User;
use crate::{Userpass, username};

parameters! {
    pub struct Credentials {
        /// The user's password.
        password: Option<String>,
    }
}

/// What came of looking at a password.
struct Checked {
    /// The stored one that it was held against. None: there is no such user.
    against: Option<Password>,
    is_right: bool,
    /// The same password in today's form, if the stored one is older.
    renewed: Option<Password>,
}

fn given(p: Credentials) -> Result<Secret<String>> {
    let missing = || Error::Status(500, vec!["missing password".into()]);
    p.password.filter(|p| !p.is_empty()).map(Secret::new).ok_or_else(missing)
}

/// Look at the password, before the transaction. For a user who does not exist it takes as long.
pub fn check(_: &Userpass, tx: &mut Tx, call: &Call<'_>, p: Credentials) -> Result<Option<Preparation>> {
    let password = given(p)?;
    let against = User::load(tx, &username(call))?.map(|u| u.password);
    Ok(Some(Box::pin(in_turn(move || {
        let nobody = against.is_none();
        let stored = against.clone().unwrap_or_else(Password::of_nobody);
        let is_right = stored.is(&password)? && !nobody;
        // bcrypt has not seen all of a longer password, and ours would.
        let renew = is_right && stored.is_outdated() && password.expose().len() <= MAX_PASSWORD_BYTES;
        let renewed = if renew { Some(Password::hashed(&password)?) } else { None };
        Ok(Arc::new(Checked { against, is_right, renewed }) as Prepared)
    }))))
}

pub fn login(_: &Userpass, tx: &mut Tx, call: &Call<'_>, p: Credentials) -> Result<Response> {
    given(p)?;
    let refused = || Error::LoginRefused("invalid username or password".into());
    let checked = call.prepared.and_then(|p| p.downcast_ref::<Checked>());
    let checked = checked.ok_or_else(|| Error::Internal("the password was not checked".into()))?;
    if !checked.is_right {
        return Err(refused());
    }
    let name = username(call);
    let mut user = User::load(tx, &name)?.ok_or_else(refused)?;
    if checked.against.as_ref() != Some(&user.password) {
        return Err(Error::Unavailable("the user's password was changed at this moment; try again".into()));
    }
    if !user.tokens.admits(call.request.remote) {
        return Err(Error::PermissionDenied);
    }
    if let Some(renewed) = &checked.renewed {
        user.password = renewed.clone();
        user.save(tx, &name)?;
    }
    Ok(Response::login(Login {
        alias: Some(Alias { name: name.clone(), metadata: Vec::new() }),
        display_name: name.clone(),
        metadata: vec![("username".into(), name.clone())],
        internal: vec![("username".into(), name)],
        ..user.tokens.login(call.request.remote)?
    }))
}

/// Who tries to log in. Names of no user are not counted: that would lock nobody out, and fill the memory.
pub fn name(tx: &mut Tx, call: &Call<'_>) -> Result<Option<String>> {
    let name = username(call);
    Ok(User::load(tx, &name)?.map(|_| name))
}

pub fn renew(tx: &mut Tx, internal: &[(String, String)]) -> Result<Renewal> {
    let name = internal.iter().find(|(k, _)| k == "username").map_or("", |(_, v)| v.as_str());
    match User::load(tx, name)? {
        Some(user) => Ok(user.tokens.renewal()),
        None => Err(Error::bad_request(format!("the user {name:?} does not exist any more, not renewing"))),
    }
}
