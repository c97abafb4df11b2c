//! The checks of one rule.

use std::time::SystemTime;

use super::cover::covers;
use super::{About, LintCheck, Written};
use crate::Capability;

/// The folders of kv version 2.
const KV2_FOLDERS: &[&str] =
    &["data/", "metadata/", "delete/", "undelete/", "destroy/", "subkeys/", "detailed-metadata/", "config"];
/// Who may do everything there owns the server: more than a rule should give in one stroke.
const WHOLE: &[(&str, &str)] = &[
    ("sys/*", "all of sys/: seals, policies, mounts, audit devices"),
    ("auth/*", "all of auth/: every login's configuration and every token"),
    ("identity/*", "all of identity/: who is whom, and with it every policy"),
];

/// Whether the path can match what it seems to be meant for.
pub(super) fn of_path(about: &mut About<'_, '_>) {
    let (label, path) = (about.one.label, about.rule().path.as_str());
    let bare = label.trim_start_matches('/');
    if path.starts_with('/') {
        about.found_with(LintCheck::LeadingSlash, "paths have no slash before them: it never matches", bare);
    } else if label.starts_with('/') {
        about.found_with(LintCheck::LeadingSlash, "the slash before the path has no effect", bare);
    }
    if bare.is_empty() {
        about.found(LintCheck::LeadingSlash, "an empty path never matches");
    }
    if let Some(behind) = bare.strip_prefix("v1/") {
        let message = "`v1/` belongs to the address, not to the path: it never matches";
        about.found_with(LintCheck::V1Prefix, message, behind);
    }
    let body = path.strip_suffix('*').unwrap_or(path);
    if body.contains('*') {
        let message = "`*` is a wildcard at the end only: here it is a plain character";
        match with_plus(path) {
            Some(instead) => about.found_with(LintCheck::StarWithin, message, instead),
            None => about.found(LintCheck::StarWithin, message),
        }
    }
    if body.split('/').any(|segment| segment != "+" && segment.contains('+')) {
        about.found(LintCheck::PlusWithin, "`+` is a wildcard for a whole segment only: here it is a plain character");
    }
    let grants_more = about.rule().capabilities.iter().any(|c| !matches!(c, Capability::List | Capability::Scan));
    if path.len() > 1 && path.ends_with('/') && grants_more {
        let message = "it matches the folder itself and nothing in it";
        about.found_with(LintCheck::TrailingSlash, message, format!("{path}*"));
    }
    if let Some(unknown) = about.rule().template.as_ref().and_then(|template| template.unknown()) {
        about.found(
            LintCheck::UnknownTemplate,
            format!("`{{{{{unknown}}}}}` has no value for anyone: the rule never applies"),
        );
    }
}

/// With `+` for each segment that is `*`, where no other has a `*` in it.
fn with_plus(path: &str) -> Option<String> {
    let (folders, last) = path.rsplit_once('/')?;
    let folders: Vec<&str> = folders.split('/').map(|segment| if segment == "*" { "+" } else { segment }).collect();
    let is_plain = folders.iter().chain([&last.trim_end_matches('*')]).all(|segment| !segment.contains('*'));
    is_plain.then(|| format!("{}/{last}", folders.join("/")))
}

/// Whether a path of kv version 2 names one of its folders.
pub(super) fn of_kv2(about: &mut About<'_, '_>, all: &[Written<'_>], mounts: &[String]) {
    let rule = about.rule();
    for mount in mounts {
        let Some(below) = rule.path.strip_prefix(mount.as_str()).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        let (body, glob) = match below.strip_suffix('*') {
            Some(body) => (body, true),
            None => (below, false),
        };
        let names_one = KV2_FOLDERS.iter().any(|folder| {
            body.starts_with(folder) || body == folder.trim_end_matches('/') || (glob && folder.starts_with(body))
        });
        if names_one || below.starts_with("+/") || below == "+" {
            let grants_list = |folder: &str, of: &Written<'_>| {
                let lists = of.rule.capabilities.contains(Capability::List);
                lists && (covers(&of.rule.path, &format!("{mount}/{folder}*")) || of.rule.path.contains(folder))
            };
            let lists_data = body.starts_with("data/") && rule.capabilities.contains(Capability::List);
            if lists_data && !all.iter().any(|other| grants_list("metadata/", other)) {
                let message = "nothing can be listed at `data/`: names are listed at `metadata/`";
                about.found_with(LintCheck::Kv2List, message, format!("{mount}/metadata/{}", &below["data/".len()..]));
            }
            continue;
        }
        let only_lists = rule.capabilities.iter().all(|c| matches!(c, Capability::List | Capability::Scan));
        let folder = if only_lists && !rule.capabilities.is_empty() { "metadata" } else { "data" };
        let message = format!(
            "secrets of kv version 2 are at `{mount}/data/…`, their names at `{mount}/metadata/…`: this matches neither \
             (if `{mount}/` is version 1, say -kv2= )"
        );
        about.found_with(LintCheck::Kv2Path, message, format!("{mount}/{folder}/{below}"));
    }
}

