//! What is done outside: its record in the store, its means in memory, and how it is taken back.

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::{Error, Failure, Means, Outside, Result, Timestamp, Tx, record};
use minicbor::{Decode, Encode};

use crate::Database;
use crate::alone::Alone;
use crate::connections::Connection;
use crate::plugin::{NewUser, Plugin};
use crate::roles::Role;
use crate::static_roles::StaticRole;

/// How long an act may take; a statement is given less.
pub const TIME_OUT: Duration = Duration::from_secs(30);

/// What an [`Outside`] of this engine is.
#[derive(Clone, Encode, Decode)]
pub enum What {
    /// A user that ends with its lease.
    #[n(0)]
    User {
        #[n(0)]
        role: String,
        /// As they were when the user was made, for when the role is gone.
        #[n(1)]
        revocation: Vec<String>,
    },
    /// The password of a static role's user.
    #[n(1)]
    StaticPassword {
        #[n(0)]
        role: String,
    },
    /// The password of the connection's own user.
    #[n(2)]
    RootPassword,
}
holdfast_sdk::record!(What);

/// What an act needs.
pub enum Plan {
    Make {
        plugin: Arc<dyn Plugin>,
        user: NewUser,
        ttl_secs: u64,
        warning: Option<String>,
    },
    SetPassword {
        plugin: Arc<dyn Plugin>,
        username: String,
        password: String,
        statements: Vec<String>,
        told: Told,
        _alone: Alone,
    },
}

/// How a failure to set a password is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    NewStaticRole,
    Rotation,
    Root,
}

/// What reaching something needs that is there already.
pub enum Way {
    User {
        plugin: Arc<dyn Plugin>,
        revocation: Vec<String>,
        renewal: Vec<String>,
        /// The connection was deleted: the user may only go.
        is_deleted: bool,
    },
    /// Set the password again that the store knows.
    Password { plugin: Arc<dyn Plugin>, password: String, statements: Vec<String>, _alone: Alone },
    /// The same for the connection's own user, if its password was changed.
    Root { plugin: Arc<dyn Plugin>, password: String, statements: Vec<String>, _alone: Alone },
    /// Nobody knows how it was before.
    Unknown,
}

pub fn outside(target: &str, name: &str, what: &What) -> Result<Outside> {
    Ok(Outside { target: target.to_owned(), name: name.to_owned(), record: record::encode(what)? })
}

pub async fn effect(outside: &Outside, means: &Means) -> Result<Means, Failure> {
    let plan =
        means.downcast_ref::<Plan>().ok_or_else(|| Failure::Nothing(Error::internal("an act without its plan")))?;
    match plan {
        Plan::Make { plugin, user, .. } => plugin.create(user).await?,
        Plan::SetPassword { plugin, username, password, statements, told, .. } => {
            debug_assert_eq!(*username, outside.name);
            let set = plugin.set_password(username, password, statements).await;
            set.map_err(|f| map_failure(f, |e| told.error(e)))?;
        }
    }
    Ok(Arc::new(()) as Means)
}

fn map_failure(failure: Failure, map: impl Fn(Error) -> Error) -> Failure {
    match failure {
        Failure::Nothing(e) => Failure::Nothing(map(e)),
        Failure::Uncertain(e) => Failure::Uncertain(map(e)),
    }
}

impl Told {
    pub fn error(self, e: Error) -> Error {
        e.say(|e| match self {
            Told::NewStaticRole => format!("error setting credentials: {e}"),
            Told::Rotation => format!(
                "unable to finish rotating credentials; retries will continue in the background but it is also safe to \
                 retry manually: error setting credentials: {e}"
            ),
            Told::Root => format!("failed to update user: {e}"),
        })
    }
}

pub fn reach(database: &Database, tx: &mut Tx, outside: &Outside) -> Result<Means> {
    let way = match record::read::<What>(&outside.record)? {
        What::User { role, revocation } => {
            let deleted = match Connection::load(tx, &outside.target)? {
                Some(_) => None,
                None => Connection::deleted(tx, &outside.target)?,
            };
            let is_deleted = deleted.is_some();
            let connection = deleted.map_or_else(|| Connection::of_role(tx, &outside.target), Ok)?;
            let role = Role::load(tx, &role)?;
            let renewal = role.as_ref().map(|r| r.renewal.clone()).unwrap_or_default();
            let revocation = role.map_or(revocation, |r| r.revocation);
            let plugin = database.opened.get(&outside.target, &connection)?;
            Way::User { plugin, revocation, renewal, is_deleted }
        }
        What::StaticPassword { role: name } => match StaticRole::load(tx, &name)? {
            Some(role) => {
                let _alone = database.alone.enter(&format!("static/{name}"))?;
                let connection = Connection::of_role(tx, &role.db_name)?;
                let plugin = database.opened.get(&role.db_name, &connection)?;
                Way::Password { plugin, password: role.password, statements: role.rotation, _alone }
            }
            None => Way::Unknown,
        },
        What::RootPassword => match Connection::load(tx, &outside.target)? {
            Some(connection) => {
                let _alone = database.alone.enter(&format!("config/{}", outside.target))?;
                let password = connection.password.clone().unwrap_or_default();
                let plugin = database.opened.get(&outside.target, &connection)?;
                Way::Root { plugin, password, statements: connection.root_rotation_statements, _alone }
            }
            None => Way::Unknown,
        },
    };
    Ok(Arc::new(way))
}

pub async fn undo(outside: &Outside, means: &Means) -> Result<()> {
    match way(means)? {
        Way::User { plugin, revocation, .. } => plugin.drop_user(&outside.name, revocation).await,
        Way::Password { plugin, password, statements, .. } => {
            plugin.set_password(&outside.name, password, statements).await.map_err(Failure::into_error)
        }
        Way::Root { plugin, password, statements, .. } => match plugin.verify_stored().await? {
            true => Ok(()),
            // The connection opens with the next password.
            false => plugin.set_password(&outside.name, password, statements).await.map_err(Failure::into_error),
        },
        Way::Unknown => Ok(()),
    }
}

pub async fn extend(outside: &Outside, means: &Means, until: Timestamp) -> Result<()> {
    match way(means)? {
        Way::User { is_deleted: true, .. } => {
            Err(Error::Internal(format!("the connection {:?} was deleted", outside.target)))
        }
        Way::User { plugin, renewal, .. } => plugin.extend(&outside.name, until, renewal).await,
        _ => Ok(()),
    }
}

fn way(means: &Means) -> Result<&Way> {
    means.downcast_ref().ok_or_else(|| Error::internal("an act without its way"))
}
