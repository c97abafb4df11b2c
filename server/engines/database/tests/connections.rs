//! Connections over time, on a real PostgreSQL and a mount in memory: passwords that are changed when it is time, and
//! connections that are deleted. What time it is the test says.

use holdfast_database::Database;
use holdfast_sdk::lease::Limits;
use holdfast_sdk::testing::{Asking, MemoryMount};
use holdfast_sdk::{Act, Backend, Body, Done, Error, Failure, Operation, Table, Timestamp, Value};
use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database as Server};
use serde_json::json;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// A day's three o'clock.
const THREE: u64 = 1_700_017_200;
const DELETED: Table = Table(6);

struct Site {
    engine: Database,
    mount: MemoryMount,
    server: Server,
    asking: Asking,
}

impl Site {
    fn at(secs: u64) -> Site {
        let engine = Database::new(Limits { default_secs: DAY, max_secs: DAY });
        let asking = Asking { now: Timestamp::from_secs(secs), ..Asking::default() };
        Site { engine, mount: MemoryMount::default(), server: Server::postgres(), asking }
    }

    async fn connect(&mut self, more: Value) {
        let mut body = self.server.config();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write("config/shop", body).await.unwrap();
    }

    async fn write(&mut self, path: &str, body: Value) -> Result<(), Error> {
        self.ask(Operation::Update, path, body).await.map(drop)
    }

    async fn ask(&mut self, operation: Operation, path: &str, body: Value) -> Result<Value, Error> {
        match self.asking.ask(&self.engine, &mut self.mount, operation, path, body).await?.body {
            Body::Data(data) => Ok(Value::Object(data)),
            _ => Ok(Value::Null),
        }
    }

    fn intend(&mut self, path: &str) -> Result<Option<Act>, Error> {
        let mount = &mut self.mount;
        let body = json!({});
        self.asking.call(&self.engine, Operation::Read, path, body, None, |b, found, call| b.intend(found, mount, call))
    }

    /// What the mount does by itself at a time. How many things it did, and how many of them failed.
    async fn works_at(&mut self, secs: u64) -> (usize, usize) {
        let now = Timestamp::from_secs(secs);
        self.asking.now = now;
        let (mut done, mut failed) = (0, 0);
        for name in self.engine.chores(&mut self.mount, now, 16).unwrap() {
            let Some(act) = self.engine.begin_chore(&mut self.mount, &name, now).unwrap() else { continue };
            done += 1;
            let ended = self.engine.effect(&act.outside, &act.means).await;
            if let Err(Failure::Uncertain(_)) = &ended {
                let means = self.engine.reach(&mut self.mount, &act.outside).unwrap();
                let _may_fail_as_well = self.engine.undo(&act.outside, &means).await;
            }
            match ended {
                Ok(result) => {
                    let all = Done { outside: act.outside, means: act.means, result };
                    self.engine.end_chore(&mut self.mount, &name, now, Ok(&all)).unwrap();
                }
                Err(failure) => {
                    failed += 1;
                    let why = failure.into_error().to_string();
                    drop(act.means);
                    self.engine.end_chore(&mut self.mount, &name, now, Err(&why)).unwrap();
                }
            }
        }
        (done, failed)
    }

    /// What PostgreSQL keeps of the connection's own password.
    fn kept(&self) -> String {
        self.server.sql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{ADMIN}'")).remove(0)
    }

