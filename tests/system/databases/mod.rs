//! The secrets engine `database` on real databases: whatever happens, no user is left that no lease knows.

mod clients;
mod cluster;
mod hanging;
mod influxdb;
mod mariadb;
mod postgres;
mod redis;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_tests::database::Database;
use holdfast_tests::{Client, Reply, Running, Server, Setup, until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// A server with the engine at `database/` and the connection `shop`.
struct Site {
    running: Running,
    database: Database,
}

/// A user that was made.
struct User {
    name: String,
    password: String,
    lease: String,
}

impl Site {
    #[track_caller]
    fn new(database: Database) -> Site {
        let running = Running::start(Setup::shamir().without_tls());
        running.root.post("sys/mounts/database", json!({ "type": "database" })).expect(204);
        running.root.post("database/config/shop", database.config()).expect(204);
        Site { running, database }
    }

    fn root(&self) -> &Client {
        &self.running.root
    }

    #[track_caller]
    fn role(&self, name: &str, creation: &[&str], ttl: &str) {
        let body = json!({ "db_name": "shop", "creation_statements": creation, "default_ttl": ttl, "max_ttl": "1h" });
        self.root().post(&format!("database/roles/{name}"), body).expect(204);
    }

    #[track_caller]
    fn user(&self, role: &str) -> User {
        User::of(&self.root().get(&format!("database/creds/{role}")))
    }

    fn is_let_in(&self, user: &User) -> bool {
        self.database.logs_in(&user.name, &user.password)
    }

    #[track_caller]
    fn until_gone(&self, user: &User, within: Duration) {
        until(within, "the end of a user", || (!self.database.made_users().contains(&user.name)).then_some(()));
        assert!(!self.is_let_in(user));
    }

    /// Users that the leases below `database/` stand for, and those that the database has, are as many.
    fn leases(&self, role: &str) -> usize {
        let reply = self.root().list(&format!("sys/leases/lookup/database/creds/{role}"));
        if reply.status == 404 {
            return 0;
        }
        reply.expect(200).at("/data/keys").as_array().expect("a list").len()
    }

    fn revoke(&self, user: &User) -> Reply {
        self.root().post("sys/leases/revoke", json!({ "lease_id": user.lease }))
    }
}

impl User {
    #[track_caller]
    fn of(reply: &Reply) -> User {
        let reply = reply.clone().expect(200);
        User {
            name: reply.text_at("/data/username"),
            password: reply.text_at("/data/password"),
            lease: reply.text_at("/lease_id"),
        }
    }
}

/// Users end with their leases: by revocation, by time, by their token, by their mount.
fn users_end_with_their_leases(database: Database, creation: &[&str]) {
    let site = Site::new(database);
    site.role("brief", creation, "2s");
    site.role("long", creation, "1h");
    let (brief, revoked, kept) = (site.user("brief"), site.user("long"), site.user("long"));
    for user in [&brief, &revoked, &kept] {
        assert!(site.is_let_in(user), "{}", user.name);
    }
    assert!(!site.database.logs_in(&kept.name, "another"));
    site.revoke(&revoked).expect(204);
    assert!(!site.is_let_in(&revoked));
    site.until_gone(&brief, SOON);
    let token = site.running.token_with("asks", "path \"database/creds/*\" { capabilities = [\"read\"] }");
    let of_token = User::of(&site.root().with_token(&token).get("database/creds/long"));
    site.root().post("auth/token/revoke", json!({ "token": token })).expect(204);
    site.until_gone(&of_token, SOON);
    assert!(site.is_let_in(&kept));
    site.root().delete("sys/mounts/database").expect(204);
    site.until_gone(&kept, SOON);
    assert!(site.database.made_users().is_empty());
}

/// A session that is open when its user is revoked has ended, or may do nothing any more.
fn an_open_session_ends_with_its_user(database: Database, creation: &[&str], query: &str) {
    let site = Site::new(database);
    site.role("reader", creation, "1h");
    let (user, other) = (site.user("reader"), site.user("reader"));
    let mut session = site.database.session(&user.name, &user.password);
    let mut others = site.database.session(&other.name, &other.password);
    assert_eq!(session.ask(query).as_deref(), Some("2"));
    assert_eq!(others.ask(query).as_deref(), Some("2"));
    site.revoke(&user).expect(204);
    assert_eq!(session.ask(query), None, "its rights are gone");
    assert_eq!(others.ask(query).as_deref(), Some("2"), "another user's session goes on");
}

/// Many clients ask at once for users with rights on one table, and these end at once: everybody gets one and nothing
/// fails, though sessions of the database change the same rights.
fn many_ask_at_once(database: Database, creation: &[&str]) {
    const CLIENTS: usize = 200;
    let site = Site::new(database);
    let roles = ["one", "two"];
    roles.iter().for_each(|role| site.role(role, creation, "1h"));
    let names: HashSet<String> = std::thread::scope(|scope| {
        let ask = |n: usize| site.user(roles[n % roles.len()]).name;
        let asking: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || ask(n))).collect();
        asking.into_iter().map(|client| client.join().expect("a user")).collect()
    });
    assert_eq!(names.len(), CLIENTS);
    let made: HashSet<String> = site.database.made_users().into_iter().collect();
    assert_eq!(made, names);
    for role in roles {
        // As many as are ended while one waits.
        site.root()
            .post(&format!("sys/leases/revoke-prefix/database/creds/{role}"), json!({ "sync": true }))
            .expect(204);
    }
    assert!(site.database.made_users().is_empty());
}

