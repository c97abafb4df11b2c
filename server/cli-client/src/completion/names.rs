//! Names that the server knows: mounts, paths, keys, policies.

use std::time::Duration;

use serde_json::Value;

use super::Values;
use crate::client::{Client, Request, Settings};
use crate::environment::Environment;
use crate::flags::Flags;

/// A person waits at the keyboard.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The flags so far and the environment, which say where the server is.
pub struct Place<'a> {
    pub flags: &'a Flags,
    pub environment: &'a Environment,
}

impl Place<'_> {
    /// Names of a kind that could continue `word`; those with a slash at their end have more below.
    pub fn names(&self, kind: Values, word: &str) -> Vec<String> {
        let Some(client) = self.client() else {
            return Vec::new();
        };
        let names = match kind {
            Values::Mount => mounts(&client, "secret", ""),
            Values::AuthMount => mounts(&client, "auth", ""),
            Values::Policy => listed(&client, "sys/policies/acl"),
            Values::AuditDevice => keys_of(&client, "sys/audit"),
            Values::Path => self.paths(&client, word),
            Values::Key => self.kv_keys(&client, word),
            Values::Any | Values::Words(_) | Values::File => None,
        };
        names.unwrap_or_default()
    }

    fn client(&self) -> Option<Client> {
        let mut settings = Settings::of(self.flags, &[], self.environment).ok()?;
        settings.timeout = TIMEOUT;
        settings.max_retries = 0;
        Client::new(settings).ok()
    }

    fn paths(&self, client: &Client, word: &str) -> Option<Vec<String>> {
        let Some((folder, _)) = word.rsplit_once('/') else {
            let mut names = mounts(client, "secret", "")?;
            names.extend(mounts(client, "auth", "auth/").unwrap_or_default());
            return Some(names);
        };
        below(folder, listed(client, folder)?)
    }

    /// Keys of a kv mount; version 2 has its lists elsewhere than the keys' own paths.
    fn kv_keys(&self, client: &Client, word: &str) -> Option<Vec<String>> {
        let folder = word.rsplit_once('/').map(|(folder, _)| folder);
        let mount = self.flags.text("mount").map(|m| m.trim_matches('/')).filter(|m| !m.is_empty());
        let asked = match (mount, folder) {
            (Some(mount), folder) => format!("{mount}/{}", folder.unwrap_or_default()),
            (None, Some(folder)) => folder.to_string(),
            (None, None) => return kv_mounts(client),
        };
        let asked = asked.trim_matches('/');
        let about = data(client, &format!("sys/internal/ui/mounts/{asked}"))?;
        let mount = about.get("path")?.as_str()?.trim_end_matches('/');
        let rest = asked.strip_prefix(mount)?.trim_matches('/');
        let is_v2 = about.pointer("/options/version").and_then(Value::as_str) == Some("2");
        let list = format!("{mount}/{}{rest}", if is_v2 { "metadata/" } else { "" });
        let names = listed(client, list.trim_end_matches('/'))?;
        match folder {
            Some(folder) => below(folder, names),
            None => Some(names),
        }
    }
}

fn below(folder: &str, names: Vec<String>) -> Option<Vec<String>> {
    Some(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

/// What the token may see of the mounts of a kind (`secret`, `auth`).
fn mounts(client: &Client, kind: &str, before: &str) -> Option<Vec<String>> {
    let mounts = data(client, "sys/internal/ui/mounts")?;
    Some(mounts.get(kind)?.as_object()?.keys().map(|name| format!("{before}{name}")).collect())
}

fn kv_mounts(client: &Client) -> Option<Vec<String>> {
    let mounts = data(client, "sys/internal/ui/mounts")?;
    let is_kv = |mount: &Value| mount.get("type").is_some_and(|t| t == "kv" || t == "generic");
    let mounts = mounts.get("secret")?.as_object()?;
    Some(mounts.iter().filter(|(_, mount)| is_kv(mount)).map(|(name, _)| name.clone()).collect())
}

fn keys_of(client: &Client, path: &str) -> Option<Vec<String>> {
    Some(data(client, path)?.as_object()?.keys().cloned().collect())
}

fn listed(client: &Client, path: &str) -> Option<Vec<String>> {
    let secret = client.list(path, &[]).ok()??;
    let names = secret.keys()?.iter().filter_map(Value::as_str);
    Some(names.map(str::to_string).collect())
}

fn data(client: &Client, path: &str) -> Option<Value> {
    let mut answer = client.preflight(&Request::new("GET", path)).ok()?.object().ok()?;
    answer.remove("data")
}
