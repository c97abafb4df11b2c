//! What is done to users of MySQL. Its statements about users commit each for itself.

use holdfast_sdk::{Error, Failure, Result};

use super::wire::{Packets, WireError};
use super::{MySql, NewUser, internal};
use crate::go_time;
use crate::statements::{self, Dialect, Values, fill};

const ROTATE: &str = "ALTER USER '{{username}}'@'%' IDENTIFIED BY '{{password}}'";
const REVOKE: [&str; 2] = ["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'", "DROP USER '{{name}}'@'%'"];

pub async fn create(db: &MySql, user: &NewUser) -> Result<(), Failure> {
    let expiration = go_time::format("2006-01-02 15:04:05-0700", user.until);
    let values = Values { name: &user.name, password: &user.password, expiration: &expiration };
    run(db, &user.statements, &values).await
}

pub async fn set_password(db: &MySql, name: &str, password: &str, statements: &[String]) -> Result<(), Failure> {
    let values = Values { name, password, ..Values::default() };
    let default = [ROTATE.to_owned()];
    run(db, if statements.is_empty() { &default } else { statements }, &values).await
}

/// One after the other. What fails at first has changed nothing; later, what went before is there.
async fn run(db: &MySql, statements: &[String], values: &Values<'_>) -> Result<(), Failure> {
    let mut filled = Vec::new();
    for statement in statements::split(statements) {
        let text = fill(&statement, values, Dialect::MySql);
        filled.push(text.map_err(|e| Failure::Nothing(Error::Internal(e.to_string())))?);
    }
    let mut held = db.take().await.map_err(Failure::Nothing)?;
    for (n, statement) in filled.iter().enumerate() {
        let Err(e) = held.connection.query(statement).await else { continue };
        let error = internal(&e).say(|words| statements::without(values.password, words));
        let answered = matches!(e, WireError::Server { .. });
        if answered {
            db.pool.give_back(held);
        }
        return Err(if answered && n == 0 { Failure::Nothing(error) } else { Failure::Uncertain(error) });
    }
    db.pool.give_back(held);
    Ok(())
}

pub async fn drop_user(db: &MySql, name: &str, statements: &[String]) -> Result<()> {
    let values = Values { name, ..Values::default() };
    let default = REVOKE.map(str::to_owned);
    let dropped = run(db, if statements.is_empty() { &default } else { statements }, &values).await;
    let mut held = db.take().await?;
    if let Err(e) = dropped {
        // A user that somebody else dropped is gone.
        return match exists(&mut held.connection, name).await {
            Ok(false) => {
                db.pool.give_back(held);
                Ok(())
            }
            _ => Err(e.into_error()),
        };
    }
    if end_sessions(&mut held.connection, name).await.is_ok() {
        db.pool.give_back(held);
    }
    Ok(())
}

/// A text as a literal of the language.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

async fn exists(packets: &mut Packets, name: &str) -> Result<bool, WireError> {
    let asked = format!("SELECT 1 FROM mysql.user WHERE user = {} LIMIT 1", literal(name));
    Ok(!packets.query(&asked).await?.is_empty())
}

/// Sessions of a user that is gone would go on.
async fn end_sessions(packets: &mut Packets, name: &str) -> Result<(), WireError> {
    let asked = format!("SELECT id FROM information_schema.processlist WHERE user = {}", literal(name));
    for id in packets.query(&asked).await? {
        if id.bytes().all(|b| b.is_ascii_digit()) {
            match packets.query(&format!("KILL {id}")).await {
                // It has ended meanwhile, or the connection's user may not.
                Ok(_) | Err(WireError::Server { .. }) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
