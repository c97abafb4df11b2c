#![forbid(unsafe_code)]
//! The auth method `userpass`: users with passwords that are kept here.

mod login;
mod password;
mod turns;
mod users;

use holdfast_sdk::{Backend, Call, Class, Found, Operation, Renewal, Result, Route, Routes, Table, Tx, names};

/// Users by name, in lower case.
const USERS: Table = Table(1);

pub struct Userpass {
    routes: Routes<Userpass>,
}

impl Default for Userpass {
    fn default() -> Self {
        let routes = Routes::new()
            .path("login/{username}", "Log in with a password.", |p| {
                p.update(login::login).prepared(Operation::Update, login::check).unauthenticated()
            })
            .path("users", "List the users.", |p| p.list(users::list))
            .path("users/{username}", "Make, read, change and delete a user.", |p| {
                p.read(users::read)
                    .write(users::exists, users::write)
                    .prepared(Operation::Update, users::hash)
                    .delete(users::delete)
            })
            .path("users/{username}/password", "Change a user's password.", |p| {
                p.update(users::write_password).prepared(Operation::Update, users::hash_new)
            })
            .path("users/{username}/policies", "Change the policies of a user's tokens.", |p| {
                p.update(users::write_policies)
            });
        Userpass { routes }
    }
}

/// The user that a path names. Case does not matter.
fn username(call: &Call<'_>) -> String {
    call.capture("username").to_ascii_lowercase()
}

impl Backend for Userpass {
    fn kind(&self) -> &'static str {
        "userpass"
    }
    fn class(&self) -> Class {
        Class::Auth
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.routes.find(operation, path).filter(|f| f.captures.get("username").is_none_or(names::is_plain))
    }
    holdfast_sdk::handled_by!(routes);
    fn login_name(&self, _: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<String>> {
        login::name(tx, call)
    }
    fn renew_login(&self, tx: &mut Tx, internal: &[(String, String)]) -> Result<Renewal> {
        login::renew(tx, internal)
    }
}
