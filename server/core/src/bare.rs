//! Routes that answer in every state, as bare objects without a token:
//! `sys/init`, `sys/seal-status`, `sys/unseal`, `sys/health`, `sys/leader`, and `sys/seal` while sealed.
//!
//! Their bodies are strict JSON: a string is no number.

use std::sync::Arc;

use base64::Engine;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Map, Operation, Value};
use holdfast_seal::RecoveryForm;

use crate::{Answer, Core, InitRequest, OldRoutes, Refusal, Standing, ceremony};

/// The version that clients are told.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const BUILD_DATE: &str = "2026-11-29T00:00:00Z";

/// The routes, for OpenAPI: path, synopsis, operations.
pub const ROUTES: &[(&str, &str, &[Operation])] = &[
    ("sys/health", "Whether the server is unsealed and active, as the answer's status.", &[Operation::Read]),
    ("sys/init", "Whether the store is initialised; initialise it.", &[Operation::Read, Operation::Update]),
    ("sys/leader", "Which node is active.", &[Operation::Read]),
    ("sys/seal-status", "Whether the server is sealed, and how far an unseal is.", &[Operation::Read]),
    ("sys/unseal", "Give a share of the key.", &[Operation::Update]),
    (
        "sys/unseal/custodians",
        "What custodians have to sign, where a seal asks them; begin to ask them.",
        &[Operation::Read, Operation::Update],
    ),
    ("sys/unseal/custodians/sign", "Give a custodian's signature.", &[Operation::Update]),
];

/// What a node that stands by answers itself.
const LOCAL: &[&str] = &[
    "sys/health",
    "sys/init",
    "sys/leader",
    "sys/seal",
    "sys/seal-status",
    "sys/storage/raft/join",
    "sys/unseal",
    "sys/unseal/custodians",
    "sys/unseal/custodians/sign",
];

/// A request to a bare route.
pub struct BareRequest<'a> {
    pub method: &'a str,
    /// Below `/v1/`.
    pub path: &'a str,
    pub query: &'a [(String, String)],
    pub body: &'a [u8],
    /// What the listener allows without a token.
    pub old_routes: OldRoutes,
}

impl Core {
    /// The answer of a bare route; `None` if the path is not one.
    pub async fn bare(self: &Arc<Self>, r: &BareRequest<'_>) -> Option<Answer> {
        let writes = matches!(r.method, "POST" | "PUT");
        let reads = r.method == "GET" && !r.query.iter().any(|(k, v)| k == "list" && v == "true");
        if reads && r.query.iter().any(|(k, _)| k == "help") {
            // What is no bare route has its help from its declaration.
            return crate::open_api::bare_help(r.path).map(|help| Answer::bare(200, &help));
        }
        let clustered = self.options.cluster.is_some();
        if clustered && !LOCAL.contains(&r.path) && matches!(self.standing(), Standing::Standby(_)) {
            // The active node answers.
            return None;
        }
        let answer = match r.path {
            "sys/storage/raft/join" if writes && clustered => self.join_route(r.body).await,
            "sys/storage/raft/bootstrap/challenge" if writes && clustered => self.challenge_route(r.body).await,
            "sys/storage/raft/bootstrap/root" if writes && clustered => self.root_route(r.body).await,
            "sys/storage/raft/bootstrap/answer" if writes && clustered => self.answer_route(r.body).await,
            "sys/seal" if writes && clustered && matches!(self.standing(), Standing::Standby(_)) => {
                Answer::error(400, "vault cannot seal when in standby mode; please restart instead")
            }
            "sys/seal-status" if reads => self.seal_status(),
            "sys/leader" if reads => self.leader(),
            "sys/health" if reads || r.method == "HEAD" => self.health(r.query),
            "sys/init" if reads => self.init_status(),
            "sys/init" if writes => self.init(r.body).await,
            "sys/unseal" if writes => self.unseal(r.body).await,
            "sys/unseal/custodians" if reads => self.custodians(),
            "sys/unseal/custodians" if writes => self.ask_custodians(r.body).await,
            "sys/unseal/custodians/sign" if writes => self.custodian_signs(r.body).await,
            "sys/seal-status" | "sys/leader" | "sys/health" | "sys/init" | "sys/unseal" => Answer::errors(405, &[]),
            "sys/unseal/custodians" | "sys/unseal/custodians/sign" => Answer::errors(405, &[]),
            "sys/seal" | "sys/step-down" if !writes => Answer::errors(405, &[]),
            "sys/seal" if !self.is_unsealed() => Answer::json(204, Vec::new()),
            _ => return self.old_route(r).await,
        };
        Some(answer)
    }

