#![forbid(unsafe_code)]
//! The auth method `approle`: a program logs in with its role's id and a secret id that was made for it.

mod login;
mod properties;
mod roles;
mod secret_ids;
mod store;

use holdfast_sdk::{
    Backend, Call, Class, Found, Operation, Place, Renewal, Result, Route, Routes, Table, Tx, names, record,
};

/// Roles by name, in lower case.
const ROLES: Table = Table(1);
/// Names of roles by role id.
const ROLE_IDS: Table = Table(2);
/// By the role's internal id, then the HMAC of the secret id under the role's key.
const SECRET_IDS: Table = Table(3);
/// Keys of the table above by accessor.
const ACCESSORS: Table = Table(4);
/// Keys of secret ids by their end.
const ENDS: Table = Table(5);
/// Internal ids of deleted roles that have left secret ids behind.
const GONE_ROLES: Table = Table(6);

pub struct Approle {
    routes: Routes<Approle>,
    /// Longer TTLs are cut.
    max_ttl_secs: u64,
}

impl Approle {
    /// A method for a mount with this maximum TTL.
    pub fn new(max_ttl_secs: u64) -> Approle {
        let routes = Routes::new()
            .path("login", "Log in with a role id and a secret id.", |p| p.update(login::login).unauthenticated())
            .path("role", "List the roles.", |p| p.list(roles::list))
            .path("role/{role_name}", "Make, read, change and delete a role.", |p| {
                p.read(roles::read).write(roles::exists, roles::write).delete(roles::delete)
            })
            .path("role/{role_name}/role-id", "Read and set a role's id.", |p| {
                p.read(roles::read_role_id).update(roles::write_role_id)
            })
            .path("role/{role_name}/secret-id", "Make a secret id, and list the accessors of all.", |p| {
                p.list(secret_ids::list).update(secret_ids::make)
            })
            .path("role/{role_name}/custom-secret-id", "Make a secret id of the caller's choice.", |p| {
                p.update(secret_ids::make_custom)
            })
            .path("role/{role_name}/secret-id/lookup", "Look a secret id up.", |p| p.update(secret_ids::lookup))
            .path("role/{role_name}/secret-id/destroy", "Destroy a secret id.", |p| {
                p.update(secret_ids::destroy).delete(secret_ids::destroy)
            })
            .path("role/{role_name}/secret-id-accessor/lookup", "Look a secret id up by its accessor.", |p| {
                p.update(secret_ids::lookup_accessor)
            })
            .path("role/{role_name}/secret-id-accessor/destroy", "Destroy a secret id by its accessor.", |p| {
                p.update(secret_ids::destroy_accessor).delete(secret_ids::destroy_accessor)
            })
            .path("tidy/secret-id", "Remove what is left of secret ids that ended.", |p| p.update(secret_ids::tidy));
        Approle { routes: properties::declare(routes), max_ttl_secs }
    }
}

/// The role that a path names. Case does not matter.
fn role_name(call: &Call<'_>) -> String {
    call.capture("role_name").to_ascii_lowercase()
}

impl Backend for Approle {
    fn id_tables(&self) -> &'static [Table] {
        &[ROLE_IDS, ACCESSORS]
    }

    fn place_ids(&self, tx: &mut Tx, place: Place<'_>, value: &[u8]) -> Result<()> {
        match place {
            Place::Name(ROLES, name) => {
                let role: roles::Role = record::read(value)?;
                tx.put(Place::Id(ROLE_IDS, &role.role_id), name.into())
            }
            Place::Ordered(SECRET_IDS, key) => {
                let secret_id: store::SecretId = record::read(value)?;
                tx.put(Place::Id(ACCESSORS, &secret_id.accessor), key.to_vec())
            }
            _ => Ok(()),
        }
    }

    fn kind(&self) -> &'static str {
        "approle"
    }
    fn class(&self) -> Class {
        Class::Auth
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.routes.find(operation, path).filter(|f| f.captures.get("role_name").is_none_or(names::is_plain))
    }
    holdfast_sdk::handled_by!(routes);
    fn login_name(&self, _: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<String>> {
        login::name(tx, call)
    }
    fn has_login_roles(&self) -> bool {
        true
    }
    fn login_role(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<String>> {
        if found.unauthenticated { login::role(tx, call) } else { Ok(None) }
    }
    fn renew_login(&self, tx: &mut Tx, internal: &[(String, String)]) -> Result<Renewal> {
        login::renew(tx, internal)
    }
}
