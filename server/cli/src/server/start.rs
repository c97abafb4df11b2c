//! Starting: the process is made safe, then the parts are put together, then it serves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{AuditKind, Config, Listener, LockoutScope, Offer, Storage};
use holdfast_core::audit::{DeviceConfig, Kind, Rules, SigningKey};
use holdfast_core::log::Log;
use holdfast_core::{Core, Endpoints, Node, Options, TtlLimits};
use holdfast_hsm::device::KeyRef;
use holdfast_hsm::memory;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::flags::Flags;
use super::listeners::{self, Planned};
use super::storage::{self, Opened};
use super::walls::{self, Walls};
use super::{SEALS, STORAGES, dev, logging, shown_config};
use crate::engines::ENGINES;
use crate::named_devices::NamedDevices;
use crate::node_key;
use crate::seal_device::DeviceSetUp;
use crate::seals::ConfiguredSeals;

/// How often changed certificate files are looked for.
const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Run until a signal ends the server.
pub fn run(flags: &Flags) -> Result<(), String> {
    let (mut config, warnings) = read_config(flags)?;
    flags.apply_log(&mut config.log)?;
    let seals = config.seals_in_use().map_err(|e| e.to_string())?;
    // Before any thread: afterwards this process neither forks nor execs.
    let of_seals = seals.present.iter().chain(&seals.former).any(|seal| DeviceSetUp::is_needed_for(seal.kind));
    let spawner = match of_seals || !config.devices.is_empty() {
        true => {
            Some(Arc::new(holdfast_hsm::Spawner::start().map_err(|e| format!("the device helper's spawner: {e}"))?))
        }
        false => None,
    };
    protect(flags.dev, config.disable_mlock)?;
    raise_file_limit();
    // What it is asked from here on comes from outside; it needs nobody else's programs, libraries, memory or files for it.
    let walls = walls::confine(&config, flags)?;
    let log = logging::start(&config.log)?;
    walls.tell();
    for w in &warnings {
        tracing::warn!("{w}");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) {
        // One that waits for a disk that hangs is not the only one.
        runtime.worker_threads(2);
    }
    let runtime = runtime
        .enable_all()
        // Room for values that are nested as deep as a body may be, without optimisation too.
        .thread_stack_size(2 << 20)
        .max_blocking_threads(64)
        .build()
        .map_err(|e| format!("the runtime cannot be started: {e}"))?;
    runtime.block_on(serve(flags, &config, log, &walls, spawner))
}

fn read_config(flags: &Flags) -> Result<(Config, Vec<holdfast_config::Warning>), String> {
    let offer = Offer::new(STORAGES, SEALS);
    let (mut config, warnings) = if flags.config.is_empty() {
        (Config::default(), Vec::new())
    } else {
        Config::load(&flags.config, &offer).map_err(|e| e.to_string())?
    };
    if flags.dev {
        let address = flags.dev_listen_address.clone().unwrap_or_else(|| "127.0.0.1:8200".into());
        let mut listener = holdfast_config::TcpListener {
            address,
            tls: None,
            unauthenticated_metrics_access: true,
            ..holdfast_config::TcpListener::default()
        };
        if flags.dev_tls {
            let files = dev::make_tls(flags.dev_tls_cert_dir.as_deref())?;
            println!("CA certificate: {}", files.ca.display());
            listener.tls = Some(holdfast_config::TlsSettings {
                cert_file: files.cert,
                key_file: files.key,
                ..holdfast_config::TlsSettings::default()
            });
        }
        config.listeners.insert(0, Listener::Tcp(Box::new(listener)));
        config.storage = Some(Storage::Inmem);
        config.seals.clear();
        config.disable_mlock = true;
        config.introspection_endpoint = true;
        config.raw_storage_endpoint = true;
    }
    if config.storage.is_none() {
        return Err("a storage stanza is needed: storage \"file\" { path = \"/var/lib/holdfast\" }".into());
    }
    if config.listeners.is_empty() {
        return Err("a listener stanza is needed: listener \"tcp\" { address = \"127.0.0.1:8200\" … }".into());
    }
    Ok((config, warnings))
}

