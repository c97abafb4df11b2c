//! Entities and groups: what they give their tokens, at once and only as long as they do; and the graph of
//! groups held against a plain model.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_core::EngineTable;
use holdfast_core::clock::SystemClocks;
use holdfast_sdk::Operation;
use holdfast_storage::Store;
use serde_json::{Value, json};
use support::Server;

/// A token for an alias, with its entity's id.
async fn token_of(server: &Server, alias: &str) -> (String, String) {
    let create = json!({"policies": ["default"], "entity_alias": alias});
    let made = server.write("auth/token/create/r", create).await.expect(200);
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    (text(&made["auth"]["client_token"]), text(&made["auth"]["entity_id"]))
}

async fn start() -> Server {
    let server = Server::start().await;
    server.write("sys/mounts/kv", json!({"type": "kv"})).await.expect(204);
    for at in ["own", "grp", "top"] {
        let policy = format!("path \"kv/{at}\" {{ capabilities = [\"create\", \"read\", \"update\"] }}");
        server.write(&format!("sys/policies/acl/{at}"), json!({"policy": policy})).await.expect(204);
    }
    let role = json!({"allowed_entity_aliases": "*", "allowed_policies": "default"});
    server.write("auth/token/roles/r", role).await.expect(204);
    server
}

async fn id(server: &Server, path: &str, data: Value) -> String {
    let made = server.write(path, data).await.expect(200);
    made["data"]["id"].as_str().unwrap().to_owned()
}

async fn may(server: &Server, token: &str, at: &str) -> bool {
    server.ask(token, Operation::Update, &format!("kv/{at}"), json!({"k": "v"})).await.status == 204
}

#[tokio::test]
async fn what_an_entity_and_its_groups_may_counts_at_once() {
    let server = start().await;
    let (token, entity) = token_of(&server, "Ann").await;
    let entity_path = format!("identity/entity/id/{entity}");
    assert!(!may(&server, &token, "own").await);
    server.write(&entity_path, json!({"policies": "own"})).await.expect(204);
    assert!(may(&server, &token, "own").await && !may(&server, &token, "grp").await);
    let group = json!({"name": "ops", "policies": "grp", "member_entity_ids": [entity]});
    let group = id(&server, "identity/group", group).await;
    let above = json!({"name": "all", "policies": "top", "member_group_ids": [group]});
    id(&server, "identity/group", above).await;
    assert!(may(&server, &token, "grp").await && may(&server, &token, "top").await);
    server.write(&format!("identity/group/id/{group}"), json!({"member_entity_ids": []})).await.expect(204);
    assert!(!may(&server, &token, "grp").await && !may(&server, &token, "top").await);
    assert!(may(&server, &token, "own").await);
    // Disabled, its tokens are none, and come back with it; with its end they end.
    server.write(&entity_path, json!({"disabled": true})).await.expect(204);
    assert!(!server.is_good(&token).await);
    let refused = server.write("auth/token/create/r", json!({"entity_alias": "ann"})).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    server.write(&entity_path, json!({"disabled": false})).await.expect(204);
    assert!(may(&server, &token, "own").await);
    server.seal_and_unseal().await;
    assert!(may(&server, &token, "own").await);
    server.delete(&entity_path).await.expect(204);
    assert!(!server.is_good(&token).await);
}

#[tokio::test]
async fn templates_follow_the_entity() {
    let server = start().await;
    let policy = r#"path "kv/{{identity.entity.metadata.team}}/*" { capabilities = ["create", "update"] }
        path "kv/g/{{identity.groups.names.ops.metadata.area}}" { capabilities = ["create", "update"] }
        path "kv/t/{{identity.groups.names.team-name.metadata.team}}/*" { capabilities = ["create", "update"] }
        path "kv/e/{{identity.entity.name}}" { capabilities = ["create", "update"] }"#;
    server.write("sys/policies/acl/default", json!({"policy": policy})).await.expect(204);
    let (ann, entity) = token_of(&server, "ann").await;
    let (bob, _) = token_of(&server, "bob").await;
    let path = format!("identity/entity/id/{entity}");
    server.write(&path, json!({"metadata": {"team": "red"}})).await.expect(204);
    assert!(may(&server, &ann, "red/x").await && !may(&server, &ann, "blue/x").await);
    assert!(!may(&server, &bob, "red/x").await);
    server.write(&path, json!({"metadata": {"team": "blue"}})).await.expect(204);
    assert!(!may(&server, &ann, "red/x").await && may(&server, &ann, "blue/x").await);
    let group = json!({"name": "ops", "metadata": {"area": "north"}, "member_entity_ids": [entity]});
    id(&server, "identity/group", group).await;
    assert!(may(&server, &ann, "g/north").await && !may(&server, &bob, "g/north").await);
    let team = json!({"name": "team-name", "metadata": {"team": "payments"}, "member_entity_ids": [entity]});
    id(&server, "identity/group", team).await;
    assert!(may(&server, &ann, "t/payments/x").await && !may(&server, &bob, "t/payments/x").await);
    server.write(&path, json!({"name": "ann-of-payments"})).await.expect(204);
    assert!(may(&server, &ann, "e/ann-of-payments").await && !may(&server, &bob, "e/ann-of-payments").await);
    // A value that would bring a slash into the path is refused as a whole.
    server.write(&path, json!({"metadata": {"team": "a/b"}})).await.expect(204);
    let refused = server.ask(&ann, Operation::Update, "kv/g/north", json!({"k": "v"})).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
}

