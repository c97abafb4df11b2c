//! `postgresql-database-plugin`.

mod address;
mod connect;
mod users;

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::{Error, Failure, Map, Result, Timestamp, Value, Work};
use tokio_postgres::Client;

use self::address::{Address, Login};
use self::connect::Tls;
use super::pool::{self, Held, Pool};
use super::{Kind, NewUser, Plugin, Settings};

pub const POSTGRES: Kind = Kind {
    name: "postgresql-database-plugin",
    username_template: "{{ printf \"v-%s-%s-%s-%s\" (.DisplayName | truncate 8) (.RoleName | truncate 8) (random 20) (unix_time) | truncate 63 }}",
    takes_template: true,
    needs_statements: true,
    open,
    shown,
    warning,
};

/// One statement may take this; the act of a request is given up later.
const STATEMENT: Duration = Duration::from_secs(20);
/// A transaction that stands still for this is given up by the server: a process that was stopped commits nothing late.
const STILL: Duration = Duration::from_secs(15);

struct Postgres {
    address: Address,
    other_passwords: Vec<String>,
    tls: Tls,
    scram: bool,
    pool: Pool<Client>,
}

impl pool::Connection for Client {
    fn is_closed(&self) -> bool {
        Client::is_closed(self)
    }
}

fn open(settings: &Settings<'_>) -> Result<Arc<dyn Plugin>, String> {
    let details = settings.details;
    let url = details.text("connection_url")?;
    if url.is_empty() {
        return Err("connection_url cannot be empty".into());
    }
    let scram = match details.text("password_authentication") {
        Ok("" | "password") => false,
        Ok("scram-sha-256") => true,
        Ok(other) => return Err(format!("'{other}' is not a valid password authentication type")),
        Err(_) => return Err("failed to retrieve password_authentication: it must be a string".into()),
    };
    let limits = pool::Limits::of(details)?;
    let escaped_by_hand = details.boolean("disable_escaping")?.unwrap_or(false);
    let username = details.lenient_text("username")?;
    let login = |password| Login { username: &username, password, escaped_by_hand };
    // A wrong address is told when it is used: a configuration that is not verified may hold it.
    let parsed = address::parse(url, login(settings.password));
    let address = parsed.map_err(|e| format!("cannot parse connection url: {e}"))?;
    let others = settings.other_passwords.iter().rev();
    let other_passwords = others.filter_map(|p| address::parse(url, login(p)).ok()?.password).collect();
    let tls = Tls::of(&address, details)?;
    Ok(Arc::new(Postgres { address, other_passwords, tls, scram, pool: Pool::new(limits) }))
}

fn shown(key: &str, value: &Value) -> Option<Value> {
    match key {
        "connection_url" => Some(address::without_password(value.as_str()?).into()),
        _ => None,
    }
}

fn warning(details: &Map<String, Value>) -> Option<&'static str> {
    let url = details.get("connection_url").and_then(Value::as_str)?;
    address::has_password(url).then_some(
        "Password found in connection_url, use a templated url to enable root rotation and prevent read access to \
         password information.",
    )
}

/// Words of the server, or of what is between.
fn words(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{}: {} (SQLSTATE {})", db.severity(), db.message(), db.code().code()),
        None => match std::error::Error::source(e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        },
    }
}

impl Postgres {
    async fn take(&self) -> Result<Held<Client>> {
        self.pool.take(self.connect()).await
    }

    async fn connect(&self) -> Result<Client> {
        let others = self.other_passwords.iter().map(|p| Some(p.as_str()));
        let log_in = |password| connect::connect(&self.address, password, &self.tls);
        Ok(super::log_in(self.address.password.as_deref(), others, connect::Refused::is_refused_password, log_in)
            .await?)
    }

    /// What the server is told of a password.
    fn told(&self, password: &str) -> String {
        match self.scram {
            true => postgres_protocol::password::scram_sha_256(password.as_bytes()),
            false => password.to_owned(),
        }
    }
}

impl Plugin for Postgres {
    fn verify(&self) -> Work<'_, Result<()>> {
        Box::pin(async {
            self.pool.drain();
            let verifying = |e: Error| e.say(|e| format!("error verifying connection: {e}"));
            let held = self.take().await.map_err(verifying)?;
            held.connection.simple_query("").await.map_err(|e| verifying(Error::internal(words(&e))))?;
            self.pool.give_back(held);
            Ok(())
        })
    }

    fn verify_stored(&self) -> Work<'_, Result<bool>> {
        Box::pin(async {
            match connect::connect(&self.address, self.address.password.as_deref(), &self.tls).await {
                Ok(_) => Ok(true),
                Err(e) if e.is_refused_password() => Ok(false),
                Err(e) => Err(e.into()),
            }
        })
    }

    fn create<'a>(&'a self, user: &'a NewUser) -> Work<'a, Result<(), Failure>> {
        Box::pin(users::create(self, user))
    }

    fn extend<'a>(&'a self, name: &'a str, until: Timestamp, statements: &'a [String]) -> Work<'a, Result<()>> {
        Box::pin(users::extend(self, name, until, statements))
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