/// No core dumps, no ptrace, no new privileges; memory locked unless told otherwise.
fn protect(dev: bool, disable_mlock: bool) -> Result<(), String> {
    memory::harden_process().map_err(|e| e.to_string())?;
    if dev || disable_mlock {
        memory::allow_unlocked();
        return Ok(());
    }
    memory::lock_process().map_err(|e| e.to_string())
}

/// The address of the first listener, where the configuration does not say how the node is reached.
fn first_url(planned: &[Planned]) -> String {
    let tcp = planned.iter().find(|p| matches!(p.address, holdfast_http::Address::Tcp(_)));
    tcp.map_or(String::new(), |p| format!("{}://{}", if p.tls.is_some() { "https" } else { "http" }, shown(&p.address)))
}

/// As many connections as the system allows.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _stays_as_it_is = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

async fn serve(
    flags: &Flags,
    config: &Config,
    log: Arc<Log>,
    walls: &Walls,
    spawner: Option<Arc<holdfast_hsm::Spawner>>,
) -> Result<(), String> {
    let planned = listeners::plan(config)?;
    let mut bound = Vec::new();
    for p in &planned {
        bound.push(
            holdfast_http::bind(&p.address)
                .await
                .map_err(|e| format!("cannot listen on {}: {e}", shown(&p.address)))?,
        );
    }
    let addresses = Node {
        api_addr: config.api_addr.clone().unwrap_or_else(|| first_url(&planned)),
        cluster_addr: storage::cluster_url(config, &planned),
    };
    let named_devices = NamedDevices::new(spawner.clone());
    let devices = named_devices.declared(config)?;
    let key = node_key::kept(config, &devices)?;
    let (opened, recovery_mode) = match flags.recovery {
        true => {
            let (opened, recovery) = storage::open_to_repair(config, &planned, &addresses, key).await?;
            (opened, Some(recovery))
        }
        false => (storage::open(config, &planned, &addresses, key).await?, None),
    };
    let Opened { store, storage_type, max_entry_bytes, member } = opened;
    let read_again = flags.clone();
    let read_again = move || read_config(&read_again).map(|(config, _)| config);
    let seals = Arc::new(ConfiguredSeals::new(spawner.clone(), Box::new(read_again)));
    let audit_rules = Rules {
        api_creation: config.unsafe_allow_api_audit_creation,
        prefixes: config.allow_audit_log_prefixing,
        directories: walls::audit_directories(config),
    };
    let core = Core::new(Options {
        store,
        engines: ENGINES,
        seals: seals.of(config)?,
        seal_source: Some(seals.clone()),
        devices,
        storage_type: storage_type.into(),
        cluster: member.clone().map(|m| m as Arc<dyn holdfast_core::cluster::Cluster>),
        audit: declared_audit(config, &audit_rules)?,
        audit_rules: audit_rules.clone(),
        limits: TtlLimits {
            default_secs: config.default_lease_ttl.as_secs(),
            max_secs: config.max_lease_ttl.as_secs(),
        },
        cluster_name: config.cluster_name.clone(),
        max_entry_bytes,
        user_lockout: config.user_lockouts.iter().map(user_lockout).collect(),
        endpoints: Endpoints { introspection: config.introspection_endpoint, raw_storage: config.raw_storage_endpoint },
        log,
        shown_config: shown_config::shown(config),
        recovery_mode,
    });
    core.sign_audit_by(audit_signing(config));
    core.mix_entropy_of_seals(config.entropy_of_seals);
    core.set_node(addresses);
    holdfast_http::remove_left_archives(&core);
    let mut following = None;
    if let Some(member) = member.as_ref().filter(|_| !flags.recovery) {
        member.set_front(Arc::new(holdfast_http::Front::new(core.clone())));
        following = Some(tokio::spawn(core.clone().follow_lead()));
        let (from, non_voter) = storage::joins(config)?;
        if !from.is_empty() {
            core.clone().join_in_background(from, non_voter);
        }
    }
    // Before anybody is told that the server is there: who ends it then ends it in order.
    let signals = Signals::listen()?;
    let _pid_file = config.pid_file.as_deref().map(PidFile::write).transpose()?;

    if flags.dev {
        let (key, token) = dev::furnish(&core, flags).await?;
        if !flags.dev_no_store_token {
            dev::store_token(&token);
        }
        println!(
            "WARNING! This server is for trying things out: it keeps everything in memory, is unsealed,\n\
             and its key and root token stand here. Never use it for real secrets.\n\n\
             Unseal Key: {}\nRoot Token: {}\n",
            key.expose(),
            token.expose()
        );
    } else if flags.recovery {
        tracing::warn!(
            "recovery mode: entries of the store can be read and written (sys/raw) with a token that holders of its \
             shares make by operator generate-root -recovery-token; nothing else is served. Start without -recovery to go on"
        );
    } else {
        core.tell_seal();
        tokio::spawn(core.clone().unseal_with_device());
        tokio::spawn(core.clone().watch_device());
        tokio::spawn(core.clone().watch_devices());
    }

    let (stop, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    for (p, l) in planned.iter().zip(bound) {
        tracing::info!(address = %shown(&l.address), tls = p.tls.is_some(), "listening");
        tasks.spawn(l.serve(core.clone(), p.options.clone(), p.tls.clone(), stopped.clone()));
    }
    watch_files(&planned, stopped.clone());
    let read_again =
        ReadAgain { walls, audit_rules: &audit_rules, planned: &planned, devices: &named_devices, seals: &seals };
    wait_for_signals(signals, &core, flags, &read_again).await;
    tracing::info!("stopping: requests in flight are finished first");
    let _nobody_listens = stop.send(true);
    core.log.end_watches();
    while tasks.join_next().await.is_some() {}
    core.seal_to_stop().await;
    core.end_recovery_mode();
    // That the member stops is no trouble that somebody has to look at.
    if let Some(following) = following {
        following.abort();
        let _ended_by_that = following.await;
    }
    if let Some(member) = member {
        member.stop().await;
    }
    core.shut_down();
    drop(spawner);
    Ok(())
}

fn shown(address: &holdfast_http::Address) -> String {
    match address {
        holdfast_http::Address::Tcp(a) => a.to_string(),
        holdfast_http::Address::Unix { path, .. } => path.display().to_string(),
    }
}

fn user_lockout(l: &holdfast_config::UserLockout) -> holdfast_core::UserLockout {
    holdfast_core::UserLockout {
        method: match l.scope {
            LockoutScope::All => None,
            LockoutScope::Userpass => Some("userpass"),
            LockoutScope::Ldap => Some("ldap"),
            LockoutScope::Approle => Some("approle"),
        },
        lockout: holdfast_core::Lockout {
            threshold: l.threshold,
            duration_secs: l.duration.as_secs(),
            counter_reset_secs: l.counter_reset.as_secs(),
            disabled: l.disabled,
        },
    }
}

/// The audit devices that the configuration declares.
fn declared_audit(config: &Config, rules: &Rules) -> Result<Vec<DeviceConfig>, String> {
    let device = |d: &holdfast_config::AuditDevice| {
        let declared = DeviceConfig {
            kind: match d.kind {
                AuditKind::File => Kind::File,
                AuditKind::Socket => Kind::Socket,
                AuditKind::Syslog => Kind::Syslog,
                AuditKind::Http => Kind::Http,
            },
            path: d.path.clone(),
            description: d.description.clone(),
            local: d.local,
            options: d.options.clone(),
        };
        rules.check(&declared).map_err(|e| format!("audit device {}: {e}", d.path))?;
        Ok(declared)
    };
    let devices = config.audit.iter().map(device).collect::<Result<Vec<DeviceConfig>, String>>()?;
    let overlap = |a: &&DeviceConfig| devices.iter().find(|b| a.path != b.path && a.path.starts_with(&b.path));
    match devices.iter().find_map(|a| overlap(&a).map(|b| (a, b))) {
        Some((below, above)) => {
            Err(format!("audit device {} is below {}: give it another path", below.path, above.path))
        }
        None => Ok(devices),
    }
}

/// The key in a device that signs the checkpoints of audit logs, if one does.
fn audit_signing(config: &Config) -> Option<SigningKey> {
    config.audit_signing.as_ref().map(|signing| SigningKey {
        device: signing.device.clone(),
        key: KeyRef { label: signing.key_label.clone(), id: signing.key_id.clone() },
        refuse_after: signing.refuse_after,
    })
}

/// What follows the configuration when it is read again.
struct ReadAgain<'a> {
    walls: &'a Walls,
    audit_rules: &'a Rules,
    planned: &'a [Planned],
    devices: &'a NamedDevices,
    seals: &'a ConfiguredSeals,
}

