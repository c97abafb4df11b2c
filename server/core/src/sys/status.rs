//! `sys/seal`, `sys/step-down`, `sys/jobs`, `sys/in-flight-req`, `sys/config/state/sanitized`, `sys/metrics`,
//! `sys/internal/specs/openapi`.

use std::sync::Arc;

use holdfast_sdk::{
    Body, Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters,
};
use serde_json::json;

use super::{System, capabilities};
use crate::layout::{ROOT, SYSTEM};
use crate::policies::system_time;
use crate::tx::{Effect, Tx};
use crate::{autopilot, jobs, leases, metrics, namespaces, open_api, router};

/// Where tokens are counted that no login gave.
const OF_NO_LOGIN: [u8; 16] = [0; 16];

parameters! {
    pub struct Format {
        /// prometheus, or nothing for JSON.
        format: Option<String>,
    }
}
parameters! {
    pub struct Spec {
        /// Mounts that people made have a parameter for their path.
        generic_mount_paths: Option<bool>,
        /// Kept for clients.
        context: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>, clustered: bool) -> Routes<System, Tx> {
    routes
        .path("step-down", "Hand leadership over.", |p| {
            let p = p.update(step_down);
            // Without others it changes nothing, and anybody may ask for it.
            if clustered { p.root_protected() } else { p.unauthenticated() }
        })
        .path("seal", "Seal the server.", |p| p.update(seal).root_protected())
        .path("seal-backend-status", "What opens the store, and how it is.", |p| {
            p.read(seal_backends).prepared(Operation::Read, ask_seals).describe(
                "Each lock of the store, and what this node's checks of its device found. In a cluster also what the other nodes \
                 say of theirs.",
            )
        })
        .path("jobs", "Work that goes on in the background.", |p| p.read(jobs).list(jobs))
        .path("in-flight-req", "The requests that are being handled.", |p| p.read(in_flight))
        .path("config/state/sanitized", "The configuration, without its secrets.", |p| p.read(config))
        .path("metrics", "Figures of the server.", |p| p.read(metrics))
        .path("internal/specs/openapi", "The routes in OpenAPI's form.", |p| {
            p.read(openapi).update(openapi).unauthenticated()
        })
}

fn seal(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    tx.effect(Effect::Seal);
    Ok(Response::empty())
}

fn ask_seals(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
        let told: Prepared = Arc::new(core.seal_backends(&open).await?);
        Ok(told)
    })))
}

fn seal_backends(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let told = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    Ok(Response::both(told.ok_or_else(|| Error::Internal("nothing was prepared".into()))?.clone()))
}

fn step_down(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    tx.effect(Effect::StepDown);
    Ok(Response::empty())
}

fn in_flight(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::bare(sys.core()?.requests_in_flight()))
}

fn config(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::data(sys.core()?.options.shown_config.clone()))
}

fn jobs(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let all = jobs::list(tx)?;
    let mut m = Map::new();
    m.insert("keys".into(), all.iter().map(|(id, _)| crate::random::uuid_text(id)).collect::<Vec<_>>().into());
    m.insert("jobs".into(), all.iter().map(|(id, j)| Value::Object(jobs::shown(id, j))).collect::<Vec<_>>().into());
    let intents = super::upkeep::intents_shown(tx)?;
    m.insert("intents".into(), intents);
    Ok(Response::data(m))
}

fn metrics(sys: &System, _: &mut Tx, _: &Call<'_>, p: Format) -> Result<Response> {
    Ok(sys.core()?.metrics_response(p.format.as_deref().unwrap_or("")))
}

impl crate::Core {
    /// The answer of `sys/metrics`.
    pub fn metrics_response(&self, format: &str) -> Response {
        let text = self.metrics.prometheus(&self.metrics_now());
        let raw = |content_type: &str, text: String| Body::Raw {
            content_type: content_type.into(),
            bytes: text.into_bytes(),
        };
        match format {
            "prometheus" => {
                Response { body: raw("text/plain; version=0.0.4; charset=utf-8", text), ..Response::default() }
            }
            "" => Response::bare(as_json(&text)),
            other => Response {
                body: raw("text/plain; charset=utf-8", format!("metric response format {other:?} unknown")),
                status: Some(400),
                ..Response::default()
            },
        }
    }

    /// Figures of this moment.
    pub fn metrics_now(&self) -> metrics::Now {
        let store = self.store.info();
        let arena = holdfast_hsm::memory::arena_usage();
        metrics::Now {
            unsealed: self.open().is_some(),
            seals: self.seals_asked(),
            fully_wrapped: self.is_fully_wrapped(),
            devices: self.devices.all(),
            applied_index: store.applied_index,
            feature_level: self.feature_level(),
            proposals_in_flight: store.in_flight,
            log_bytes: store.log_bytes,
            file_bytes: self.store.file_bytes(),
            unreadable: self.store.unreadable().is_some(),
            scrubs: self.store.scrubs(),
            compaction: self.store.compaction(),
            key_slots_used: arena.slots_used,
            key_slots_total: arena.slots_total,
            leases: self.leases_now().unwrap_or_default(),
            targets_shut: self.targets.shut(),
            clock_apart_secs: self.clock.apart_secs(),
            clock_pauses: self.clock.pauses.load(std::sync::atomic::Ordering::Relaxed),
            active: matches!(self.standing(), crate::Standing::Active) && self.open().is_some(),
            audit: self.audit_devices_now(),
            own_lines_kept: self.open().map_or(0, |open| open.audit.kept_late()),
            members: self.members_now(),
            usage: self.open().and_then(|open| open.usage.load_full()),
        }
    }