/// Writes that stand on a membership fail or come before its end, never after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_on_a_right_that_was_withdrawn() {
    let server = Arc::new(start().await);
    let (token, entity) = token_of(&server, "ann").await;
    let group = json!({"name": "ops", "policies": "grp", "member_entity_ids": [entity]});
    let group = id(&server, "identity/group", group).await;
    let path = format!("identity/group/id/{group}");
    for round in 0..40 {
        server.write(&path, json!({"member_entity_ids": [entity]})).await.expect(204);
        let writer = {
            let (server, token) = (server.clone(), token.clone());
            tokio::spawn(async move {
                for n in 0..20 {
                    server.ask(&token, Operation::Update, "kv/grp", json!({"n": format!("{round}-{n}")})).await;
                }
            })
        };
        tokio::task::yield_now().await;
        server.write(&path, json!({"member_entity_ids": []})).await.expect(204);
        let then = server.read("kv/grp").await.body["data"]["n"].clone();
        writer.await.unwrap();
        assert_eq!(server.read("kv/grp").await.body["data"]["n"], then, "round {round}");
    }
}

/// A small generator: the same steps for the same seed.
struct Steps(u64);

impl Steps {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    fn some<T: Clone + Ord>(&mut self, of: &[T]) -> BTreeSet<T> {
        of.iter().filter(|_| self.below(3) == 0).cloned().collect()
    }
}

#[derive(Default)]
struct Model {
    entities: Vec<String>,
    /// Members of each group, and the groups in it.
    groups: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>,
}

impl Model {
    fn above(&self, group: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut queue = vec![group.to_owned()];
        while let Some(g) = queue.pop() {
            for (parent, (_, inner)) in &self.groups {
                if inner.contains(&g) && found.insert(parent.clone()) {
                    queue.push(parent.clone());
                }
            }
        }
        found
    }

    fn direct(&self, entity: &str) -> BTreeSet<String> {
        self.groups.iter().filter(|(_, (members, _))| members.contains(entity)).map(|(g, _)| g.clone()).collect()
    }
}