    fn init_status(&self) -> Answer {
        match self.is_initialised() {
            Ok(is) => {
                let mut m = Map::new();
                m.insert("initialized".into(), is.into());
                Answer::bare(200, &m)
            }
            Err(e) => Answer::error(500, &e),
        }
    }

    fn seal_status(&self) -> Answer {
        match self.seal_status_map() {
            Ok(m) => Answer::bare(200, &m),
            Err(e) => Answer::error(500, &e),
        }
    }

    fn seal_status_map(&self) -> Result<Map<String, Value>, String> {
        let facts = self.seal_facts()?;
        let cluster = self.cluster();
        let mut m = Map::new();
        let mut set = |k: &str, v: Value| {
            m.insert(k.into(), v);
        };
        set("type", self.seal_type().into());
        set("initialized", facts.initialised.into());
        set("sealed", cluster.is_none().into());
        set("t", facts.threshold.into());
        set("n", facts.shares.into());
        set("progress", facts.progress.into());
        set("nonce", facts.nonce.into());
        set("version", VERSION.into());
        set("build_date", BUILD_DATE.into());
        set("commit_date", BUILD_DATE.into());
        set("migration", facts.migrates_from.is_some().into());
        if let Some(from) = facts.migrates_from {
            set("migration_from", from.into());
        }
        if let Some((name, id)) = cluster {
            set("cluster_name", name.into());
            set("cluster_id", id.into());
        }
        set("recovery_seal", self.has_device().into());
        if self.has_device() {
            set("recovery_seal_type", "shamir".into());
        }
        set("storage_type", self.options.storage_type.clone().into());
        if let Some(form) = facts.recovery {
            let word = if form == RecoveryForm::Escrow { "escrow" } else { "authorise" };
            set("recovery_form", word.into());
        }
        if self.recovery_mode.is_some() {
            set("recovery_mode", true.into());
        }
        for (name, value) in self.apart_from_its_cluster() {
            set(name, value);
        }
        if let Some(trouble) = facts.device_trouble {
            set("seal_trouble", trouble.into());
        }
        Ok(m)
    }

    /// What is said of a node that has lost its cluster, or whose configuration names another one. Only then, so that no
    /// client meets a field that it does not know while all is well.
    fn apart_from_its_cluster(&self) -> Vec<(&'static str, Value)> {
        // As Vault has it.
        let removed = self.is_removed().then(|| ("removed_from_cluster", true.into()));
        let trouble = self.cluster_trouble().map(|text| ("cluster_trouble", text.into()));
        removed.into_iter().chain(trouble).collect()
    }

    fn leader(&self) -> Answer {
        let mut m = Map::new();
        let Some(cluster) = &self.options.cluster else {
            m.insert("ha_enabled".into(), false.into());
            return Answer::bare(200, &m);
        };
        if !self.is_unsealed() {
            return self.sealed_answer();
        }
        let lead = cluster.lead();
        let active = matches!(self.standing(), Standing::Active);
        m.insert("ha_enabled".into(), true.into());
        m.insert("is_self".into(), active.into());
        if let Some(since) = self.active_since().filter(|_| active) {
            m.insert("active_time".into(), since.rfc3339().into());
        }
        let leader = if active { Some(cluster.own_peer()) } else { lead.leader.map(|(_, peer)| peer) };
        if let Some(peer) = leader {
            m.insert("leader_address".into(), peer.api_addr.into());
            m.insert("leader_cluster_address".into(), cluster_url(&peer.cluster_addr).into());
        }
        m.insert("raft_committed_index".into(), lead.committed.into());
        m.insert("raft_applied_index".into(), lead.applied.into());
        Answer::bare(200, &m)
    }

