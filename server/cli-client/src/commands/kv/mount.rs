//! Which mount a key belongs to, and its version: asked of the server before anything else.

use serde_json::Value;

use crate::call::{Call, sanitized};
use crate::client::{Client, Request};
use crate::failure::{Explain, Failure};
use crate::output::plain;

/// A key, resolved.
pub struct Key {
    /// Mount and key, as they were named.
    path: String,
    mount: String,
    pub is_v2: bool,
}

impl Key {
    /// Resolves a key, or the mount itself where the key is empty and `-mount` is given.
    pub fn resolve(call: &Call, client: &Client, key: &str) -> Result<Key, Failure> {
        let key = sanitized(key);
        let (asked, path) = match call.flags.text("mount").map(sanitized).filter(|m| !m.is_empty()) {
            Some(mount) => (mount.clone(), format!("{mount}/{key}").trim_end_matches('/').to_string()),
            None => (key.clone(), key),
        };
        let mut request = Request::new("GET", format!("sys/internal/ui/mounts/{asked}"));
        request.content_type = None;
        let answer = match client.preflight(&request) {
            // A server older than the route has version 1 only.
            Err(e) if e.status() == Some(404) => {
                return Ok(Key { path, mount: String::new(), is_v2: false });
            }
            other => other.bare()?,
        };
        let body = answer.object().bare()?;
        let data = body.get("data").unwrap_or(&Value::Null);
        let mount = data.get("path").map(plain).unwrap_or_default();
        let version = data.get("options").and_then(|o| o.get("version")).map(plain);
        Ok(Key { path, mount, is_v2: version.as_deref() == Some("2") })
    }

    /// The API's path for one of version 2's routes (`data`, `metadata`, …); in version 1 the key itself.
    pub fn route(&self, route: &str) -> String {
        if !self.is_v2 {
            return self.path.clone();
        }
        let mount = self.mount.trim_end_matches('/');
        let key = self.path.strip_prefix(mount).unwrap_or(&self.path).trim_start_matches('/');
        format!("{mount}/{route}/{key}").trim_end_matches('/').to_string()
    }

    /// Refuses version 1 for a command that it does not have.
    pub fn needs_v2(&self, what: &str) -> Result<(), Failure> {
        match self.is_v2 {
            true => Ok(()),
            false => Err(Failure::usage(format!("{what} not supported on KV Version 1"))),
        }
    }
}

/// Version numbers from `-versions=1,2 -versions=3`.
pub fn versions(call: &Call) -> Vec<String> {
    let given = call.flags.list("versions");
    given.iter().flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, mount: &str, is_v2: bool) -> Key {
        Key { path: path.into(), mount: mount.into(), is_v2 }
    }

    #[test]
    fn version_2_has_the_route_behind_the_mount() {
        assert_eq!(key("secret/a/b", "secret/", true).route("data"), "secret/data/a/b");
        assert_eq!(key("secret/data/a", "secret/", true).route("data"), "secret/data/data/a");
        assert_eq!(key("secret", "secret/", true).route("metadata"), "secret/metadata");
        assert_eq!(key("deep/two/k", "deep/two/", true).route("data"), "deep/two/data/k");
        assert_eq!(key("one/a", "one/", false).route("data"), "one/a");
    }
}
