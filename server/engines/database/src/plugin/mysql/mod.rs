//! `mysql-database-plugin`, for MySQL and MariaDB, and its older names.

mod address;
mod connect;
mod users;
mod wire;

use std::sync::Arc;

use holdfast_sdk::{Error, Failure, Map, Result, Value, Work};

use self::address::{Address, Word};
use self::connect::Tls;
use self::wire::{Packets, WireError};
use super::pool::{self, Held, Pool};
use super::tls::{Material, Trust, certificates_in, client_config};
use super::{Kind, NewUser, Plugin, Settings};

pub const MYSQL: Kind = Kind {
    name: "mysql-database-plugin",
    username_template: "{{ printf \"v-%s-%s-%s-%s\" (.DisplayName | truncate 10) (.RoleName | truncate 10) (random 20) (unix_time) | truncate 32 }}",
    takes_template: true,
    needs_statements: true,
    open,
    shown,
    warning,
};
pub const MYSQL_LEGACY: Kind = Kind { name: "mysql-legacy-database-plugin", ..SHORT };
pub const MYSQL_AURORA: Kind = Kind { name: "mysql-aurora-database-plugin", ..SHORT };
pub const MYSQL_RDS: Kind = Kind { name: "mysql-rds-database-plugin", ..SHORT };

/// User names of at most 16 characters.
const SHORT: Kind = Kind {
    username_template: "{{ printf \"v-%s-%s-%s\" (.RoleName | truncate 4) (random 20) (unix_time) | truncate 16 }}",
    ..MYSQL
};

const ACCESS_DENIED: u16 = 1045;

struct MySql {
    address: Address,
    other_passwords: Vec<String>,
    tls: Option<Tls>,
    pool: Pool<Packets>,
}

impl pool::Connection for Packets {
    async fn answers(&mut self) -> bool {
        self.ping().await.is_ok()
    }
}

fn open(settings: &Settings<'_>) -> Result<Arc<dyn Plugin>, String> {
    let details = settings.details;
    let url = details.text("connection_url")?;
    if url.is_empty() {
        return Err("connection_url cannot be empty".into());
    }
    let limits = pool::Limits::of(details)?;
    let skips = details.boolean("tls_skip_verify")?.unwrap_or(false);
    let username = details.lenient_text("username")?;
    let authority = details.text("tls_ca").map_err(|_| "failed to append CA to client options".to_owned())?;
    let certificate = details.text("tls_certificate_key")?;
    let mut material = Material::default();
    if !authority.is_empty() {
        material.authority = Some(authority.as_bytes().to_vec());
    }
    if !certificate.is_empty() {
        material.certificate = Some((certificate.as_bytes().to_vec(), certificate.as_bytes().to_vec()));
    }
    let server_name = Some(details.lenient_text("tls_server_name")?).filter(|n| !n.is_empty());
    // What is given is checked, whether or not the connection uses it.
    let config = |trust| client_config(trust, &material).map(Arc::new);
    let checked = config(Trust::Authority)?;
    let with_material = !authority.is_empty() || !certificate.is_empty();
    let parsed = address::parse(url, &username, settings.password);
    let address = parsed.map_err(|e| format!("cannot parse connection url: {e}"))?;
    let trust = match address.tls {
        _ if with_material && skips => Some((Trust::Anybody, false)),
        _ if with_material => Some((Trust::Name, false)),
        Word::On => Some((Trust::Name, false)),
        Word::SkipVerify => Some((Trust::Anybody, false)),
        Word::Preferred => Some((Trust::Anybody, true)),
        Word::Off => None,
    };
    drop(checked);
    let tls = match trust {
        Some((trust, optional)) => Some(Tls { config: config(trust)?, server_name, optional }),
        None => None,
    };
    let others = settings.other_passwords.iter().rev();
    let other_passwords = others.filter_map(|p| Some(address::parse(url, &username, p).ok()?.password)).collect();
    Ok(Arc::new(MySql { address, other_passwords, tls, pool: Pool::new(limits) }))
}

fn shown(key: &str, value: &Value) -> Option<Value> {
    match key {
        // The reference shows the key with it.
        "tls_certificate_key" => Some(certificates_in(value.as_str()?).into()),
        _ => None,
    }
}

fn warning(_: &Map<String, Value>) -> Option<&'static str> {
    None
}

fn internal(e: &WireError) -> Error {
    match e {
        WireError::Server { .. } => Error::Internal(e.to_string()),
        _ => Error::Unreachable(e.to_string()),
    }
}

impl MySql {
    async fn take(&self) -> Result<Held<Packets>> {
        self.pool.take(self.connect()).await
    }

    async fn connect(&self) -> Result<Packets> {
        let others = self.other_passwords.iter().map(String::as_str);
        let log_in = |password| connect::connect(&self.address, password, self.tls.as_ref());
        super::log_in(&*self.address.password, others, is_refused_password, log_in).await.map_err(|e| internal(&e))
    }
}

fn is_refused_password(e: &WireError) -> bool {
    matches!(e, WireError::Server { code: ACCESS_DENIED, .. })
}

impl Plugin for MySql {
    fn verify(&self) -> Work<'_, Result<()>> {
        Box::pin(async {
            self.pool.drain();
            let verifying = |e: Error| e.say(|e| format!("error verifying - ping: {e}"));
            let mut held = self.take().await.map_err(verifying)?;
            held.connection.ping().await.map_err(|e| verifying(internal(&e)))?;
            self.pool.give_back(held);
            Ok(())
        })
    }

    fn verify_stored(&self) -> Work<'_, Result<bool>> {
        Box::pin(async {
            match connect::connect(&self.address, &self.address.password, self.tls.as_ref()).await {
                Ok(_) => Ok(true),
                Err(e) if is_refused_password(&e) => Ok(false),
                Err(e) => Err(internal(&e)),
            }
        })
    }

    fn create<'a>(&'a self, user: &'a NewUser) -> Work<'a, Result<(), Failure>> {
        Box::pin(users::create(self, user))
    }

    fn set_password<'a>(
        &'a self,
        name: &'a str,
        password: &'a str,
        statements: &'a [String],
    ) -> Work<'a, Result<(), Failure>> {
        Box::pin(users::set_password(self, name, password, statements))
    }

    fn drop_user<'a>(&'a self, name: &'a str, statements: &'a [String]) -> Work<'a, Result<()>> {
        Box::pin(users::drop_user(self, name, statements))
    }

    fn close(&self) {
        self.pool.close();
    }
}
