//! `redact_*`: what a listener does not tell those who show no token.

use holdfast_core::Answer;
use holdfast_sdk::{Map, Value};

/// What is left empty in the answers of `sys/health`, `sys/leader`, `sys/seal-status` and `sys/unseal`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Redact {
    pub addresses: bool,
    pub cluster_name: bool,
    pub version: bool,
}

impl Redact {
    /// Whether an answer of this path is looked at.
    pub fn concerns(self, path: &str) -> bool {
        (self.addresses || self.cluster_name || self.version)
            && matches!(path, "sys/health" | "sys/leader" | "sys/seal-status" | "sys/unseal")
    }

    /// The answer without it. The keys stay, with nothing in them: clients expect them.
    pub fn redacted(self, answer: Answer) -> Answer {
        let Ok(mut map) = serde_json::from_slice::<Map<String, Value>>(&answer.body) else { return answer };
        let keys: [(bool, &[&str]); 3] = [
            (self.addresses, &["leader_address", "leader_cluster_address"]),
            (self.cluster_name, &["cluster_name"]),
            (self.version, &["version", "build_date", "commit_date"]),
        ];
        for key in keys.iter().filter(|(on, _)| *on).flat_map(|(_, keys)| *keys) {
            if let Some(value) = map.get_mut(*key) {
                *value = Value::from("");
            }
        }
        Answer { body: Answer::bare(answer.status, &map).body, ..answer }
    }
}
