//! The OpenAPI document and `path-help`, from the route declarations.

use std::collections::BTreeMap;
use std::fmt::Write;

use holdfast_sdk::{Map, Operation, Route, Value};
use serde_json::json;

use crate::router::{Handler, Mount, Router};

impl Handler {
    /// The declared routes.
    pub(crate) fn describe(&self) -> Vec<Route<'_>> {
        match self {
            Handler::Engine(b) => b.routes(),
            Handler::System(_, routes) => routes.describe(),
            Handler::Token(_, routes) => routes.describe(),
            Handler::Identity(_, routes) => routes.describe(),
        }
    }
}

fn schema(kind: holdfast_sdk::Kind, description: &str) -> Value {
    let mut s = json!({"type": kind.open_api(), "description": description});
    if kind.open_api() == "array" {
        s["items"] = json!({"type": if kind == holdfast_sdk::Kind::IntegerList { "integer" } else { "string" }});
    }
    s
}

/// Which routes a document shows, and how.
pub struct View<'a> {
    /// Whether the caller may do anything in a mount; without a good token, only routes that need none are shown.
    pub reaches: Option<&'a dyn Fn(&str) -> bool>,
    /// Mounts that people made have a parameter for their path.
    pub generic_mount_paths: bool,
}

/// OpenAPI 3.0.2, as the reference answers it.
pub fn document(router: &Router, view: &View<'_>) -> Map<String, Value> {
    let mut paths = BTreeMap::new();
    for mount in router.mounts() {
        for route in mount.handler.describe() {
            if route.unauthenticated || view.reaches.is_some_and(|reaches| reaches(&mount.full_path)) {
                let (path, item) = path_item(mount, &route, view.generic_mount_paths);
                paths.insert(path, item);
            }
        }
    }
    for (path, synopsis, operations) in crate::bare::ROUTES {
        paths.insert(format!("/{path}"), bare_item(path, synopsis, operations));
    }
    let mut m = Map::new();
    m.insert("openapi".into(), "3.0.2".into());
    m.insert(
        "info".into(),
        json!({
            "title": "Holdfast",
            "description": "HTTP API of the Holdfast secrets appliance. Every path stands under /v1.",
            "version": crate::bare::VERSION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        }),
    );
    m.insert("paths".into(), Value::Object(paths.into_iter().collect()));
    m.insert("components".into(), json!({"schemas": {}}));
    m
}

/// A route that answers in every state, without a token.
fn bare_item(path: &str, synopsis: &str, operations: &[Operation]) -> Value {
    let mut item = json!({"description": synopsis, "x-vault-unauthenticated": true});
    for operation in operations {
        let verb = if operation.writes() { "post" } else { "get" };
        item[verb] = json!({
            "summary": synopsis,
            "operationId": format!("{}-{}", operation.word(), path.replace('/', "-")),
            "tags": ["system"],
            "responses": {"200": {"description": "OK"}},
        });
    }
    item
}

/// The answer of `path-help` for a route that answers in every state.
pub fn bare_help(path: &str) -> Option<Map<String, Value>> {
    let (route, synopsis, operations) = crate::bare::ROUTES.iter().find(|(p, ..)| *p == path)?;
    let below = path.trim_start_matches("sys/");
    let mut answer = Map::new();
    answer.insert("help".into(), format!("Request:        {below}\nMatching Route: {below}\n\n{synopsis}\n\n").into());
    answer.insert("see_also".into(), Value::Null);
    let item = bare_item(route, synopsis, operations);
    answer.insert("openapi".into(), json!({"openapi": "3.0.2", "paths": {format!("/{path}"): item}}));
    Some(answer)
}

/// The path of a mount in the document, and its parameter where it has one.
fn base(mount: &Mount, generic: bool) -> (String, Option<String>) {
    if !generic || mount.entry.is_built_in() {
        return (format!("/{}", mount.full_path), None);
    }
    let name = format!("{}_mount_path", mount.entry.path.trim_end_matches('/').replace('/', "_"));
    let prefix = if mount.entry.auth { "/auth" } else { "" };
    (format!("{prefix}/{{{name}}}/"), Some(name))
}

