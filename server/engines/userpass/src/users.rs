//! `users`: who may log in, with which password, and what the tokens are.

use std::sync::Arc;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::parameters::{Page, Seconds};
use holdfast_sdk::{
    Call, Error, Map, OldNames, Place, Preparation, Prepared, Response, Result, TokenFields, TokenParameters, Tx,
    parameters, record,
};
use minicbor::{Decode, Encode};

use crate::password::{MAX_PASSWORD_BYTES, Password};
use crate::turns::in_turn;
use crate::{USERS, Userpass, username};

#[derive(Clone, Encode, Decode)]
pub struct User {
    #[n(0)]
    pub password: Password,
    #[n(1)]
    pub tokens: TokenParameters,
}
holdfast_sdk::record!(User);

impl User {
    pub fn load(tx: &mut Tx, name: &str) -> Result<Option<User>> {
        record::get(tx, Place::Name(USERS, name))
    }

    pub fn save(&self, tx: &mut Tx, name: &str) -> Result<()> {
        record::put(tx, Place::Name(USERS, name), self)
    }
}

parameters! {
    pub struct Write {
        /// The old name of token_policies.
        policies: Option<Vec<String>>,
        /// The old name of token_ttl.
        ttl: Option<Seconds>,
        /// The old name of token_max_ttl.
        max_ttl: Option<Seconds>,
        /// The old name of token_bound_cidrs.
        bound_cidrs: Option<Vec<String>>,
    }
    with new: NewPassword, token: TokenFields
}

parameters! {
    pub struct NewPassword {
        /// The user's password, 72 bytes at most.
        password: Option<String>,
        /// The user's password as a bcrypt hash.
        password_hash: Option<String>,
    }
}

parameters! {
    pub struct Policies {
        /// Policies of the user's tokens.
        token_policies: Option<Vec<String>>,
        /// The old name of token_policies.
        policies: Option<Vec<String>>,
    }
}

/// What a request says of the password.
enum Given {
    Nothing,
    Plain(Secret<String>),
    Hash(Password),
}

impl NewPassword {
    fn given(self) -> Result<Given> {
        let some = |text: Option<String>| text.filter(|t| !t.is_empty());
        match (some(self.password), some(self.password_hash)) {
            (None, None) => Ok(Given::Nothing),
            (Some(_), Some(_)) => Err(Error::bad_request("only one of password or password_hash may be provided")),
            (Some(p), None) if p.len() > MAX_PASSWORD_BYTES => {
                let text = format!("the password is longer than {MAX_PASSWORD_BYTES} bytes");
                Err(Error::Status(500, vec![text]))
            }
            (Some(p), None) => Ok(Given::Plain(Secret::new(p))),
            (None, Some(hash)) => Password::from_bcrypt(&hash).map(Given::Hash),
        }
    }
}

/// Hash a password that comes in the clear, before the transaction.
fn hash_given(new: NewPassword) -> Result<Option<Preparation>> {
    let Given::Plain(password) = new.given()? else { return Ok(None) };
    Ok(Some(Box::pin(in_turn(move || Ok(Arc::new(Password::hashed(&password)?) as Prepared)))))
}

pub fn hash(_: &Userpass, _: &mut Tx, _: &Call<'_>, p: Write) -> Result<Option<Preparation>> {
    hash_given(p.new)
}

pub fn hash_new(_: &Userpass, tx: &mut Tx, call: &Call<'_>, p: NewPassword) -> Result<Option<Preparation>> {
    existing(tx, &username(call))?;
    hash_given(p)
}

/// The password that a request sets. None: it names none.
fn new_password(new: NewPassword, call: &Call<'_>) -> Result<Option<Password>> {
    match new.given()? {
        Given::Nothing => Ok(None),
        Given::Hash(password) => Ok(Some(password)),
        Given::Plain(_) => match call.prepared.and_then(|p| p.downcast_ref::<Password>()) {
            Some(hashed) => Ok(Some(hashed.clone())),
            None => Err(Error::Internal("the password was not hashed".into())),
        },
    }
}

fn existing(tx: &mut Tx, name: &str) -> Result<User> {
    User::load(tx, name)?.ok_or_else(|| Error::Status(500, vec!["username does not exist".into()]))
}

fn none_given() -> Error {
    Error::bad_request("must provide either password or password_hash")
}

pub fn list(_: &Userpass, tx: &mut Tx, _: &Call<'_>, p: Page) -> Result<Response> {
    let (after, limit) = p.bounds();
    Response::list(tx.names(USERS, "", after, limit)?)
}

pub fn exists(_: &Userpass, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(User::load(tx, &username(call))?.is_some()))
}

pub fn read(_: &Userpass, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let user = User::load(tx, &username(call))?.ok_or(Error::NotFound)?;
    let mut data = Map::new();
    user.tokens.show(&mut data);
    Ok(Response::data(data))
}

pub fn write(_: &Userpass, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = username(call);
    let user = match (User::load(tx, &name)?, new_password(p.new, call)?) {
        (None, None) => return Err(none_given()),
        (None, Some(password)) => User { password, tokens: TokenParameters::default() },
        (Some(user), None) => user,
        (Some(user), Some(password)) => User { password, ..user },
    };
    let mut tokens = user.tokens;
    let old = OldNames {
        policies: p.policies,
        ttl: p.ttl,
        max_ttl: p.max_ttl,
        bound_cidrs: p.bound_cidrs,
        ..OldNames::default()
    };
    tokens.change(p.token, old)?;
    User { password: user.password, tokens }.save(tx, &name)?;
    Ok(Response::empty())
}

pub fn delete(_: &Userpass, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    tx.delete(Place::Name(USERS, &username(call)))?;
    Ok(Response::empty())
}

pub fn write_password(_: &Userpass, tx: &mut Tx, call: &Call<'_>, p: NewPassword) -> Result<Response> {
    let name = username(call);
    let user = existing(tx, &name)?;
    let password = new_password(p, call)?.ok_or_else(none_given)?;
    User { password, ..user }.save(tx, &name)?;
    Ok(Response::empty())
}

pub fn write_policies(_: &Userpass, tx: &mut Tx, call: &Call<'_>, p: Policies) -> Result<Response> {
    let name = username(call);
    let mut user = existing(tx, &name)?;
    let new = TokenFields { token_policies: p.token_policies, ..TokenFields::default() };
    user.tokens.change(new, OldNames { policies: p.policies, ..OldNames::default() })?;
    user.save(tx, &name)?;
    Ok(Response::empty())
}