    fn health(&self, query: &[(String, String)]) -> Answer {
        let code = |name: &str, default: u16| -> Result<u16, ()> {
            match query.iter().find(|(k, _)| k == name) {
                None => Ok(default),
                Some((_, v)) => v.parse().ok().filter(|c| (100..=599).contains(c)).ok_or(()),
            }
        };
        let flag = |name: &str| -> Result<bool, ()> {
            match query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()) {
                None => Ok(false),
                Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
                Some(_) => Err(()),
            }
        };
        let codes = (|| {
            let standby_ok = flag("standbyok")?;
            flag("perfstandbyok")?;
            let standby = code("standbycode", 429)?;
            code("drsecondarycode", 472)?;
            code("performancestandbycode", 473)?;
            let active = code("activecode", 200)?;
            let standby = if standby_ok { active } else { standby };
            Ok::<_, ()>((
                active,
                standby,
                code("sealedcode", 503)?,
                code("uninitcode", 501)?,
                code("removedcode", 530)?,
            ))
        })();
        let Ok((active, standby_code, sealed_code, uninit, removed)) = codes else { return Answer::errors(400, &[]) };
        let initialised = match self.is_initialised() {
            Ok(i) => i,
            Err(e) => return Answer::error(500, &e),
        };
        let cluster = self.cluster();
        let sealed = cluster.is_none();
        let standby = !matches!(self.standing(), Standing::Active);
        let status = match (initialised, sealed) {
            _ if self.is_removed() => removed,
            (false, _) => uninit,
            // It serves as little as a sealed one.
            (true, _) if self.is_a_copy().is_some() => sealed_code,
            (true, true) => sealed_code,
            (true, false) if standby => standby_code,
            (true, false) => active,
        };
        let mode = if sealed { "unknown" } else { "disabled" };
        let performance = if !sealed && self.options.cluster.is_some() { "primary" } else { mode };
        let mut m = Map::new();
        let mut set = |k: &str, v: Value| {
            m.insert(k.into(), v);
        };
        set("initialized", initialised.into());
        set("sealed", sealed.into());
        set("standby", standby.into());
        // Only Vault has it; vaultrs reads no health without it.
        set("performance_standby", false.into());
        set("replication_performance_mode", performance.into());
        set("replication_dr_mode", mode.into());
        set("server_time_utc", self.clock.wall().secs().into());
        if let Some(ahead) = self.clock.apart_secs() {
            // Only then, so that no client meets a field that it does not know while all is well.
            set("clock_apart_secs", ahead.into());
        }
        if self.recovery_mode.is_some() {
            set("recovery_mode", true.into());
        }
        for (name, value) in self.apart_from_its_cluster() {
            set(name, value);
        }
        if let Some(age) = self.backup_age_secs().filter(|_| !standby) {
            set("last_proven_backup_age_secs", age.map_or(Value::Null, Value::from));
            let failed = self.backup_failed_tries();
            if failed > 0 {
                set("backup_failed_tries", failed.into());
            }
        }
        if let Some(used) = self.fullest_audit_disk() {
            set("audit_disk_used_percent", used.into());
        }
        if let Some(used) = self.fullest_audit_spool() {
            set("audit_spool_used_percent", used.into());
        }
        let failing = self.failing_audit_devices();
        if failing > 0 {
            set("audit_devices_failing", failing.into());
        }
        let failing = self.failing_seals();
        if failing > 0 {
            set("seals_failing", failing.into());
        }
        set("version", VERSION.into());
        if let Some((name, id)) = cluster {
            set("cluster_name", name.into());
            set("cluster_id", id.into());
        }
        Answer::bare(status, &m)
    }

    /// Audit devices that refused the last line they were given, on this node: one that stands by and reads writes its own.
    fn failing_audit_devices(&self) -> usize {
        self.open_to_read().map_or(0, |open| open.audit.devices().iter().filter(|d| d.figures.is_failing()).count())
    }

    /// Of the disks of audit files, how full the fullest is, if that is worth a warning.
    fn fullest_audit_disk(&self) -> Option<u64> {
        let open = self.open_to_read()?;
        let devices = open.audit.devices();
        let used = devices.iter().filter_map(|d| d.figures.disk()).map(|disk| disk.used_percent);
        used.max().filter(|used| *used >= crate::audit::watch::WARN_AT[0])
    }

    /// The same of the spools.
    fn fullest_audit_spool(&self) -> Option<u64> {
        let open = self.open_to_read()?;
        let devices = open.audit.devices();
        let used = devices.iter().filter_map(|d| d.spooled()).map(|spool| spool.used_percent);
        used.max().filter(|used| *used >= crate::audit::watch::WARN_AT[0])
    }

    async fn init(self: &Arc<Self>, body: &[u8]) -> Answer {
        let request = match parse_init(body, self.has_device()) {
            Ok(r) => r,
            Err(text) => return Answer::error(400, &text),
        };
        match self.initialise(&request).await {
            Ok(made) => {
                let mut m = Map::new();
                let hex = |keys: &[Secret<Vec<u8>>]| {
                    Value::from(keys.iter().map(|k| hex::encode(k.expose())).collect::<Vec<_>>())
                };
                let base64 = |keys: &[Secret<Vec<u8>>]| {
                    let encode = |k: &Secret<Vec<u8>>| base64::engine::general_purpose::STANDARD.encode(k.expose());
                    Value::from(keys.iter().map(encode).collect::<Vec<_>>())
                };
                m.insert("keys".into(), hex(&made.keys));
                m.insert("keys_base64".into(), base64(&made.keys));
                if self.has_device() {
                    m.insert("recovery_keys".into(), hex(&made.recovery_keys));
                    m.insert("recovery_keys_base64".into(), base64(&made.recovery_keys));
                }
                m.insert("root_token".into(), made.root_token.expose().clone().into());
                Answer::bare(200, &m)
            }
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    async fn unseal(self: &Arc<Self>, body: &[u8]) -> Answer {
        let map = match strict_object(body) {
            Ok(m) => m,
            Err(text) => return Answer::error(400, &text),
        };
        let parsed = (|| {
            Ok::<_, String>((strict_text(&map, "key")?, strict_bool(&map, "reset")?, strict_bool(&map, "migrate")?))
        })();
        let (key, reset, migrate) = match parsed {
            Ok(p) => p,
            Err(text) => return Answer::error(400, &text),
        };
        if reset {
            return match self.reset_unseal() {
                Ok(()) => self.seal_status(),
                Err(Refusal(status, text)) => Answer::error(status, &text),
            };
        }
        if key.is_empty() {
            return Answer::error(400, "'key' must be specified in request body as JSON, or 'reset' set to true");
        }
        let Some(share) = ceremony::share(&key) else {
            return Answer::error(400, "'key' must be a valid hex or base64 string");
        };
        let taken = if migrate { self.migrate_with_share(share).await } else { self.unseal_share(share).await };
        match taken {
            Ok(()) => self.seal_status(),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }
}

/// A cluster address as clients are told it.
pub(crate) fn cluster_url(address: &str) -> String {
    if address.is_empty() { String::new() } else { format!("https://{address}") }
}

pub(crate) fn strict_object(body: &[u8]) -> Result<Map<String, Value>, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(m)) => Ok(m),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("failed to decode JSON input: expected an object".into()),
        Err(e) => Err(format!("failed to decode JSON input: {}", crate::body::json_error(&e))),
    }
}