/// What it grants, refuses and asks for.
pub(super) fn of_grants(about: &mut About<'_, '_>, now: SystemTime) {
    let rule = about.rule();
    let capabilities = rule.capabilities;
    if rule.needs_approval() {
        let message = "it asks for an approval (control_group or mfa_methods): every request is refused";
        about.found(LintCheck::Approval, message);
    } else if capabilities.is_empty() {
        let message = "no capabilities: it grants nothing, and takes away what a wider rule grants here";
        about.found_in("capabilities", LintCheck::NoCapabilities, message);
    }
    if denies_beside_others(about.one) {
        let message = "`deny` beats the other capabilities of the rule: they have no effect";
        about.found_in("capabilities", LintCheck::DenyWithOthers, message);
    }
    if capabilities.contains(Capability::Sudo) {
        let message = "it grants `sudo`, which opens the protected paths that it matches";
        about.found_in("capabilities", LintCheck::Sudo, message);
    }
    if !capabilities.is_empty() && !capabilities.contains(Capability::Deny) {
        let wide: Vec<&str> =
            WHOLE.iter().filter(|(whole, _)| covers(&rule.path, whole)).map(|(_, meaning)| *meaning).collect();
        if !wide.is_empty() {
            about.found(LintCheck::TooWide, format!("it reaches {}", wide.join("; ")));
        }
    }
    if rule.expiration.is_some_and(|end| end <= now) {
        about.found_in("expiration", LintCheck::Expired, "the rule has ended: it does not exist any more");
    }
    let (required, allowed, denied) = (&rule.required_parameters, &rule.allowed_parameters, &rule.denied_parameters);
    let is_allowed = |name: &String| allowed.is_empty() || allowed.contains_key(name) || allowed.contains_key("*");
    let is_denied = |name: &String| denied.contains_key("*") || denied.get(name).is_some_and(Vec::is_empty);
    if let Some(name) = required.iter().find(|name| !is_allowed(name) || is_denied(name)) {
        let message = format!("{name:?} is required and not allowed: no request can satisfy that");
        about.found_in("required_parameters", LintCheck::Parameters, message);
    }
}

/// What other rules of the policy make of it.
pub(super) fn beside_others(about: &mut About<'_, '_>, all: &[Written<'_>], index: usize) {
    let rule = about.rule();
    if let Some(first) = all[..index].iter().find(|other| other.rule.path == rule.path) {
        about.found(
            LintCheck::Duplicate,
            format!("line {} has the same path: both rules unite, and a deny in one wins", first.position.line),
        );
    }
    if rule.template.is_some() {
        return;
    }
    let others = || all.iter().filter(|other| other.rule.template.is_none() && other.rule.path != rule.path);
    // Only an expression with `+` and `*` at its end can lose to one that matches all that it does.
    if rule.path.contains('+') && rule.path.ends_with('*') {
        let winner =
            others().find(|other| other.specificity > about.one.specificity && covers(&other.rule.path, &rule.path));
        if let Some(winner) = winner {
            about.found(
                LintCheck::Shadowed,
                format!(
                    "it never counts: `{}` (line {}) does wherever it matches",
                    winner.rule.path, winner.position.line
                ),
            );
        }
    }
    if rule.capabilities.contains(Capability::Deny) {
        let around = others().find(|other| {
            let grants = !other.rule.capabilities.is_empty() && !other.rule.capabilities.contains(Capability::Deny);
            grants && other.specificity > about.one.specificity && covers(&rule.path, &other.rule.path)
        });
        if let Some(around) = around {
            about.found(
                LintCheck::DenyGrantedAround,
                format!("`{}` (line {}) grants within what this denies", around.rule.path, around.position.line),
            );
        }
    }
}

fn denies_beside_others(one: &Written<'_>) -> bool {
    let mut names: Vec<&str> = Vec::new();
    for item in one.body.items.iter().filter(|item| matches!(item.name(), "capabilities" | "policy")) {
        match item.node.as_list() {
            Some(nodes) => names.extend(nodes.iter().filter_map(|node| node.as_str())),
            None => names.extend(item.node.as_str()),
        }
    }
    names.contains(&"deny") && names.iter().any(|name| *name != "deny" && !name.is_empty())
}
