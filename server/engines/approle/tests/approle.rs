//! The method as the core asks it, over a mount in memory.

use holdfast_approle::Approle;
use holdfast_sdk::testing::{Asking, MemoryMount};
use holdfast_sdk::{Backend, Body, Error, Login, Operation, Response, Result, Table, Value};
use serde_json::json;

const SECRET_IDS: Table = Table(3);
const ACCESSORS: Table = Table(4);
const ENDS: Table = Table(5);
const GONE_ROLES: Table = Table(6);

struct Mount {
    engine: Approle,
    stored: MemoryMount,
    asking: Asking,
}

impl Mount {
    fn new() -> Mount {
        Mount { engine: Approle::new(768 * 3600), stored: MemoryMount::default(), asking: Asking::default() }
    }

    async fn ask(&mut self, operation: Operation, path: &str, data: Value) -> Result<Response> {
        self.asking.ask(&self.engine, &mut self.stored, operation, path, data).await
    }

    async fn write(&mut self, path: &str, data: Value) -> Value {
        match self.ask(Operation::Update, path, data).await.unwrap().body {
            Body::Data(data) => Value::Object(data),
            _ => Value::Null,
        }
    }

    async fn read(&mut self, path: &str) -> Value {
        match self.ask(Operation::Read, path, Value::Null).await.unwrap().body {
            Body::Data(data) => Value::Object(data),
            _ => panic!("no data at {path}"),
        }
    }

    async fn secret_id(&mut self, role: &str, data: Value) -> (String, String) {
        let made = self.write(&format!("role/{role}/secret-id"), data).await;
        let text = |k: &str| made[k].as_str().unwrap().to_owned();
        (text("secret_id"), text("secret_id_accessor"))
    }

    async fn login(&mut self, role_id: &str, secret_id: &str) -> Result<Login> {
        let body = json!({"role_id": role_id, "secret_id": secret_id});
        Ok(*self.ask(Operation::Update, "login", body).await?.login.unwrap())
    }

    async fn accessors(&mut self, role: &str) -> Vec<String> {
        match self.ask(Operation::List, &format!("role/{role}/secret-id"), Value::Null).await {
            Ok(Response { body: Body::Data(data), .. }) => serde_json::from_value(data["keys"].clone()).unwrap(),
            Err(Error::NotFound) => Vec::new(),
            _ => panic!("no list"),
        }
    }

    fn pass(&mut self, secs: u64) {
        self.asking.now = self.asking.now.plus_secs(secs);
    }
}

