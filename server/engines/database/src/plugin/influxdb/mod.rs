//! `influxdb-database-plugin`: users of InfluxDB 1, over its HTTP API.

mod bundle;
mod http;

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::{Error, Failure, Map, Result, Value, Work};

use self::http::{Client, Refused, Server};
use super::pool::{self, Held, Pool};
use super::tls::{Trust, certificates_in, client_config};
use super::{Kind, NewUser, Plugin, Settings};
use crate::go_time;
use crate::statements::{self, Dialect, Values, fill};

pub const INFLUXDB: Kind = Kind {
    name: "influxdb-database-plugin",
    username_template: "{{ printf \"v_%s_%s_%s_%s\" (.DisplayName | truncate 15) (.RoleName | truncate 15) (random 20) (unix_time) | truncate 100 | replace \"-\" \"_\" | lowercase }}",
    takes_template: true,
    needs_statements: false,
    open,
    shown,
    warning,
};

const CREATE: &str = "CREATE USER \"{{username}}\" WITH PASSWORD '{{password}}'";
const ROTATE: &str = "SET PASSWORD FOR \"{{username}}\" = '{{password}}'";
const REVOKE: &str = "DROP USER \"{{username}}\"";
/// What the server says of a user that is not there.
const NO_USER: &str = "user not found";

const PORT: u16 = 8086;
/// Connecting may take this unless configured.
const CONNECT: Duration = Duration::from_secs(5);

struct InfluxDb {
    server: Server,
    username: String,
    password: String,
    other_passwords: Vec<String>,
    pool: Pool<Client>,
}

fn open(settings: &Settings<'_>) -> Result<Arc<dyn Plugin>, String> {
    let details = settings.details;
    let required = |key: &str, text: String| match text.is_empty() {
        true => Err(format!("{key} cannot be empty")),
        false => Ok(text),
    };
    let wants_tls = details.boolean("tls")?.unwrap_or(false);
    let insecure = details.boolean("insecure_tls")?.unwrap_or(false);
    let host = required("host", details.lenient_text("host")?)?;
    let username = required("username", details.lenient_text("username")?)?;
    let password = required("password", settings.password.to_owned())?;
    let port = match details.integer("port")?.unwrap_or(0) {
        0 => PORT,
        n => u16::try_from(n).map_err(|_| format!("{n} is no port"))?,
    };
    let time_out = details.seconds("connect_timeout")?.filter(|s| *s > 0).map_or(CONNECT, Duration::from_secs);
    let material = bundle::material(details)?;
    let trust = if insecure { Trust::Anybody } else { Trust::Name };
    let tls = match (material, wants_tls) {
        (None, false) => None,
        (material, _) => Some(Arc::new(client_config(trust, &material.unwrap_or_default())?)),
    };
    Ok(Arc::new(InfluxDb {
        server: Server { host, port, tls, time_out },
        username,
        password,
        other_passwords: settings.other_passwords.iter().rev().cloned().collect(),
        pool: Pool::new(pool::Limits::of(details)?),
    }))
}

/// Keys that came with certificates are not shown.
fn shown(key: &str, value: &Value) -> Option<Value> {
    match key {
        "pem_bundle" => Some(certificates_in(value.as_str()?).into()),
        "pem_json" => Some(bundle::json_without_key(value.as_str()?).into()),
        _ => None,
    }
}

fn warning(_: &Map<String, Value>) -> Option<&'static str> {
    None
}

fn internal(e: &Refused) -> Error {
    match e {
        Refused::Login(_) | Refused::Statement(_) => Error::Internal(e.to_string()),
        Refused::Broken(_) => Error::Unreachable(e.to_string()),
    }
}

impl InfluxDb {
    async fn connect(&self) -> Result<Client> {
        let others = self.other_passwords.iter().map(String::as_str);
        let log_in = |password| self.server.log_in(&self.username, password);
        super::log_in(&*self.password, others, |e| matches!(e, Refused::Login(_)), log_in)
            .await
            .map_err(|e| internal(&e))
    }

