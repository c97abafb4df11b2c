//! `redis-database-plugin` and `valkey-database-plugin`: users are lists of ACL rules.

mod resp;

use std::sync::Arc;

use holdfast_sdk::{Error, Failure, Map, Result, Value, Work};
use rustls::ClientConfig;

use self::resp::{Answer, Client, Refused};
use super::pool::{self, Held, Pool};
use super::tls::{Material, Trust, client_config};
use super::{Kind, NewUser, Plugin, Settings};
use crate::statements;

pub const REDIS: Kind = Kind {
    name: "redis-database-plugin",
    username_template: "{{ printf \"V_%s_%s_%s_%s\" (.DisplayName | truncate 64) (.RoleName | truncate 64) (random 20) (unix_time) | uppercase }}",
    takes_template: false,
    needs_statements: false,
    open,
    shown,
    warning,
};
pub const VALKEY: Kind = Kind { name: "valkey-database-plugin", ..REDIS };

/// What a user may do without statements.
const RULES: [&str; 2] = ["~*", "+@read"];

struct Redis {
    host: String,
    port: u16,
    username: String,
    password: String,
    other_passwords: Vec<String>,
    tls: Option<Arc<ClientConfig>>,
    pool: Pool<Client>,
}

fn open(settings: &Settings<'_>) -> Result<Arc<dyn Plugin>, String> {
    let details = settings.details;
    let required = |key: &str, text: String| match text.is_empty() {
        true => Err(format!("{key} cannot be empty")),
        false => Ok(text),
    };
    let port = details.integer("port")?.unwrap_or(0);
    let (tls, insecure) = (details.boolean("tls")?.unwrap_or(false), details.boolean("insecure_tls")?.unwrap_or(false));
    let host = required("host", details.lenient_text("host")?)?;
    if port == 0 {
        return Err("port cannot be empty".into());
    }
    let username = required("username", details.lenient_text("username")?)?;
    let password = required("password", settings.password.to_owned())?;
    let tls = match tls {
        false => None,
        true => {
            let authority = required("ca_cert", details.lenient_text("ca_cert")?)?;
            let material = Material { authority: Some(authority.into_bytes()), certificate: None };
            let trust = if insecure { Trust::Anybody } else { Trust::Name };
            // The certificate is looked at though it need not be believed.
            client_config(Trust::Name, &material)?;
            Some(Arc::new(client_config(trust, &material)?))
        }
    };
    Ok(Arc::new(Redis {
        host,
        port: u16::try_from(port).map_err(|_| format!("{port} is no port"))?,
        username,
        password,
        other_passwords: settings.other_passwords.iter().rev().cloned().collect(),
        tls,
        pool: Pool::new(pool::Limits::of(details)?),
    }))
}

fn shown(_: &str, _: &Value) -> Option<Value> {
    None
}

fn warning(_: &Map<String, Value>) -> Option<&'static str> {
    None
}

fn internal(e: &Refused) -> Error {
    match e {
        Refused::Server(_) => Error::Internal(e.to_string()),
        Refused::Broken(_) => Error::Unreachable(e.to_string()),
    }
}

fn is_refused_password(e: &Refused) -> bool {
    matches!(e, Refused::Server(text) if text.starts_with("WRONGPASS"))
}

impl Redis {
    async fn log_in(&self, password: &str) -> Result<Client, Refused> {
        Client::connect((&self.host, self.port), (&self.username, password), self.tls.as_ref()).await
    }

    async fn connect(&self) -> Result<Client> {
        let others = self.other_passwords.iter().map(String::as_str);
        let log_in = |password| self.log_in(password);
        super::log_in(&*self.password, others, is_refused_password, log_in).await.map_err(|e| internal(&e))
    }

    async fn take(&self) -> Result<Held<Client>> {
        self.pool.take(self.connect()).await
    }

    /// One command, which is carried out as a whole or not at all.
    async fn ask(&self, words: &[&str]) -> Result<Answer, Failure> {
        let mut held = self.take().await.map_err(Failure::Nothing)?;
        match held.connection.ask(words).await {
            Ok(answer) => {
                self.pool.give_back(held);
                Ok(answer)
            }
            Err(e @ Refused::Server(_)) => {
                self.pool.give_back(held);
                Err(Failure::Nothing(internal(&e)))
            }
            Err(e) => Err(Failure::Uncertain(internal(&e))),
        }
    }
}

/// The rules of a role's statements: a text may be a JSON list of rules.
fn rules(texts: &[String]) -> Vec<String> {
    let of = |text: &String| serde_json::from_str::<Vec<String>>(text).unwrap_or_else(|_| vec![text.clone()]);
    let rules: Vec<String> = texts.iter().filter(|t| !t.is_empty()).flat_map(of).collect();
    if rules.is_empty() { RULES.map(str::to_owned).to_vec() } else { rules }
}

fn without_password(failure: Failure, password: &str) -> Failure {
    let masked = |e: Error| e.say(|words| statements::without(password, words));
    match failure {
        Failure::Nothing(e) => Failure::Nothing(masked(e)),
        Failure::Uncertain(e) => Failure::Uncertain(masked(e)),
    }
}

impl Plugin for Redis {
    fn verify(&self) -> Work<'_, Result<()>> {
        Box::pin(async {
            self.pool.drain();
            let asked = self.ask(&["PING"]).await;
            asked.map(drop).map_err(|f| f.into_error().say(|e| format!("error verifying connection: {e}")))
        })
    }

    fn verify_stored(&self) -> Work<'_, Result<bool>> {
        Box::pin(async {
            match self.log_in(&self.password).await {
                Ok(_) => Ok(true),
                Err(e) if is_refused_password(&e) => Ok(false),
                Err(e) => Err(internal(&e)),
            }
        })
    }

    fn create<'a>(&'a self, user: &'a NewUser) -> Work<'a, Result<(), Failure>> {
        Box::pin(async {
            let (password, rules) = (format!(">{}", user.password), rules(&user.statements));
            let mut words = vec!["ACL", "SETUSER", &user.name, "on", &password];
            words.extend(rules.iter().map(String::as_str));
            self.ask(&words).await.map(drop).map_err(|f| without_password(f, &user.password))
        })
    }

    fn set_password<'a>(&'a self, name: &'a str, password: &'a str, _: &'a [String]) -> Work<'a, Result<(), Failure>> {
        Box::pin(async move {
            // A user that is set and is not there is made, without any rights.
            if self.ask(&["ACL", "GETUSER", name]).await? == Answer::Nothing {
                return Err(Failure::Nothing(Error::Internal(format!("there is no user {name:?}"))));
            }
            let words = ["ACL", "SETUSER", name, "resetpass", &format!(">{password}")];
            self.ask(&words).await.map(drop).map_err(|f| without_password(f, password))
        })
    }

    /// Its connections end with it.
    fn drop_user<'a>(&'a self, name: &'a str, _: &'a [String]) -> Work<'a, Result<()>> {
        Box::pin(async move { self.ask(&["ACL", "DELUSER", name]).await.map(drop).map_err(Failure::into_error) })
    }

    fn close(&self) {
        self.pool.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_taken_in_all_their_forms() {
        let of = |texts: &[&str]| rules(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), RULES);
        assert_eq!(of(&[""]), RULES);
        assert_eq!(of(&["[\"~k*\", \"+get\"]"]), ["~k*", "+get"]);
        assert_eq!(of(&["~k*", "+get"]), ["~k*", "+get"]);
        assert_eq!(of(&["{\"a\":1}"]), ["{\"a\":1}"]);
    }
}