    async fn opens(&mut self) {
        self.write("reset/shop", json!({})).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connections_password_is_changed_every_period_and_not_before() {
    let mut site = Site::at(THREE);
    site.connect(json!({ "rotation_period": HOUR })).await;
    let first = site.kept();
    assert_eq!(site.works_at(THREE + HOUR - 1).await, (0, 0));
    assert!(site.server.logs_in(ADMIN, ADMIN_PASSWORD));
    assert_eq!(site.works_at(THREE + HOUR).await, (1, 0));
    let second = site.kept();
    assert_ne!(second, first);
    assert!(!site.server.logs_in(ADMIN, ADMIN_PASSWORD));
    site.opens().await;
    // The next period begins when it was changed, however late that was.
    assert_eq!(site.works_at(THREE + 2 * HOUR - 1).await, (0, 0));
    assert_eq!(site.works_at(THREE + 2 * HOUR + 100).await, (1, 0));
    assert_eq!(site.works_at(THREE + 3 * HOUR).await, (0, 0));
    assert_eq!(site.works_at(THREE + 3 * HOUR + 100).await, (1, 0));
    assert_ne!(site.kept(), second);
    site.opens().await;
    // Not at present, and again.
    site.write("config/shop", json!({ "disable_automated_rotation": true })).await.unwrap();
    assert_eq!(site.works_at(THREE + 9 * HOUR).await, (0, 0));
    site.write("config/shop", json!({ "disable_automated_rotation": false })).await.unwrap();
    assert_eq!(site.works_at(THREE + 9 * HOUR).await, (1, 0), "its period is over long ago");
    // No more.
    site.write("config/shop", json!({ "rotation_period": 0 })).await.unwrap();
    assert_eq!(site.works_at(THREE + 99 * HOUR).await, (0, 0));
    site.opens().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connections_password_is_changed_by_its_schedule_within_the_window() {
    let mut site = Site::at(THREE - HOUR);
    site.connect(json!({ "rotation_schedule": "0 3 * * *", "rotation_window": HOUR })).await;
    assert_eq!(site.works_at(THREE - 1).await, (0, 0));
    assert_eq!(site.works_at(THREE).await, (1, 0));
    assert!(!site.server.logs_in(ADMIN, ADMIN_PASSWORD));
    assert_eq!(site.works_at(THREE + 1).await, (0, 0), "once");
    // A server that was off may be late, but not by more than the window.
    assert_eq!(site.works_at(THREE + DAY + HOUR).await, (1, 0));
    let before = site.kept();
    assert_eq!(site.works_at(THREE + 2 * DAY + HOUR + 1).await, (0, 0));
    assert_eq!(site.kept(), before);
    assert_eq!(site.works_at(THREE + 3 * DAY - 1).await, (0, 0));
    assert_eq!(site.works_at(THREE + 3 * DAY).await, (1, 0));
    assert_ne!(site.kept(), before);
    site.opens().await;
    // Without a window it is made up for.
    site.write("config/shop", json!({ "rotation_schedule": "0 3 * * *", "rotation_window": 0 })).await.unwrap();
    assert_eq!(site.works_at(THREE + 4 * DAY + 20 * HOUR).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_connections_password_that_fails_is_said_and_tried_again() {
    let mut site = Site::at(THREE - HOUR);
    site.connect(json!({ "rotation_schedule": "0 3 * * *", "rotation_window": HOUR })).await;
    site.server.stop();
    assert_eq!(site.works_at(THREE).await, (1, 1));
    let shown = site.ask(Operation::Read, "config/shop", Value::Null).await.unwrap();
    assert_eq!(shown["rotation_failures"], 1);
    assert!(shown["last_rotation_error"].as_str().is_some_and(|e| !e.is_empty()), "{shown}");
    assert!(!shown.to_string().contains(ADMIN_PASSWORD));
    assert_eq!(site.works_at(THREE + 19).await, (0, 0), "after a pause");
    assert_eq!(site.works_at(THREE + 20).await, (1, 1));
    assert_eq!(site.works_at(THREE + 59).await, (0, 0), "which grows");
    site.server.start();
    assert!(site.server.logs_in(ADMIN, ADMIN_PASSWORD));
    // What was begun in its window is done behind it too.
    assert_eq!(site.works_at(THREE + 2 * HOUR).await, (1, 0));
    assert!(!site.server.logs_in(ADMIN, ADMIN_PASSWORD));
    let shown = site.ask(Operation::Read, "config/shop", Value::Null).await.unwrap();
    assert!(shown.get("last_rotation_error").is_none(), "{shown}");
    site.opens().await;
    assert_eq!(site.works_at(THREE + DAY - 1).await, (0, 0));
    assert_eq!(site.works_at(THREE + DAY).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_deleted_connection_can_be_revoked_and_nothing_else() {
    let mut site = Site::at(THREE);
    site.connect(json!({})).await;
    let creation = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
    site.write("roles/reader", json!({ "db_name": "shop", "creation_statements": creation })).await.unwrap();
    let act = site.intend("creds/reader").unwrap().expect("a user is to be made");
    site.engine.effect(&act.outside, &act.means).await.unwrap();
    assert_eq!(site.server.made_users(), std::slice::from_ref(&act.outside.name));
    site.mount.outside_at.insert("shop".into());

    site.ask(Operation::Delete, "config/shop", Value::Null).await.unwrap();
    assert!(matches!(site.ask(Operation::Read, "config/shop", Value::Null).await, Err(Error::NotFound)));
    assert!(site.intend("creds/reader").is_err(), "nobody gets a user");
    assert_eq!(site.works_at(THREE + 1).await, (0, 0));
    assert_eq!(site.mount.len_of(DELETED), 1);
    let means = site.engine.reach(&mut site.mount, &act.outside).unwrap();
    let later = Timestamp::from_secs(THREE + HOUR);
    let refused = site.engine.extend(&act.outside, &means, later).await.unwrap_err();
    assert!(refused.to_string().contains("was deleted"), "{refused}");
    site.engine.undo(&act.outside, &means).await.unwrap();
    assert!(site.server.made_users().is_empty());

    // Nothing is left that it made: its password is kept no longer.
    site.mount.outside_at.clear();
    assert!(site.mount.holds_text(ADMIN_PASSWORD));
    assert_eq!(site.works_at(THREE + 2).await, (0, 0));
    assert_eq!(site.mount.len_of(DELETED), 0);
    assert!(!site.mount.holds_text(ADMIN_PASSWORD));
    assert!(site.engine.reach(&mut site.mount, &act.outside).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_written_again_takes_the_place_of_the_deleted_one() {
    let mut site = Site::at(THREE);
    site.connect(json!({})).await;
    site.mount.outside_at.insert("shop".into());
    site.ask(Operation::Delete, "config/shop", Value::Null).await.unwrap();
    assert_eq!(site.mount.len_of(DELETED), 1);
    site.connect(json!({})).await;
    assert_eq!(site.mount.len_of(DELETED), 0);
    // One that has made nothing goes at once.
    site.mount.outside_at.clear();
    site.ask(Operation::Delete, "config/shop", Value::Null).await.unwrap();
    assert_eq!(site.mount.len_of(DELETED), 0);
    assert!(!site.mount.holds_text(ADMIN_PASSWORD));
}