fn set(v: &Value) -> BTreeSet<String> {
    v.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_graph_of_groups_agrees_with_a_plain_model() {
    for seed in 0..6 {
        let server = start().await;
        let (mut steps, mut model) = (Steps(seed), Model::default());
        for _ in 0..120 {
            let groups: Vec<String> = model.groups.keys().cloned().collect();
            match steps.below(7) {
                0 => model.entities.push(id(&server, "identity/entity", json!({})).await),
                1 => {
                    let made = id(&server, "identity/group", json!({})).await;
                    model.groups.insert(made, Default::default());
                }
                2 | 3 if !groups.is_empty() => {
                    let group = &groups[steps.below(groups.len())];
                    let members = steps.some(&model.entities);
                    let body = json!({"member_entity_ids": members});
                    server.write(&format!("identity/group/id/{group}"), body).await.expect(204);
                    model.groups.get_mut(group).unwrap().0 = members;
                }
                4 if !groups.is_empty() => {
                    let group = &groups[steps.below(groups.len())];
                    let inner = steps.some(&groups);
                    let cyclic = inner.contains(group) || inner.intersection(&model.above(group)).next().is_some();
                    let body = json!({"member_group_ids": inner});
                    let reply = server.write(&format!("identity/group/id/{group}"), body).await;
                    assert_eq!(reply.status, if cyclic { 400 } else { 204 }, "seed {seed}: {}", reply.body);
                    if !cyclic {
                        model.groups.get_mut(group).unwrap().1 = inner;
                    }
                }
                5 if !groups.is_empty() && steps.below(3) == 0 => {
                    let group = &groups[steps.below(groups.len())];
                    server.delete(&format!("identity/group/id/{group}")).await.expect(204);
                    model.groups.remove(group);
                    model.groups.values_mut().for_each(|(_, inner)| {
                        inner.remove(group);
                    });
                }
                6 if model.entities.len() > 2 => {
                    let from = model.entities.remove(steps.below(model.entities.len()));
                    if steps.below(2) == 0 {
                        server.delete(&format!("identity/entity/id/{from}")).await.expect(204);
                    } else {
                        let to = model.entities[steps.below(model.entities.len())].clone();
                        // Named twice, it is merged once.
                        let body = json!({"from_entity_ids": [from, from], "to_entity_id": to});
                        server.write("identity/entity/merge", body).await.expect(204);
                        for (members, _) in model.groups.values_mut().filter(|(m, _)| m.contains(&from)) {
                            members.insert(to.clone());
                        }
                    }
                    model.groups.values_mut().for_each(|(members, _)| {
                        members.remove(&from);
                    });
                }
                _ => {}
            }
        }
        for entity in &model.entities {
            let shown = server.read(&format!("identity/entity/id/{entity}")).await.expect(200);
            let direct = model.direct(entity);
            assert_eq!(set(&shown["data"]["direct_group_ids"]), direct, "seed {seed}");
            let all: BTreeSet<String> =
                direct.iter().cloned().chain(direct.iter().flat_map(|g| model.above(g))).collect();
            assert_eq!(set(&shown["data"]["group_ids"]), all, "seed {seed}");
        }
        for (group, (members, inner)) in &model.groups {
            let shown = server.read(&format!("identity/group/id/{group}")).await.expect(200);
            let of = |v: &Value| if v.is_null() { BTreeSet::new() } else { set(v) };
            assert_eq!(&of(&shown["data"]["member_entity_ids"]), members, "seed {seed}");
            assert_eq!(&of(&shown["data"]["member_group_ids"]), inner, "seed {seed}");
        }
    }
}

async fn with_two_methods() -> (Server, [String; 2]) {
    let auth = &[("told-groups", support::told_groups::told_groups as holdfast_core::Factory)];
    let engines = EngineTable { secrets: &[("kv", support::kv)], auth, databases: &[] };
    let store = Store::open_on(None, 1 << 20).unwrap();
    let server = Server::initialise(support::core(store, engines, Arc::new(SystemClocks), Vec::new())).await;
    for name in ["a", "b"] {
        server.write(&format!("sys/auth/{name}"), json!({"type": "told-groups"})).await.expect(204);
    }
    let mounts = server.read("sys/auth").await.expect(200);
    let accessor = |name: &str| mounts["data"][name]["accessor"].as_str().unwrap().to_owned();
    let accessors = [accessor("a/"), accessor("b/")];
    (server, accessors)
}

/// F034. What one method says of groups changes nothing of what another has said, or an operator.
#[tokio::test]
async fn a_login_changes_the_groups_of_its_own_method_alone() {
    let (server, accessors) = with_two_methods().await;
    let log_in = |path: &'static str, groups: Value| {
        let server = &server;
        async move {
            let made = server.ask("", Operation::Update, path, json!({ "groups": groups })).await.expect(200);
            made["auth"]["entity_id"].as_str().unwrap().to_owned()
        }
    };
    let entity = log_in("auth/a/login/ann", json!([])).await;
    let alias = json!({"name": "ann", "canonical_id": entity, "mount_accessor": accessors[1]});
    server.write("identity/entity-alias", alias).await.expect(200);
    let mut groups = BTreeMap::new();
    for (name, accessor) in [("of-a", &accessors[0]), ("also-of-a", &accessors[0]), ("of-b", &accessors[1])] {
        let group = id(&server, "identity/group", json!({"name": name, "type": "external"})).await;
        // Both methods call a group of theirs so.
        let called = if name == "also-of-a" { "other" } else { "staff" };
        let alias = json!({"name": called, "canonical_id": group, "mount_accessor": accessor});
        server.write("identity/group-alias", alias).await.expect(200);
        groups.insert(group, name);
    }
    let by_hand = json!({"name": "by-hand", "member_entity_ids": [entity]});
    groups.insert(id(&server, "identity/group", by_hand).await, "by-hand");
    let member_of = || async {
        let shown = server.read(&format!("identity/entity/id/{entity}")).await.expect(200);
        set(&shown["data"]["direct_group_ids"]).iter().map(|id| groups[id]).collect::<BTreeSet<_>>()
    };
    for (path, told, then) in [
        ("auth/a/login/ann", json!(["staff", "other"]), vec!["of-a", "also-of-a", "by-hand"]),
        ("auth/b/login/ann", json!([]), vec!["of-a", "also-of-a", "by-hand"]),
        ("auth/b/login/ann", json!(["staff"]), vec!["of-a", "also-of-a", "of-b", "by-hand"]),
        ("auth/a/login/ann", json!(["other", "unknown"]), vec!["also-of-a", "of-b", "by-hand"]),
        ("auth/a/login/ann", json!([]), vec!["of-b", "by-hand"]),
    ] {
        assert_eq!(log_in(path, told).await, entity);
        assert_eq!(member_of().await, then.into_iter().collect(), "{path}");
    }
}

