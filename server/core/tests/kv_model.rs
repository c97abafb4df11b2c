//! kv version 2 under concurrent writers, held against a model: a check-and-set succeeds exactly when the
//! version that it names is the current one, and every version keeps what its writer put there.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use holdfast_sdk::Operation;
use serde_json::json;
use support::Server;

const WRITERS: u64 = 6;
const STEPS: u64 = 60;
const KEYS: u64 = 3;

/// A small generator: the same steps for the same seed.
struct Steps(u64);

impl Steps {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_set_is_exact_under_concurrent_writers() {
    for seed in 0..3 {
        let server = Arc::new(Server::start().await);
        server.write("sys/mounts/kv", json!({"type": "kv-v2"})).await.expect(204);
        server.write("kv/config", json!({"max_versions": 100_000})).await.expect(204);
        // By key and version: what the writer that was told of the version had sent.
        let told: Arc<Mutex<HashMap<(u64, u64), u64>>> = Arc::default();
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (server, told) = (server.clone(), told.clone());
                tokio::spawn(async move {
                    let mut steps = Steps(seed * 1000 + writer);
                    for step in 0..STEPS {
                        let key = steps.below(KEYS);
                        let path = format!("kv/data/k{key}");
                        let mark = writer * STEPS + step;
                        let body = match steps.below(3) {
                            0 => json!({"data": {"mark": mark}}),
                            kind => {
                                let read = server.read(&path).await;
                                let now = read.body["data"]["metadata"]["version"].as_u64().unwrap_or(0);
                                // The current version, or one that never is.
                                let cas = if kind == 1 { now } else { now + 1_000_000 };
                                json!({"data": {"mark": mark}, "options": {"cas": cas}})
                            }
                        };
                        let reply = server.write(&path, body.clone()).await;
                        let cas = body["options"]["cas"].as_u64();
                        if reply.status == 200 {
                            let version = reply.body["data"]["version"].as_u64().unwrap();
                            assert!(cas.is_none_or(|c| c + 1 == version), "cas {cas:?} made version {version}");
                            let twice = told.lock().unwrap().insert((key, version), mark);
                            assert_eq!(twice, None, "version {version} was handed out twice");
                        } else {
                            assert_eq!(reply.status, 400, "{}", reply.body);
                            assert!(cas.is_some(), "a plain write was refused: {}", reply.body);
                        }
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        let told = told.lock().unwrap().clone();
        for key in 0..KEYS {
            let path = format!("kv/data/k{key}");
            let metadata = server.read(&format!("kv/metadata/k{key}")).await.expect(200);
            let current = metadata["data"]["current_version"].as_u64().unwrap();
            assert_eq!(told.keys().filter(|(k, _)| *k == key).count() as u64, current, "seed {seed}");
            for version in 1..=current {
                let which = json!({"version": version.to_string()});
                let read = server.ask(&server.root, Operation::Read, &path, which).await.expect(200);
                assert_eq!(read["data"]["data"]["mark"].as_u64(), told.get(&(key, version)).copied(), "seed {seed}");
            }
        }
    }
}