fn wrong(name: &str, kind: &str) -> String {
    format!("failed to decode JSON input: {name} must be {kind}")
}

pub(crate) fn strict_text(m: &Map<String, Value>, name: &str) -> Result<String, String> {
    match m.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(_) => Err(wrong(name, "a string")),
    }
}

pub(crate) fn strict_bool(m: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match m.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(_) => Err(wrong(name, "a boolean")),
    }
}

pub(crate) fn strict_int(m: &Map<String, Value>, name: &str) -> Result<i64, String> {
    match m.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Number(n)) => n.as_i64().ok_or_else(|| wrong(name, "an integer")),
        Some(_) => Err(wrong(name, "an integer")),
    }
}

pub(crate) fn strict_list(m: &Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    match m.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|i| i.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "a list of strings")))
            .collect(),
        Some(_) => Err(wrong(name, "a list of strings")),
    }
}

fn parse_init(body: &[u8], device: bool) -> Result<InitRequest, String> {
    let m = strict_object(body)?;
    let form = strict_text(&m, "recovery_form")?;
    let minimum = strict_text(&m, "minimum_lock")?;
    let request = InitRequest {
        secret_shares: strict_int(&m, "secret_shares")?,
        secret_threshold: strict_int(&m, "secret_threshold")?,
        recovery_shares: strict_int(&m, "recovery_shares")?,
        recovery_threshold: strict_int(&m, "recovery_threshold")?,
        recovery_form: (!form.is_empty()).then_some(form),
        minimum_lock: (!minimum.is_empty()).then_some(minimum),
        pgp_keys: strict_list(&m, "pgp_keys")?,
        recovery_pgp_keys: strict_list(&m, "recovery_pgp_keys")?,
        root_token_pgp_key: strict_text(&m, "root_token_pgp_key")?,
    };
    let _: i64 = strict_int(&m, "stored_shares")?;
    if !device && !request.recovery_pgp_keys.is_empty() {
        return Err("parameters recovery_pgp_keys not applicable to seal type shamir".into());
    }
    Ok(request)
}