    fn seals_asked(&self) -> Vec<Arc<crate::seals::Seal>> {
        let was_asked = |seal: &&Arc<crate::seals::Seal>| seal.seen().checked.is_some();
        self.seals().present.iter().filter(was_asked).cloned().collect()
    }

    fn audit_devices_now(&self) -> Vec<metrics::AuditDevice> {
        let Some(open) = self.open() else { return Vec::new() };
        let devices = open.audit.devices();
        let one = |d: &Arc<crate::audit::Device>| metrics::AuditDevice {
            path: d.config.path.clone(),
            kind: d.config.kind.word(),
            figures: d.figures.clone(),
            waiting: d.waiting(),
            spool: d.spooled(),
        };
        devices.iter().map(one).collect()
    }

    fn members_now(&self) -> Option<metrics::Members> {
        let cluster = self.options.cluster.as_ref()?;
        let lead = cluster.lead();
        let mut now =
            metrics::Members { committed: lead.committed, applied: lead.applied, healthy: Vec::new(), tolerance: 0 };
        if let Some(open) = self.open() {
            let settings = autopilot::load(&mut self.reader(&open)).unwrap_or_default();
            let all = self.watched.look(&**cluster, &settings, self.clock.cluster());
            now.tolerance = autopilot::tolerance(&all);
            now.healthy = all.into_iter().map(|h| (h.member.id, h.healthy)).collect();
        }
        Some(now)
    }

    /// Counted leases of all namespaces, while unsealed.
    fn leases_now(&self) -> Option<metrics::Leases> {
        let open = self.open()?;
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        let irrevocable = leases::count_irrevocable(&mut tx).ok()?;
        let mut now = metrics::Leases { irrevocable: irrevocable.values().sum(), ..metrics::Leases::default() };
        let mut spaces = vec![(ROOT, String::new())];
        spaces.extend(namespaces::below(&mut tx, "").ok()?.into_iter().map(|n| (n.uuid, n.path)));
        spaces.retain(|(namespace, _)| !tx.is_sealed(namespace));
        for (namespace, path) in spaces {
            tx.enter(SYSTEM.of(namespace));
            let counts = leases::counts(&mut tx).ok()?;
            if counts.is_empty() {
                continue;
            }
            let mounts = router::load(&mut tx).ok()?;
            for (uuid, counts) in counts {
                now.tokens += counts.tokens;
                now.live += counts.live;
                now.ending += counts.ending;
                let mount = match uuid {
                    OF_NO_LOGIN => "auth/token/".to_owned(),
                    uuid => match mounts.iter().find(|m| m.uuid == uuid) {
                        Some(mount) => mount.full_path(),
                        None => continue,
                    },
                };
                now.by_mount.push(metrics::OfMount {
                    live: counts.tokens + counts.live,
                    ending: counts.ending,
                    irrevocable: irrevocable.get(&uuid).copied().unwrap_or(0),
                    ..metrics::OfMount::of(&format!("{path}{mount}"))
                });
            }
        }
        now.by_mount.retain(|of| of.live > 0 || of.ending > 0);
        now.by_mount.sort_by(|a, b| a.path.cmp(&b.path));
        now.by_mount.truncate(metrics::MOUNTS_SHOWN);
        Some(now)
    }
}

/// The lines of Prometheus' form as the API's JSON.
fn as_json(text: &str) -> Map<String, Value> {
    let gauge = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        // Quantiles of nothing.
        let value = value.parse::<f64>().ok().filter(|v| v.is_finite())?;
        let (name, labels) = name.split_once('{').map_or((name, Map::new()), |(name, rest)| (name, labels(rest)));
        Some(json!({"Name": name, "Value": value, "Labels": labels}))
    };
    let gauges: Vec<Value> = text.lines().filter(|l| !l.starts_with('#')).filter_map(gauge).collect();
    let mut m = Map::new();
    m.insert("Gauges".into(), gauges.into());
    for none in ["Counters", "Samples", "Points"] {
        m.insert(none.into(), Value::Array(Vec::new()));
    }
    m.insert("Timestamp".into(), crate::clock::now().rfc3339().into());
    m
}

/// The labels of a series, behind the brace that opens them.
fn labels(text: &str) -> Map<String, Value> {
    let mut found = Map::new();
    let mut rest = text;
    while let Some((name, behind)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = behind.char_indices();
        let mut end = behind.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c)) => value.push(c),
                    None => {}
                },
                c => value.push(c),
            }
        }
        found.insert(name.to_owned(), value.into());
        rest = behind[end..].trim_start_matches(',');
    }
    found
}

/// Without a good token, the routes that need none.
fn openapi(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Spec) -> Result<Response> {
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let union = capabilities::own_policies(sys, tx, call)?;
    let now = system_time(core.policy_time());
    let namespace = &call.request.namespace;
    let reaches = union.as_ref().map(|u| move |mount: &str| u.acl.reaches(&format!("{namespace}{mount}"), now));
    let view = open_api::View {
        reaches: reaches.as_ref().map(|r| r as &dyn Fn(&str) -> bool),
        generic_mount_paths: p.generic_mount_paths.unwrap_or(false),
    };
    let router = core.router_in(&open, tx.namespace())?;
    Ok(Response::bare(open_api::document(&router, &view)))
}
