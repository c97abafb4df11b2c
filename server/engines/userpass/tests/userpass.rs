//! The method as the core asks it, over a mount in memory.

use holdfast_sdk::testing::{Asking, MemoryMount};
use holdfast_sdk::{Backend, Body, Error, Login, Operation, Response, Result, Value};
use holdfast_userpass::Userpass;
use serde_json::json;

/// A hash of `U*U`.
const BCRYPT: &str = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

#[derive(Default)]
struct Mount {
    engine: Userpass,
    stored: MemoryMount,
    asking: Asking,
}

impl Mount {
    async fn ask(&mut self, operation: Operation, path: &str, data: Value) -> Result<Response> {
        self.asking.ask(&self.engine, &mut self.stored, operation, path, data).await
    }

    async fn write(&mut self, path: &str, data: Value) {
        self.ask(Operation::Update, path, data).await.unwrap();
    }

    async fn login(&mut self, name: &str, password: &str) -> Result<Login> {
        let answer = self.ask(Operation::Update, &format!("login/{name}"), json!({"password": password})).await?;
        Ok(*answer.login.unwrap())
    }

    async fn read(&mut self, name: &str) -> Value {
        match self.ask(Operation::Read, &format!("users/{name}"), Value::Null).await.unwrap().body {
            Body::Data(data) => Value::Object(data),
            _ => panic!("no data"),
        }
    }
}

