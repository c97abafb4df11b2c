//! Showing a request instead of sending it: `-output-curl-string`, `-output-policy`.

use super::{Request, Settings};
use crate::PROGRAM;

/// Paths that need `sudo` besides; `*` at the end matches any rest, `+` one segment.
const ROOT_PROTECTED: [&str; 24] = [
    "auth/token/accessors",
    "pki/root",
    "pki/root/sign-self-issued",
    "sys/audit",
    "sys/audit/+",
    "sys/auth/+",
    "sys/auth/+/tune",
    "sys/config/cors",
    "sys/config/auditing/*",
    "sys/config/ui/headers",
    "sys/config/ui/headers/+",
    "sys/internal/inspect/*",
    "sys/leases",
    "sys/leases/lookup/*",
    "sys/leases/revoke-force/*",
    "sys/leases/revoke-prefix/*",
    "sys/plugins/catalog/*",
    "sys/raw*",
    "sys/remount",
    "sys/rotate",
    "sys/rotate/keyring",
    "sys/rotate/root",
    "sys/seal",
    "sys/step-down",
];
const ROOT_PROTECTED_RAFT: [&str; 4] = [
    "sys/storage/raft/snapshot*",
    "sys/storage/raft/configuration",
    "sys/storage/raft/remove-peer",
    "sys/storage/raft/autopilot/configuration",
];

/// The `curl` line that would send it. The token is named by a command, not shown.
pub fn curl(settings: &Settings, request: &Request) -> String {
    let mut words = vec!["curl".to_string()];
    if settings.tls.skip_verify {
        words.push("--insecure".to_string());
    }
    if request.method != "GET" {
        words.push(format!("-X {}", request.method));
    }
    for (option, value) in &settings.tls.curl_options {
        words.push(format!("{option} {}", single_quoted(value)));
    }
    words.push("-H \"X-Vault-Request: true\"".to_string());
    if settings.token.as_ref().is_some_and(|t| !t.is_empty()) {
        words.push(format!("-H \"X-Vault-Token: $({PROGRAM} print token)\""));
    }
    for (name, value) in settings.headers_but_token(request) {
        words.push(format!("-H {}", double_quoted(&format!("{name}: {value}"))));
    }
    if let Some(body) = &request.body {
        words.push(format!("-d {}", single_quoted(&String::from_utf8_lossy(body))));
    }
    words.push(double_quoted(&settings.address.url(&request.path, &request.query).to_string()));
    words.join(" ")
}

/// The rule that a policy needs for it.
pub fn policy(request: &Request) -> String {
    let asks = |verb: &str| request.query.iter().any(|(k, v)| k == verb && v == "true");
    let mut capabilities = match request.method {
        "GET" if asks("list") => vec!["list"],
        "GET" if asks("scan") => vec!["scan"],
        "LIST" => vec!["list"],
        "SCAN" => vec!["scan"],
        "GET" | "HEAD" => vec!["read"],
        "DELETE" => vec!["delete"],
        "PATCH" => vec!["patch"],
        _ => vec!["create", "update"],
    };
    let path = request.path.trim_matches('/');
    if ROOT_PROTECTED.iter().chain(&ROOT_PROTECTED_RAFT).any(|pattern| matches(pattern, path)) {
        capabilities.push("sudo");
    }
    let capabilities: Vec<String> = capabilities.iter().map(|c| format!("{c:?}")).collect();
    format!("path {path:?} {{\n  capabilities = [{}]\n}}", capabilities.join(", "))
}

fn matches(pattern: &str, path: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix('*') {
        return path.starts_with(prefix);
    }
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(p, s)| *p == "+" || p == s)
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_what_the_request_needs() {
        let read = Request::new("GET", "secret/data/a");
        assert_eq!(policy(&read), "path \"secret/data/a\" {\n  capabilities = [\"read\"]\n}");
        let list = Request::new("GET", "secret/metadata").query("list", "true");
        assert!(policy(&list).contains("[\"list\"]"));
        let rotate = Request::new("POST", "sys/rotate/keyring");
        assert!(policy(&rotate).contains("[\"create\", \"update\", \"sudo\"]"));
        assert!(!policy(&Request::new("POST", "sys/mounts/kv")).contains("sudo"));
    }

    #[test]
    fn a_shell_reads_values_as_they_are() {
        assert_eq!(single_quoted("it's"), "'it'\"'\"'s'");
        assert_eq!(double_quoted("a\"$b"), "\"a\\\"\\$b\"");
    }
}