fn path_item(mount: &Mount, route: &Route<'_>, generic: bool) -> (String, Value) {
    let pattern = route.pattern.replace("...}", "}").replace("+}", "}");
    let (base, mount_parameter) = base(mount, generic);
    let path = format!("{base}{pattern}");
    let captures: Vec<String> = mount_parameter.into_iter().chain(route.captures()).collect();
    let parameters: Vec<Value> = captures
        .iter()
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let mut item = json!({"description": route.synopsis});
    if route.unauthenticated {
        item["x-vault-unauthenticated"] = true.into();
    }
    if route.reads_anywhere {
        item["x-holdfast-reads-anywhere"] = true.into();
    }
    if route.root_protected {
        item["x-vault-sudo"] = true.into();
    }
    if !parameters.is_empty() {
        item["parameters"] = parameters.into();
    }
    let id =
        |verb: &str| format!("{verb}-{}", path.trim_matches('/').replace(['/', '{', '}', '.'], "-").replace("--", "-"));
    for (operation, fields) in &route.operations {
        let verb = match operation {
            Operation::Read | Operation::List | Operation::Scan => "get",
            Operation::Create | Operation::Update => "post",
            Operation::Patch => "patch",
            Operation::Delete => "delete",
        };
        if item.get(verb).is_some() {
            continue;
        }
        let mut o = json!({
            "summary": route.synopsis,
            "operationId": id(operation.word()),
            "tags": [if mount.entry.auth { "auth" } else if mount.full_path == "sys/" { "system" } else { "secrets" }],
            "responses": {if verb == "delete" { "204" } else { "200" }: {"description": "OK"}},
        });
        let shown = fields.iter().filter(|f| f.name != "*" && !captures.iter().any(|c| c == f.name));
        if matches!(verb, "post" | "patch") {
            let properties: Map<String, Value> =
                shown.map(|f| (f.name.to_owned(), schema(f.kind, f.description))).collect();
            if !properties.is_empty() {
                o["requestBody"] =
                    json!({"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}});
            }
        } else {
            let mut query: Vec<Value> = shown
                .map(|f| json!({"name": f.name, "in": "query", "description": f.description, "schema": schema(f.kind, f.description)}))
                .collect();
            if matches!(operation, Operation::List | Operation::Scan) {
                query.push(json!({"name": operation.word(), "in": "query", "required": true, "schema": {"type": "string", "enum": ["true"]}}));
            }
            if !query.is_empty() {
                o["parameters"] = query.into();
            }
        }
        item[verb] = o;
    }
    (path, item)
}

/// The answer of `path-help` for a path of a mount; without a path, the mount's table of paths.
pub fn help(mount: &Mount, path: &str, pattern: Option<&str>) -> Option<Map<String, Value>> {
    let routes = mount.handler.describe();
    let mut text = String::new();
    if path.is_empty() {
        let _cannot_fail = writeln!(text, "## PATHS\n\nThe paths of this mount (type {}):", mount.entry.kind);
        for r in &routes {
            let _cannot_fail = writeln!(text, "\n    {}\n        {}", r.pattern, r.synopsis);
        }
    } else {
        let route = routes.iter().find(|r| Some(r.pattern) == pattern)?;
        let _cannot_fail =
            writeln!(text, "Request:        {path}\nMatching Route: {}\n\n{}\n", route.pattern, route.synopsis);
        let fields = route.fields();
        if !fields.is_empty() {
            text.push_str("## PARAMETERS\n");
            for (name, (kind, description)) in fields {
                let _cannot_fail = writeln!(text, "\n    {name} ({})\n\n        {description}", kind.help());
            }
        }
        if !route.description.is_empty() {
            let _cannot_fail = writeln!(text, "\n## DESCRIPTION\n\n{}", route.description);
        }
    }
    let paths: Map<String, Value> = routes
        .iter()
        .filter(|r| path.is_empty() || Some(r.pattern) == pattern)
        .map(|r| path_item(mount, r, false))
        .collect();
    let mut answer = Map::new();
    answer.insert("help".into(), text.into());
    answer.insert("see_also".into(), Value::Null);
    answer.insert("openapi".into(), json!({"openapi": "3.0.2", "paths": paths}));
    Some(answer)
}