#[track_caller]
fn assert_refused(login: Result<Login>) {
    match login {
        Err(Error::LoginRefused(text)) => assert_eq!(text, "invalid username or password"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_user_logs_in_with_the_right_password_alone() {
    let mut m = Mount::default();
    m.write("users/Alice", json!({"password": "correct horse", "token_policies": "a,b", "token_ttl": "10m"})).await;
    let login = m.login("ALICE", "correct horse").await.unwrap();
    assert_eq!(login.alias.unwrap().name, "alice");
    assert_eq!((login.display_name.as_str(), login.ttl_secs), ("alice", 600));
    assert_eq!(login.policies, ["a", "b"]);
    assert_eq!(login.metadata, [("username".to_owned(), "alice".to_owned())]);
    assert_refused(m.login("alice", "Correct horse").await);
    assert_refused(m.login("nobody", "correct horse").await);
    assert!(matches!(m.login("alice", "").await, Err(Error::Status(500, _))));
    assert!(!m.stored.holds_text("correct horse"));
    let renewal = m.engine.renew_login(&mut m.stored, &login.internal).unwrap();
    assert_eq!((renewal.policies, renewal.ttl_secs), (vec!["a".to_owned(), "b".to_owned()], 600));
}

#[tokio::test]
async fn a_bcrypt_hash_becomes_one_of_ours_at_the_first_login() {
    let mut m = Mount::default();
    m.write("users/h", json!({"password_hash": BCRYPT})).await;
    let before = m.stored.clone();
    assert_refused(m.login("h", "U*V").await);
    assert!(m.login("h", "U*U").await.is_ok());
    assert_ne!(format!("{before:?}"), format!("{:?}", m.stored));
    let after = format!("{:?}", m.stored);
    assert!(m.login("h", "U*U").await.is_ok());
    assert_eq!(after, format!("{:?}", m.stored), "only once");
    assert_refused(m.login("h", "U*V").await);
}

#[tokio::test]
async fn a_password_that_changed_since_it_was_checked_lets_nobody_in() {
    let mut m = Mount::default();
    m.write("users/a", json!({"password": "old"})).await;
    let body = json!({"password": "old"});
    let checked =
        m.asking.prepare(&m.engine, &mut m.stored, Operation::Update, "login/a", body.clone()).await.unwrap().unwrap();
    m.write("users/a/password", json!({"password": "new"})).await;
    let late = m.asking.call(&m.engine, Operation::Update, "login/a", body, Some(&*checked), |e, found, call| {
        e.apply(found, &mut m.stored.clone(), call)
    });
    assert!(matches!(late, Err(Error::Unavailable(_))));
    assert_refused(m.login("a", "old").await);
    assert!(m.login("a", "new").await.is_ok());
}

#[tokio::test]
async fn exactly_one_form_of_the_password_is_given() {
    let mut m = Mount::default();
    for (path, body) in [
        ("users/a", json!({})),
        ("users/a", json!({"password": ""})),
        ("users/a", json!({"password": "x", "password_hash": BCRYPT})),
        ("users/a", json!({"password_hash": "nope"})),
        ("users/a", json!({"password": ["x"]})),
    ] {
        let refused = m.ask(Operation::Update, path, body.clone()).await;
        assert!(matches!(refused, Err(Error::BadRequest(_))), "{body}");
    }
    for (path, body) in [
        ("users/a", json!({"password": "x".repeat(73)})),
        ("users/none/password", json!({"password": "x"})),
        ("users/none/policies", json!({"token_policies": "x"})),
    ] {
        assert!(matches!(m.ask(Operation::Update, path, body).await, Err(Error::Status(500, _))), "{path}");
    }
    m.write("users/a", json!({"password": "x".repeat(72)})).await;
    m.write("users/a", json!({"token_num_uses": 3})).await;
    assert_eq!(m.login("a", &"x".repeat(72)).await.unwrap().num_uses, 3);
}

#[tokio::test]
async fn what_a_read_shows_holds_no_password() {
    let mut m = Mount::default();
    m.write("users/a", json!({"password_hash": BCRYPT, "policies": "p", "ttl": 60})).await;
    let shown = m.read("a").await;
    assert!(!shown.to_string().contains("assword"));
    assert_eq!((&shown["policies"], &shown["token_policies"]), (&json!(["p"]), &json!(["p"])));
    m.write("users/a/policies", json!({"token_policies": ["q"]})).await;
    let shown = m.read("a").await;
    assert_eq!((shown.get("policies"), &shown["token_policies"], &shown["ttl"]), (None, &json!(["q"]), &json!(60)));
}

#[tokio::test]
async fn a_login_from_outside_the_user_s_networks_is_refused() {
    let mut m = Mount::default();
    m.write("users/a", json!({"password": "x", "token_bound_cidrs": "10.0.0.0/8"})).await;
    assert!(matches!(m.login("a", "x").await, Err(Error::PermissionDenied)));
    m.asking.remote = Some("10.1.1.1:9".parse().unwrap());
    assert_eq!(m.login("a", "x").await.unwrap().bound_cidrs, ["10.0.0.0/8"]);
}

#[tokio::test]
async fn only_users_that_exist_can_be_locked_out() {
    let mut m = Mount::default();
    m.write("users/a", json!({"password": "x"})).await;
    for (name, counted) in [("A", Some("a".to_owned())), ("ghost", None)] {
        let path = format!("login/{name}");
        let named = m.asking.call(&m.engine, Operation::Update, &path, Value::Null, None, |e, found, call| {
            e.login_name(found, &mut m.stored, call)
        });
        assert_eq!(named.unwrap(), counted);
    }
}

#[tokio::test]
async fn names_that_are_none_are_no_paths() {
    let mut m = Mount::default();
    for path in ["users/with space", "users/a@b", "users/.a", "login/a@b", "users/a/b"] {
        let answer = m.ask(Operation::Update, path, json!({"password": "x"})).await;
        assert!(matches!(answer, Err(Error::UnsupportedPath)), "{path}");
    }
    m.write("users/a.b-c_d", json!({"password": "x"})).await;
    m.write("users/b", json!({"password": "x"})).await;
    let Body::Data(listed) = m.ask(Operation::List, "users/", json!({"after": "a", "limit": "1"})).await.unwrap().body
    else {
        panic!("no data")
    };
    assert_eq!(listed["keys"], json!(["a.b-c_d"]));
}