/// What the configuration says by now of seals, devices, audit devices and the headers of answers; what cannot be read changes nothing.
async fn follow_configuration(core: &Arc<Core>, flags: &Flags, again: &ReadAgain<'_>) {
    let ReadAgain { walls, audit_rules: rules, planned, devices, seals } = again;
    let config = match read_config(flags) {
        Ok((config, _)) => config,
        Err(e) => {
            tracing::error!(error = %e, "the configuration cannot be read again: all stays as it is");
            return;
        }
    };
    walls.say_what_needs_a_restart(&config, flags);
    listeners::follow_headers(planned, &config);
    match devices.declared(&config) {
        Ok(declared) => core.devices.declare(declared),
        Err(e) => tracing::error!(error = %e, "the devices stay as they are"),
    }
    core.sign_audit_by(audit_signing(&config));
    core.mix_entropy_of_seals(config.entropy_of_seals);
    match seals.of(&config) {
        Ok(seals) => core.declare_seals(seals),
        Err(e) => tracing::error!(error = %e, "the seals stay as they are"),
    }
    match declared_audit(&config, rules) {
        Ok(devices) => core.declare_audit(devices).await,
        Err(e) => tracing::error!(error = %e, "the audit devices stay as they are"),
    }
}

/// The signals that the server takes; from when it listens for them they do not end the process.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("signals cannot be waited for: {e}"));
        Ok(Signals {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

/// SIGHUP reads certificates, seal, device and audit stanzas and `custom_response_headers` again, opens the log and audit files anew, and asks the seal's device
/// again, with the PIN that its file has now; SIGTERM and Ctrl-C end the server.
async fn wait_for_signals(mut signals: Signals, core: &Arc<Core>, flags: &Flags, again: &ReadAgain<'_>) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                core.log.reopen();
                follow_configuration(core, flags, again).await;
                core.reopen_audit().await;
                again.seals.read_pins_again();
                core.retry_device();
                reload(again.planned);
            }
        }
    }
}