/// Merges held against a model: each alias is of one entity, none is lost but the one that was given up, and whoever is
/// merged away is gone.
#[tokio::test]
async fn merges_agree_with_a_plain_model() {
    for seed in 0..8 {
        let (server, accessors) = with_two_methods().await;
        let mut steps = Steps(seed * 7 + 1);
        // By entity: the aliases that it has, by method.
        let mut entities: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
        let mut names = 0;
        for _ in 0..150 {
            let all: Vec<String> = entities.keys().cloned().collect();
            match steps.below(5) {
                0 | 1 => {
                    entities.insert(id(&server, "identity/entity", json!({})).await, BTreeMap::new());
                }
                2 if !all.is_empty() => {
                    let (entity, method) = (&all[steps.below(all.len())], steps.below(2));
                    names += 1;
                    let name = format!("n{names}");
                    let body = json!({"name": name, "canonical_id": entity, "mount_accessor": accessors[method]});
                    let made = server.write("identity/entity-alias", body).await;
                    let has = &entities[entity];
                    assert_eq!(made.status, if has.contains_key(&method) { 400 } else { 200 }, "{}", made.body);
                    if made.status == 200 {
                        let alias = made.body["data"]["id"].as_str().unwrap().to_owned();
                        entities.get_mut(entity).unwrap().insert(method, alias);
                    }
                }
                _ if all.len() > 1 => {
                    let to = all[steps.below(all.len())].clone();
                    let from: Vec<String> = steps.some(&all).into_iter().filter(|f| *f != to).take(3).collect();
                    merge(&server, &mut steps, &mut entities, &to, &from).await;
                }
                _ => {}
            }
        }
        let shown = server.list("identity/entity/id").await;
        let there = if shown.status == 404 { BTreeSet::new() } else { set(&shown.expect(200)["data"]["keys"]) };
        assert_eq!(there, entities.keys().cloned().collect(), "seed {seed}");
        let aliases = server.list("identity/entity-alias/id").await;
        let aliases = if aliases.status == 404 { BTreeSet::new() } else { set(&aliases.expect(200)["data"]["keys"]) };
        assert_eq!(aliases, entities.values().flat_map(|of| of.values().cloned()).collect(), "seed {seed}");
        for (entity, of) in &entities {
            let shown = server.read(&format!("identity/entity/id/{entity}")).await.expect(200);
            let has: BTreeMap<usize, String> = shown["data"]["aliases"]
                .as_array()
                .unwrap()
                .iter()
                .map(|a| {
                    let method = accessors.iter().position(|m| a["mount_accessor"] == **m).unwrap();
                    (method, a["id"].as_str().unwrap().to_owned())
                })
                .collect();
            assert_eq!(&has, of, "seed {seed}");
        }
    }
}

/// Merge, here and in the model: a clash is refused until one entity is named, and which alias stays.
async fn merge(
    server: &Server,
    steps: &mut Steps,
    entities: &mut BTreeMap<String, BTreeMap<usize, String>>,
    to: &str,
    from: &[String],
) {
    if from.is_empty() {
        return;
    }
    let mut body = json!({"to_entity_id": to, "from_entity_ids": from});
    let clashes = |method: usize| {
        std::iter::once(to)
            .chain(from.iter().map(String::as_str))
            .filter(|e| entities[*e].contains_key(&method))
            .count()
            > 1
    };
    let clashing: Vec<usize> = (0..2).filter(|m| clashes(*m)).collect();
    let mut kept: BTreeMap<usize, String> = BTreeMap::new();
    if !clashing.is_empty() {
        server.write("identity/entity/merge", body.clone()).await.expect(400);
        if from.len() > 1 {
            return;
        }
        for method in &clashing {
            let keeper = if steps.below(2) == 0 { to } else { &from[0] };
            kept.insert(*method, entities[keeper][method].clone());
        }
        body["conflicting_alias_ids_to_keep"] = json!(kept.values().collect::<Vec<_>>());
    }
    server.write("identity/entity/merge", body).await.expect(204);
    for entity in from {
        let of = entities.remove(entity).unwrap();
        entities.get_mut(to).unwrap().extend(of);
    }
    entities.get_mut(to).unwrap().extend(kept);
}