/// A database that is away when a lease ends loses the user when it is back; meanwhile others are served.
fn a_user_goes_when_its_database_is_back(database: Database, other: &Database, creation: &[&str]) {
    let mut site = Site::new(database);
    site.root().post("database/config/other", other.config()).expect(204);
    site.role("brief", creation, "1s");
    let user = site.user("brief");
    site.database.stop();
    until(SOON, "a try in vain", || {
        let shown = site.root().post("sys/leases/lookup", json!({ "lease_id": user.lease })).expect(200);
        shown.json().pointer("/data/revocation/last_error").is_some_and(|e| e.is_string()).then_some(())
    });
    let begun = std::time::Instant::now();
    site.root().post("database/reset/other", json!({})).expect(204);
    assert!(begun.elapsed() < Duration::from_secs(2), "the other database waits for nobody");
    site.root().get("database/creds/brief").expect(500);
    site.database.start();
    until(Duration::from_secs(60), "the end of the lease", || {
        (site.root().post("sys/leases/lookup", json!({ "lease_id": user.lease })).status == 400).then_some(())
    });
    assert!(site.database.made_users().is_empty());
}

/// Statements that a database refuses: its words reach who asks, and the password of the user that was to be made does
/// not, whether or not it is known beforehand. Nobody is made.
fn what_a_database_says_comes_without_the_password(database: Database, wrong: &[&str], words: &str) {
    let site = Site::new(database);
    let known = "length = 12\nrule \"charset\" { charset = \"A\" }";
    site.root().post("sys/policies/password/known", json!({ "policy": known })).expect(204);
    let (mut said_words, known) = (false, "A".repeat(12));
    for (n, statement) in wrong.iter().enumerate() {
        let body = json!({
            "db_name": "shop", "creation_statements": [statement], "credential_config": { "password_policy": "known" },
        });
        site.root().post(&format!("database/roles/wrong-{n}"), body).expect(204);
        let said = site.root().get(&format!("database/creds/wrong-{n}")).expect(500).text();
        assert!(!said.contains(&known), "{said}");
        said_words |= said.contains(words);
    }
    assert!(said_words, "nobody was told {words:?}");
    let log = site.running.server.log();
    assert!(!log.contains(&known), "{log}");
    until(SOON, "nobody", || site.database.made_users().is_empty().then_some(()));
}

/// Killed in the middle of making and revoking users: those that were handed out and not revoked are there, and no
/// lease and no user without the other.
fn no_user_is_left_after_kill_9(database: Database, creation: &[&str], enough: usize) {
    let Site { running, database } = {
        let site = Site::new(database);
        site.role("long", creation, "1h");
        site
    };
    let (made, over, kept) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let pid = running.server.pid();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let client = running.root.with_token(running.root.token());
                let mut of_two = None;
                while !over.load(Ordering::SeqCst) {
                    let Ok(reply) = client.try_call("GET", "database/creds/long", None) else { break };
                    if reply.status != 200 {
                        break;
                    }
                    made.fetch_add(1, Ordering::SeqCst);
                    let user = User::of(&reply);
                    kept.lock().unwrap().insert(user.name.clone());
                    match of_two.take() {
                        None => of_two = Some(user),
                        Some(first) => {
                            // Whatever is answered, nobody counts on it any more.
                            kept.lock().unwrap().remove(&first.name);
                            let revoke = json!({ "lease_id": first.lease, "sync": true });
                            let _answered_or_killed = client.try_call("POST", "sys/leases/revoke", Some(&revoke));
                        }
                    }
                }
            });
        }
        until(Duration::from_secs(60), "enough users", || (made.load(Ordering::SeqCst) >= enough).then_some(()));
        holdfast_tests::process::signal(pid, rustix::process::Signal::KILL);
        over.store(true, Ordering::SeqCst);
    });
    let site = Site { running: running.restart(Server::kill), database };
    // What was under way is undone when its time is over.
    until(Duration::from_secs(150), "the undoing of what broke off", || {
        let intents = site.root().get("sys/intents").expect(200);
        let open = intents.at("/data/intents").as_array().expect("a list").iter().any(|i| i["state"] != "undone");
        (!open).then_some(())
    });
    let (users, leases) = (site.database.made_users(), site.leases("long"));
    println!("{} users were handed out, {} are there, {leases} leases", made.load(Ordering::SeqCst), users.len());
    assert_eq!(users.len(), leases);
    assert!(kept.into_inner().unwrap().iter().all(|user| users.contains(user)));
    site.root().post("sys/leases/revoke-prefix/database/creds/long", json!({ "sync": false })).expect(202);
    until(Duration::from_secs(60), "the end of all users", || site.database.made_users().is_empty().then_some(()));
}