fn reload(planned: &[Planned]) {
    for p in planned {
        if let Some(c) = &p.certificates {
            match c.reload() {
                Ok(()) => tracing::info!(address = %shown(&p.address), "the certificate was read again"),
                Err(e) => tracing::error!(error = %e, "the old certificate stays in use"),
            }
        }
    }
}

/// `tls_auto_reload`: look for changed files.
fn watch_files(planned: &[Planned], mut stopped: watch::Receiver<bool>) {
    let watched: Vec<_> = planned.iter().filter(|p| p.auto_reload).filter_map(|p| p.certificates.clone()).collect();
    if watched.is_empty() {
        return;
    }
    tokio::spawn(async move {
        let mut seen: Vec<_> = watched.iter().map(|c| c.modified()).collect();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD_EVERY) => {}
                _ = stopped.wait_for(|s| *s) => return,
            }
            for (c, before) in watched.iter().zip(&mut seen) {
                let now = c.modified();
                if now != *before {
                    match c.reload() {
                        Ok(()) => *before = now,
                        Err(e) => tracing::error!(error = %e, "the old certificate stays in use"),
                    }
                }
            }
        }
    });
}

/// A file with the process id, removed at the end.
struct PidFile(std::path::PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<PidFile, String> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|e| format!("pid_file {}: {e}", path.display()))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}