    async fn take(&self) -> Result<Held<Client>> {
        self.pool.take(self.connect()).await
    }

    /// One after the other: there are no transactions. What fails at first has changed nothing.
    async fn run(&self, statements: &[String], default: &str, values: &Values<'_>) -> Result<(), Failure> {
        let mut filled = Vec::new();
        for statement in statements::split(statements) {
            let text = fill(&statement, values, Dialect::Influx);
            filled.push(text.map_err(|e| Failure::Nothing(Error::Internal(e.to_string())))?);
        }
        if filled.is_empty() {
            let text = fill(default, values, Dialect::Influx);
            filled.push(text.map_err(|e| Failure::Nothing(Error::Internal(e.to_string())))?);
        }
        let mut held = self.take().await.map_err(Failure::Nothing)?;
        for (n, statement) in filled.iter().enumerate() {
            let Err(e) = held.connection.ask(statement).await else { continue };
            let error = internal(&e).say(|words| statements::without(values.password, words));
            let answered = !matches!(e, Refused::Broken(_));
            if answered {
                self.pool.give_back(held);
            }
            return Err(if answered && n == 0 { Failure::Nothing(error) } else { Failure::Uncertain(error) });
        }
        self.pool.give_back(held);
        Ok(())
    }

    /// Whether a user is there, and if so, whether it is an administrator.
    async fn is_administrator(&self, name: &str) -> Result<Option<bool>> {
        let mut held = self.take().await?;
        let users = held.connection.ask("SHOW USERS").await.map_err(|e| internal(&e))?;
        self.pool.give_back(held);
        let of = |user: &[Value]| match user {
            [Value::String(user), Value::Bool(admin)] if user == name => Some(*admin),
            _ => None,
        };
        Ok(users.iter().find_map(|user| of(user)))
    }
}

impl Plugin for InfluxDb {
    fn verify(&self) -> Work<'_, Result<()>> {
        Box::pin(async {
            self.pool.drain();
            let asked = self.is_administrator(&self.username).await;
            match asked.map_err(|e| e.say(|e| format!("error verifying connection: {e}")))? {
                Some(true) => Ok(()),
                _ => Err(Error::Internal("the provided user is not an admin of the influxDB server".into())),
            }
        })
    }

    fn verify_stored(&self) -> Work<'_, Result<bool>> {
        Box::pin(async {
            match self.server.log_in(&self.username, &self.password).await {
                Ok(_) => Ok(true),
                Err(Refused::Login(_)) => Ok(false),
                Err(e) => Err(internal(&e)),
            }
        })
    }

    fn create<'a>(&'a self, user: &'a NewUser) -> Work<'a, Result<(), Failure>> {
        Box::pin(async {
            let expiration = go_time::format("2006-01-02 15:04:05-0700", user.until);
            let values = Values { name: &user.name, password: &user.password, expiration: &expiration };
            self.run(&user.statements, CREATE, &values).await
        })
    }

    fn set_password<'a>(
        &'a self,
        name: &'a str,
        password: &'a str,
        statements: &'a [String],
    ) -> Work<'a, Result<(), Failure>> {
        let values = Values { name, password, ..Values::default() };
        Box::pin(async move { self.run(statements, ROTATE, &values).await })
    }

    fn drop_user<'a>(&'a self, name: &'a str, statements: &'a [String]) -> Work<'a, Result<()>> {
        let values = Values { name, ..Values::default() };
        Box::pin(async move {
            match self.run(statements, REVOKE, &values).await.map_err(Failure::into_error) {
                Ok(()) => Ok(()),
                Err(e) if e.to_string().contains(NO_USER) => Ok(()),
                // A user that somebody else dropped is gone.
                Err(e) => match self.is_administrator(name).await {
                    Ok(None) => Ok(()),
                    _ => Err(e),
                },
            }
        })
    }

    fn close(&self) {
        self.pool.close();
    }
}
