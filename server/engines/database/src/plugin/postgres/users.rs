//! What is done to users of PostgreSQL: in one transaction each, but for the default revocation.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use holdfast_sdk::{Error, Failure, Result, Timestamp};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{NewUser, Postgres, STATEMENT, STILL, words};
use crate::go_time;
use crate::statements::{self, Dialect, Values, fill};

/// A user may log in so much longer than its lease lives, which is what ends it.
const GRACE_SECS: u64 = 5;
/// How often what met another session's change is done again.
const TRIES: u32 = 10;
const RENEW: &str = "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';";
const ROTATE: &str = "ALTER ROLE \"{{username}}\" WITH PASSWORD '{{password}}';";

fn expiration(until: Timestamp) -> String {
    let until = until.plus_secs(GRACE_SECS);
    go_time::format("2006-01-02 15:04:05-0700", until)
}

pub async fn create(db: &Postgres, user: &NewUser) -> Result<(), Failure> {
    let (password, expiration) = (db.told(&user.password), expiration(user.until));
    let values = Values { name: &user.name, password: &password, expiration: &expiration };
    transaction(db, &user.statements, &values).await
}

pub async fn extend(db: &Postgres, name: &str, until: Timestamp, statements: &[String]) -> Result<()> {
    let expiration = expiration(until);
    let values = Values { name, expiration: &expiration, ..Values::default() };
    let statements = or_default(statements, RENEW);
    transaction(db, &statements, &values).await.map_err(Failure::into_error)
}

pub async fn set_password(db: &Postgres, name: &str, password: &str, statements: &[String]) -> Result<(), Failure> {
    let password = db.told(password);
    let values = Values { name, password: &password, ..Values::default() };
    transaction(db, &or_default(statements, ROTATE), &values).await
}

fn error(e: &tokio_postgres::Error) -> Error {
    match e.as_db_error() {
        Some(_) => Error::Internal(words(e)),
        None => Error::Unreachable(words(e)),
    }
}

fn or_default(statements: &[String], default: &str) -> Vec<String> {
    if statements.is_empty() { vec![default.to_owned()] } else { statements.to_vec() }
}

/// PostgreSQL lets no two sessions change the rights on one object at a time, and does not let the second wait: it
/// fails ("tuple concurrently updated"). Nothing of it was done, as after a deadlock, and it can be done again.
fn met_another(e: &tokio_postgres::Error) -> bool {
    [SqlState::INTERNAL_ERROR, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE]
        .iter()
        .any(|state| e.code() == Some(state))
}

/// How long the one waits who has met another: longer each time, and not as long as others do.
async fn step_back(name: &str, tries: u32) {
    let mut hasher = DefaultHasher::new();
    (name, tries).hash(&mut hasher);
    let most = 10 << tries.min(5);
    tokio::time::sleep(Duration::from_millis(most / 2 + hasher.finish() % most)).await;
}

/// Why a transaction changed nothing, or perhaps something.
struct Ended {
    failure: Failure,
    met_another: bool,
}

/// All statements or none. What fails before the commit was sent has changed nothing: the server rolls back.
async fn transaction(db: &Postgres, statements: &[String], values: &Values<'_>) -> Result<(), Failure> {
    let mut filled = Vec::new();
    for statement in statements::split(statements) {
        let text = fill(&statement, values, Dialect::Postgres);
        filled.push(text.map_err(|e| Failure::Nothing(Error::Internal(e.to_string())))?);
    }
    let mut tries = 1;
    loop {
        match attempt(db, &filled, values.password).await {
            Ok(()) => return Ok(()),
            Err(ended) if ended.met_another && tries < TRIES => step_back(values.name, tries).await,
            Err(ended) => return Err(ended.failure),
        }
        tries += 1;
    }
}

async fn attempt(db: &Postgres, statements: &[String], password: &str) -> Result<(), Ended> {
    let nothing = |error, met_another| Ended { failure: Failure::Nothing(error), met_another };
    let held = db.take().await.map_err(|e| nothing(e, false))?;
    let client = &held.connection;
    let failed = |what: &str, e: &tokio_postgres::Error| {
        error(e).say(|words| format!("{what}: {}", statements::without(password, words)))
    };
    let begin = format!(
        "BEGIN; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}",
        STATEMENT.as_millis(),
        STILL.as_millis()
    );
    let begun = client.batch_execute(&begin).await;
    begun.map_err(|e| nothing(failed("unable to start transaction", &e), false))?;
    for statement in statements {
        if let Err(e) = client.batch_execute(statement).await {
            let rolled_back = client.batch_execute("ROLLBACK").await.is_ok();
            let ended = nothing(failed("failed to execute query", &e), met_another(&e));
            if rolled_back {
                db.pool.give_back(held);
            }
            return Err(ended);
        }
    }
    match client.batch_execute("commit").await {
        Ok(()) => {
            db.pool.give_back(held);
            Ok(())
        }
        // The server has answered: it did not commit.
        Err(e) if e.as_db_error().is_some() => Err(nothing(failed("unable to commit", &e), met_another(&e))),
        Err(e) => {
            let failure = Failure::Uncertain(failed("nobody knows whether it was committed", &e));
            Err(Ended { failure, met_another: false })
        }
    }
}