#[track_caller]
fn assert_refused(login: Result<Login>) {
    match login {
        Err(Error::LoginRefused(text)) => assert_eq!(text, "invalid role or secret ID"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_secret_id_opens_its_own_role_alone() {
    let mut m = Mount::new();
    m.write("role/App", json!({"role_id": "rid", "token_policies": "p", "token_ttl": "5m"})).await;
    m.write("role/other", json!({"role_id": "rid-2"})).await;
    let (secret, accessor) = m.secret_id("app", json!({"metadata": "{\"who\": \"me\", \"role_name\": \"x\"}"})).await;
    let login = m.login(" rid ", &secret).await.unwrap();
    assert_eq!(login.alias.as_ref().unwrap().name, "rid");
    assert_eq!(login.metadata, [("role_name".into(), "app".into()), ("who".into(), "me".to_owned())]);
    assert_eq!((login.ttl_secs, login.policies.as_slice()), (300, &["p".to_owned()][..]));
    assert_refused(m.login("rid-2", &secret).await);
    assert_refused(m.login("RID", &secret).await);
    assert_refused(m.login("rid", "nope").await);
    assert_refused(m.login("nobody", &secret).await);
    assert!(matches!(m.login("rid", "").await, Err(Error::BadRequest(_))));
    assert!(!m.stored.holds_text(&secret), "a secret id is stored as an HMAC alone");
    let renewal = m.engine.renew_login(&mut m.stored, &login.internal).unwrap();
    assert_eq!(renewal.ttl_secs, 300);
    let lookup = |role: &str| format!("role/{role}/secret-id-accessor/lookup");
    let asked = json!({"secret_id_accessor": accessor});
    assert_eq!(m.write(&lookup("app"), asked.clone()).await["metadata"]["who"], "me");
    let elsewhere = m.ask(Operation::Update, &lookup("other"), asked).await.unwrap();
    assert_eq!(elsewhere.status, Some(404));
}

#[tokio::test]
async fn uses_run_out_and_nothing_is_left_of_the_secret_id() {
    let mut m = Mount::new();
    m.write("role/r", json!({"role_id": "rid", "secret_id_num_uses": 2, "secret_id_ttl": "1h"})).await;
    let (secret, _) = m.secret_id("r", json!({})).await;
    assert!(m.login("rid", &secret).await.is_ok());
    assert_eq!(m.write("role/r/secret-id/lookup", json!({"secret_id": secret})).await["secret_id_num_uses"], 1);
    assert!(m.login("rid", &secret).await.is_ok());
    assert_refused(m.login("rid", &secret).await);
    for table in [SECRET_IDS, ACCESSORS, ENDS] {
        assert_eq!(m.stored.len_of(table), 0, "{table:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_refused_takes_no_use() {
    let mut m = Mount::new();
    m.write("role/r", json!({"role_id": "rid"})).await;
    let (secret, _) = m.secret_id("r", json!({"num_uses": 1, "cidr_list": "10.0.0.0/8"})).await;
    assert!(matches!(m.login("rid", &secret).await, Err(Error::BadRequest(_))));
    m.asking.remote = Some("10.2.3.4:5".parse().unwrap());
    assert!(m.login("rid", &secret).await.is_ok());
}

#[tokio::test]
async fn what_has_ended_is_gone_everywhere_and_is_swept() {
    let mut m = Mount::new();
    m.write("role/r", json!({"role_id": "rid"})).await;
    let (short, accessor) = m.secret_id("r", json!({"ttl": 60})).await;
    let (_, lasting) = m.secret_id("r", json!({})).await;
    let mut both = vec![accessor.clone(), lasting.clone()];
    both.sort();
    assert_eq!(m.accessors("r").await, both);
    m.pass(60);
    assert_refused(m.login("rid", &short).await);
    assert_eq!(m.accessors("r").await, std::slice::from_ref(&lasting));
    assert_eq!(m.write("role/r/secret-id/lookup", json!({"secret_id": short})).await, Value::Null);
    let gone = json!({"secret_id_accessor": accessor});
    assert_eq!(m.ask(Operation::Update, "role/r/secret-id-accessor/lookup", gone).await.unwrap().status, Some(404));
    assert_eq!(m.stored.len_of(SECRET_IDS), 2);
    m.secret_id("r", json!({})).await;
    assert_eq!((m.stored.len_of(SECRET_IDS), m.stored.len_of(ENDS), m.stored.len_of(ACCESSORS)), (2, 0, 2));
    // An id that ended is free again.
    m.write("role/r/custom-secret-id", json!({"secret_id": "mine", "ttl": 5})).await;
    let again = m.ask(Operation::Update, "role/r/custom-secret-id", json!({"secret_id": "mine"})).await;
    assert!(matches!(again, Err(Error::Status(500, _))));
    m.pass(5);
    m.write("role/r/custom-secret-id", json!({"secret_id": "mine"})).await;
    assert!(m.login("rid", "mine").await.is_ok());
}

#[tokio::test]
async fn secret_ids_of_a_deleted_role_open_nothing_and_are_tidied_in_bounded_steps() {
    let mut m = Mount::new();
    m.write("role/r", json!({"role_id": "rid"})).await;
    let (secret, _) = m.secret_id("r", json!({})).await;
    for _ in 0..1300 {
        m.secret_id("r", json!({})).await;
    }
    m.ask(Operation::Delete, "role/r", Value::Null).await.unwrap();
    assert_eq!((m.stored.len_of(SECRET_IDS), m.stored.len_of(GONE_ROLES)), (1301 - 256, 1));
    m.write("role/r", json!({"role_id": "rid"})).await;
    assert_refused(m.login("rid", &secret).await);
    assert!(m.accessors("r").await.is_empty());
    let first = m.ask(Operation::Update, "tidy/secret-id", Value::Null).await.unwrap();
    assert_eq!((first.status, m.stored.len_of(SECRET_IDS)), (Some(202), 45));
    assert!(first.warnings[0].contains("There are more"));
    let second = m.ask(Operation::Update, "tidy/secret-id", Value::Null).await.unwrap();
    assert!(second.warnings[0].contains(": 45."), "{:?}", second.warnings);
    for table in [SECRET_IDS, ACCESSORS, GONE_ROLES] {
        assert_eq!(m.stored.len_of(table), 0, "{table:?}");
    }
}

#[tokio::test]
async fn a_secret_id_keeps_within_its_role() {
    let mut m = Mount::new();
    let role = json!({"secret_id_num_uses": 10, "secret_id_ttl": "1h", "secret_id_bound_cidrs": "127.0.0.0/8",
                      "token_bound_cidrs": "10.0.0.0/8"});
    m.write("role/r", role).await;
    for (body, status) in [
        (json!({"num_uses": 11}), 400),
        (json!({"num_uses": 0}), 400),
        (json!({"num_uses": -1}), 400),
        (json!({"ttl": "2h"}), 400),
        (json!({"ttl": 0}), 400),
        (json!({"ttl": "-5s"}), 400),
        (json!({"metadata": {"k": "v"}}), 400),
        (json!({"metadata": "{\"k\": 1}"}), 400),
        (json!({"metadata": "k"}), 400),
        (json!({"cidr_list": "127.0.0.1"}), 400),
        (json!({"cidr_list": "10.0.0.0/8"}), 500),
        (json!({"cidr_list": "126.0.0.0/7"}), 500),
        (json!({"token_bound_cidrs": "11.0.0.0/8"}), 500),
    ] {
        match m.ask(Operation::Update, "role/r/secret-id", body.clone()).await {
            Err(Error::BadRequest(_)) => assert_eq!(status, 400, "{body}"),
            Err(Error::Status(found, _)) => assert_eq!(status, found, "{body}"),
            _ => panic!("{body}"),
        }
    }
    let fine = json!({"num_uses": "3", "ttl": "10m", "cidr_list": "127.0.0.1/32", "token_bound_cidrs": ["10.1.0.0/16"],
                      "metadata": "a=b, c=d"});
    let (secret, _) = m.secret_id("r", fine).await;
    let shown = m.write("role/r/secret-id/lookup", json!({"secret_id": secret})).await;
    assert_eq!((&shown["secret_id_ttl"], &shown["metadata"]), (&json!(600), &json!({"a": "b", "c": "d"})));
    let role_id = m.read("role/r/role-id").await["role_id"].as_str().unwrap().to_owned();
    assert_eq!(m.login(&role_id, &secret).await.unwrap().bound_cidrs, ["10.1.0.0/16"]);
}

#[tokio::test]
async fn a_role_without_any_constraint_cannot_be() {
    let mut m = Mount::new();
    let refused = m.ask(Operation::Update, "role/r", json!({"bind_secret_id": false})).await;
    assert!(matches!(refused, Err(Error::Status(500, _))));
    m.write("role/r", json!({"role_id": "rid", "bind_secret_id": false, "secret_id_bound_cidrs": "127.0.0.0/8"})).await;
    assert!(m.login("rid", "").await.is_ok());
    let refused = m.ask(Operation::Delete, "role/r/secret-id-bound-cidrs", Value::Null).await;
    assert!(matches!(refused, Err(Error::Status(500, _))));
    m.asking.remote = Some("10.0.0.1:1".parse().unwrap());
    assert!(matches!(m.login("rid", "").await, Err(Error::BadRequest(_))));
}

#[tokio::test]
async fn role_ids_are_unique_and_the_old_one_opens_nothing() {
    let mut m = Mount::new();
    m.write("role/a", json!({"role_id": "one"})).await;
    m.write("role/b", json!({"role_id": "two"})).await;
    let taken = m.ask(Operation::Update, "role/b/role-id", json!({"role_id": "one"})).await;
    assert!(matches!(taken, Err(Error::Status(500, _))));
    let (secret, _) = m.secret_id("a", json!({})).await;
    m.write("role/a", json!({"role_id": "three"})).await;
    assert_refused(m.login("one", &secret).await);
    assert!(m.login("three", &secret).await.is_ok());
    m.write("role/b/role-id", json!({"role_id": "one"})).await;
    assert_eq!(m.read("role/b/role-id").await["role_id"], "one");
}

#[tokio::test]
async fn properties_are_read_written_and_reset_one_by_one() {
    let mut m = Mount::new();
    m.write("role/r", json!({})).await;
    for (path, name, value, reset) in [
        ("policies", "token_policies", json!(["x", "y"]), json!([])),
        ("secret-id-num-uses", "secret_id_num_uses", json!(8), json!(0)),
        ("secret-id-ttl", "secret_id_ttl", json!(540), json!(0)),
        ("token-ttl", "token_ttl", json!(600), json!(0)),
        ("token-max-ttl", "token_max_ttl", json!(1800), json!(0)),
        ("token-num-uses", "token_num_uses", json!(3), json!(0)),
        ("period", "token_period", json!(660), json!(0)),
        ("bind-secret-id", "bind_secret_id", json!(true), json!(true)),
        ("secret-id-bound-cidrs", "secret_id_bound_cidrs", json!(["10.0.0.0/8"]), Value::Null),
        ("bound-cidr-list", "bound_cidr_list", json!(["10.0.0.0/8"]), Value::Null),
        ("token-bound-cidrs", "token_bound_cidrs", json!(["10.0.0.0/8"]), Value::Null),
    ] {
        let path = format!("role/r/{path}");
        m.write(&path, json!({name: value})).await;
        assert_eq!(m.read(&path).await, json!({name: value}));
        let unnamed = m.ask(Operation::Update, &path, json!({})).await;
        assert_eq!(unnamed.is_ok(), name.contains("cidr"), "{path}");
        m.ask(Operation::Delete, &path, Value::Null).await.unwrap();
        assert_eq!(m.read(&path).await, json!({name: reset}));
        let absent = path.replace("/r/", "/none/");
        assert!(matches!(m.ask(Operation::Read, &absent, Value::Null).await, Err(Error::NotFound)));
        assert!(matches!(m.ask(Operation::Update, &absent, json!({})).await, Err(Error::UnsupportedPath)));
        assert!(m.ask(Operation::Delete, &absent, Value::Null).await.is_ok());
    }
}

#[tokio::test]
async fn wrong_types_are_the_caller_s_mistake() {
    let mut m = Mount::new();
    for wrong in [json!(["a"]), json!({"a": 1}), Value::Null] {
        let answer = m.ask(Operation::Update, "login", json!({"role_id": wrong, "secret_id": "x"})).await;
        assert!(matches!(answer, Err(Error::BadRequest(_))), "{wrong}");
    }
    assert_refused(m.ask(Operation::Update, "login", json!({"role_id": 5})).await.map(|_| Login::default()));
}

#[tokio::test]
async fn only_roles_that_exist_can_be_locked_out() {
    let mut m = Mount::new();
    m.write("role/r", json!({"role_id": "rid"})).await;
    for (body, counted) in [
        (json!({"role_id": " rid "}), Some("rid".to_owned())),
        (json!({"role_id": "ghost"}), None),
        (json!({"role_id": ["x"]}), None),
    ] {
        let named = m.asking.call(&m.engine, Operation::Update, "login", body, None, |e, found, call| {
            e.login_name(found, &mut m.stored, call)
        });
        assert_eq!(named.unwrap(), counted);
    }
}