pub async fn drop_user(db: &Postgres, name: &str, statements: &[String]) -> Result<()> {
    if statements.is_empty() {
        return drop_by_default(db, name).await;
    }
    let values = Values { name, ..Values::default() };
    let Err(e) = transaction(db, statements, &values).await else { return Ok(()) };
    // A user that somebody else dropped is gone, whatever the statements say about it.
    let held = db.take().await?;
    match exists(&held.connection, name).await {
        Ok(false) => {
            db.pool.give_back(held);
            Ok(())
        }
        _ => Err(e.into_error()),
    }
}

async fn exists(client: &Client, name: &str) -> Result<bool, tokio_postgres::Error> {
    let asked = format!("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = {}", literal(name));
    Ok(!rows(client, &asked).await?.is_empty())
}

/// The first column of all rows.
async fn rows(client: &Client, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let messages = client.simple_query(query).await?;
    Ok(messages
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect())
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The user's rights on tables go, its sessions end, then the user. Each step stands alone: if a later one fails,
/// the earlier have done what they could.
async fn drop_by_default(db: &Postgres, name: &str) -> Result<()> {
    let held = db.take().await?;
    let client = &held.connection;
    let failed = |e: tokio_postgres::Error| error(&e);
    let time_out = format!("SET statement_timeout = {}", STATEMENT.as_millis());
    client.batch_execute(&time_out).await.map_err(failed)?;
    if !exists(client, name).await.map_err(failed)? {
        db.pool.give_back(held);
        return Ok(());
    }
    let user = identifier(name);
    let schemas = format!(
        "SELECT DISTINCT table_schema FROM information_schema.role_column_grants WHERE grantee = {}",
        literal(name)
    );
    let mut schemas = rows(client, &schemas).await.map_err(failed)?;
    if !schemas.iter().any(|s| s == "public") {
        schemas.push("public".into());
    }
    let mut revocations = Vec::new();
    for schema in schemas {
        let schema = identifier(&schema);
        revocations.push(format!("REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA {schema} FROM {user}"));
        revocations.push(format!("REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA {schema} FROM {user}"));
        revocations.push(format!("REVOKE USAGE ON SCHEMA {schema} FROM {user}"));
    }
    let database = rows(client, "SELECT current_database()").await.map_err(failed)?;
    if let Some(database) = database.first() {
        revocations.push(format!("REVOKE CONNECT ON DATABASE {} FROM {user}", identifier(database)));
    }
    let mut last_error = None;
    for revocation in revocations {
        match patiently(client, name, &revocation).await {
            Ok(()) => {}
            // A database may have no schema of that name.
            Err(e) if e.code() == Some(&SqlState::INVALID_SCHEMA_NAME) => {}
            Err(e) => last_error = Some(e),
        }
    }
    if let Some(e) = last_error {
        return Err(Error::Internal(format!("could not perform all revocation statements: {}", words(&e))));
    }
    end_sessions(client, name, &user).await;
    if let Err(e) = patiently(client, name, &format!("DROP ROLE IF EXISTS {user}")).await {
        let _where_it_was_granted = client.batch_execute(&format!("REVOKE {user} FROM CURRENT_USER")).await;
        return Err(failed(e));
    }
    db.pool.give_back(held);
    Ok(())
}

/// A statement by itself, again if it met another session's.
async fn patiently(client: &Client, name: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let mut tries = 1;
    loop {
        match client.batch_execute(statement).await {
            Err(e) if met_another(&e) && tries < TRIES => step_back(name, tries).await,
            ended => return ended,
        }
        tries += 1;
    }
}

/// Where the connection's user may do it. Sessions that go on have no rights any more.
async fn end_sessions(client: &Client, name: &str, user: &str) {
    let ended = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = {}",
        literal(name)
    );
    // Who made a role may be made its member, and so may end its sessions.
    for statement in [format!("GRANT {user} TO CURRENT_USER"), ended] {
        if let Err(e) = client.batch_execute(&statement).await {
            tracing::debug!(user = name, error = %words(&e), "sessions of a user that is dropped may go on");
        }
    }
}
