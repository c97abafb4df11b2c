//! Initialising, unsealing and sealing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use holdfast_hsm::memory::{Key, Secret, scrub_stack, trim_heap};
use holdfast_pgp::PublicKey;
use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};
use holdfast_seal::locks::{LockKind, LockList, Minimum, ReadList, Recovery, RecoveryForm, Scope};
use holdfast_seal::{Barrier, Keyring, Lock, SealError, locks};
use holdfast_storage::{Proposal, Write};

use crate::cache::Cache;
use crate::layout::{KEYRING, LOCKS, SETTINGS, SYSTEM};
use crate::policies::{self, PolicyCache};
use crate::router::{self, MountEntry, Router};
use crate::tokens::{self, Issue, TokenEntry};
use crate::tx::Tx;
use crate::{Core, Open, audit, background, clock, random};

const CACHED_TOKENS: usize = 20_000;
const CACHED_ENTRIES: usize = 4096;
/// Waits between two tries of a device that does not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Progress of an unseal with shares, and one act at a time.
#[derive(Default)]
pub struct SealState {
    progress: Mutex<Progress>,
    /// One initialisation, unseal or seal at a time.
    act: tokio::sync::Mutex<()>,
    /// Why the device does not open the store at present.
    device_trouble: Mutex<Option<String>>,
    /// The device loop was told to try again.
    retry: tokio::sync::Notify,
    /// Somebody sealed the server: the device waits until it is asked.
    sealed_by_hand: AtomicBool,
}

#[derive(Default)]
struct Progress {
    nonce: String,
    shares: Vec<Secret<Vec<u8>>>,
}

/// Parameters of `sys/init`.
#[derive(Debug, Default, Clone)]
pub struct InitRequest {
    pub secret_shares: i64,
    pub secret_threshold: i64,
    pub recovery_shares: i64,
    pub recovery_threshold: i64,
    pub recovery_form: Option<String>,
    /// OpenPGP public keys in base64, one for each share.
    pub pgp_keys: Vec<String>,
    pub recovery_pgp_keys: Vec<String>,
    pub root_token_pgp_key: String,
}

/// What initialisation hands out, once.
pub struct Initialised {
    pub keys: Vec<Secret<Vec<u8>>>,
    pub recovery_keys: Vec<Secret<Vec<u8>>>,
    pub root_token: Secret<String>,
}

/// An answer in the form of a status and a text.
#[derive(Debug)]
pub struct Refusal(pub u16, pub String);

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(400, text.into()))
}

fn failed(e: impl std::fmt::Display) -> Refusal {
    Refusal(500, e.to_string())
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_shares(shares: i64, threshold: i64) -> Result<(u8, u8), Refusal> {
    let wrong = |text: &str| refuse(format!("invalid seal configuration: {text}"));
    if shares < 1 {
        return wrong("shares must be at least one");
    }
    if threshold < 1 {
        return wrong("threshold must be at least one");
    }
    if shares > 255 {
        return wrong("shares must be less than 256");
    }
    if threshold > shares {
        return wrong("threshold cannot be larger than shares");
    }
    if shares > 1 && threshold == 1 {
        return wrong("threshold must be greater than one for multiple shares");
    }
    Ok((shares as u8, threshold as u8))
}

/// What the lock list says without being opened.
pub struct SealFacts {
    pub initialised: bool,
    /// Shares and threshold: of the shares lock, or of recovery.
    pub shares: u8,
    pub threshold: u8,
    pub progress: usize,
    pub nonce: String,
    pub recovery: Option<RecoveryForm>,
    pub device_trouble: Option<String>,
}

impl Core {
    fn lock_list(&self) -> Result<Option<ReadList>, String> {
        let found = self.store.snapshot().get(LOCKS).map_err(|e| e.to_string())?;
        found.map(|b| LockList::decode(&b)).transpose().map_err(|e| e.to_string())
    }

    pub fn is_initialised(&self) -> Result<bool, String> {
        Ok(self.lock_list()?.is_some())
    }

    pub fn seal_facts(&self) -> Result<SealFacts, String> {
        let read = self.lock_list()?;
        let progress = lock(&self.seal.progress);
        let (mut shares, mut threshold, mut recovery) = (0, 0, None);
        if let Some(read) = &read {
            if let Some(r) = &read.list.recovery {
                (shares, threshold, recovery) = (r.shares, r.threshold, Some(r.form));
            } else if let Some(Lock { kind: LockKind::Shares { shares: n, threshold: t }, .. }) =
                read.list.shares_lock()
            {
                (shares, threshold) = (*n, *t);
            }
        }
        Ok(SealFacts {
            initialised: read.is_some(),
            shares,
            threshold,
            progress: progress.shares.len(),
            nonce: progress.nonce.clone(),
            recovery,
            device_trouble: match (&read, lock(&self.seal.device_trouble).clone()) {
                (_, Some(trouble)) => Some(trouble),
                (Some(read), None) if self.open().is_none() => self.foreign_device(&read.list),
                _ => None,
            },
        })
    }

    /// What is wrong if the store has a device's lock and the configuration no device.
    fn foreign_device(&self, list: &LockList) -> Option<String> {
        let LockKind::Device { backend } = &list.device_lock()?.kind else { return None };
        self.options.device.is_none().then(|| {
            format!(
                "the store is sealed by {backend:?}, and the configuration has no such seal: correct the seal stanza"
            )
        })
    }

    /// The type that seal-status shows.
    pub fn seal_type(&self) -> String {
        self.options.device.as_ref().map_or_else(|| "shamir".into(), |d| d.backend().to_owned())
    }

    /// Cluster name and id while unsealed.
    pub fn cluster(&self) -> Option<(String, String)> {
        self.open().map(|o| (o.cluster_name.clone(), o.cluster_id.clone()))
    }

    /// The OpenPGP keys of a request, read before anything is made.
    fn init_keys(&self, r: &InitRequest, plan: &Plan) -> Result<Recipients, Refusal> {
        let wrong = |text: String| Refusal(400, format!("invalid seal configuration: {text}"));
        let read = |texts: &[String], shares: u8| -> Result<Vec<PublicKey>, Refusal> {
            if !texts.is_empty() && texts.len() != usize::from(shares) {
                return Err(wrong("count mismatch between number of provided PGP keys and number of shares".into()));
            }
            texts
                .iter()
                .map(|t| PublicKey::parse(t).map_err(|e| wrong(format!("error decoding given PGP key: {e}"))))
                .collect()
        };
        let shares = match plan {
            Plan::Shares(n, _) => read(&r.pgp_keys, *n)?,
            Plan::Device { .. } if !r.pgp_keys.is_empty() => {
                return refuse(format!("parameters pgp_keys not applicable to seal type {}", self.seal_type()));
            }
            Plan::Device { shares, .. } => read(&r.recovery_pgp_keys, *shares)?,
        };
        let root_token = match r.root_token_pgp_key.as_str() {
            "" => None,
            text => Some(
                PublicKey::parse(text).map_err(|e| Refusal(400, format!("error decoding root token PGP key: {e}")))?,
            ),
        };
        Ok(Recipients { shares, root_token })
    }

    /// `sys/init`. With a device the server unseals itself afterwards.
    pub async fn initialise(self: &Arc<Self>, request: &InitRequest) -> Result<Initialised, Refusal> {
        let _one = self.seal.act.lock().await;
        let plan = self.check_init(request)?;
        let recipients = self.init_keys(request, &plan)?;
        if self.is_initialised().map_err(failed)? {
            return refuse("Vault is already initialized");
        }
        let now = clock::now();
        let cluster_id = random::uuid().map_err(failed)?;
        let root = Key::random(32).map_err(failed)?;
        let mut list = LockList {
            cluster_id,
            cluster_name: match &self.options.cluster_name {
                Some(n) => n.clone(),
                None => format!("holdfast-cluster-{}", hex::encode(random::bytes::<4>().map_err(failed)?)),
            },
            generation: 1,
            minimum: Minimum::Any,
            locks: Vec::new(),
            recovery: None,
        };
        match plan {
            Plan::Shares(shares, threshold) => {
                let (lock, keys) =
                    locks::lock_with_shares(&root, &cluster_id, shares, threshold, 0, now.secs()).map_err(failed)?;
                list.locks.push(lock);
                let root_token = self.write_first(&root, &list, None, now).await?;
                recipients.seal(Initialised { keys, recovery_keys: Vec::new(), root_token })
            }
            Plan::Device { shares, threshold, form } => {
                let (lock, root) = self.device_lock(root, cluster_id, now).await?;
                list.locks.push(lock);
                let (recovery_keys, verifier) = add_recovery(&mut list, &root, (shares, threshold), form, now)?;
                let root_token = self.write_first(&root, &list, verifier, now).await?;
                self.activate(root).await?;
                recipients.seal(Initialised { keys: Vec::new(), recovery_keys, root_token })
            }
        }
    }

    fn check_init(&self, r: &InitRequest) -> Result<Plan, Refusal> {
        let Some(_) = &self.options.device else {
            if r.recovery_form.is_some() {
                return refuse("parameters recovery_form not applicable to seal type shamir");
            }
            if r.recovery_shares != 0 || r.recovery_threshold != 0 {
                return refuse("parameters recovery_shares,recovery_threshold not applicable to seal type shamir");
            }
            let (n, t) = check_shares(r.secret_shares, r.secret_threshold)?;
            return Ok(Plan::Shares(n, t));
        };
        if r.secret_shares != 0 || r.secret_threshold != 0 {
            let kind = self.seal_type();
            return refuse(format!("parameters secret_shares,secret_threshold not applicable to seal type {kind}"));
        }
        let form = match r.recovery_form.as_deref() {
            None | Some("" | "authorise" | "authorize") => RecoveryForm::Authorise,
            Some("escrow") => RecoveryForm::Escrow,
            Some(other) => return refuse(format!("recovery_form {other:?}: authorise and escrow are possible")),
        };
        if r.recovery_shares == 0 && r.recovery_threshold == 0 {
            return Ok(Plan::Device { shares: 0, threshold: 0, form });
        }
        let (shares, threshold) = check_shares(r.recovery_shares, r.recovery_threshold)?;
        Ok(Plan::Device { shares, threshold, form })
    }

    /// Let the device wrap the root key, and open it again to prove it.
    async fn device_lock(&self, root: Key, cluster_id: [u8; 16], now: Timestamp) -> Result<(Lock, Key), Refusal> {
        let Some(device) = self.options.device.clone() else { return Err(failed("no device")) };
        let id: [u8; 16] = random::bytes().map_err(failed)?;
        let worked = tokio::task::spawn_blocking(move || {
            let context = locks::wrap_context(&cluster_id, &id);
            let wrapped = device.wrap(&root, &context)?;
            let lock = Lock {
                id,
                kind: LockKind::Device { backend: device.backend().to_owned() },
                scope: Scope::Cluster,
                priority: 0,
                key_label: wrapped.key_label,
                key_id: wrapped.key_id,
                mechanism: wrapped.mechanism,
                public_part: wrapped.public_part,
                ciphertext: wrapped.ciphertext,
                proved: true,
                created: now.secs(),
            };
            let again = device.unwrap(&lock, &context)?;
            Ok::<_, holdfast_seal::DeviceRefusal>((lock, root, again))
        });
        let (lock, root, again) = worked.await.map_err(failed)?.map_err(|e| Refusal(500, e.text))?;
        if !again.ct_eq(root.expose()) {
            return Err(failed("the device does not give back what it wrapped; it is not used"));
        }
        Ok((lock, root))
    }

    /// Everything a fresh store holds, in one commit.
    async fn write_first(
        self: &Arc<Self>,
        root: &Key,
        list: &LockList,
        verifier: Option<Key>,
        now: Timestamp,
    ) -> Result<Secret<String>, Refusal> {
        let keyring = Arc::new(Keyring::generate(list.cluster_id, now.secs()).map_err(failed)?);
        let barrier = Barrier::new(keyring.clone());
        let mut tx = Tx::new(self.store.view(), barrier.clone());
        let token = tokens::new_service_id().map_err(failed)?;
        first_records(&mut tx, &token, now).map_err(failed)?;
        if let Some(key) = verifier {
            let check = barrier.id(b"recovery verifier", &hex::encode(key.expose()));
            tx.within(SYSTEM, |tx| tx.put(Place::Ordered(SETTINGS, b"recovery-verifier"), check.to_vec()))
                .map_err(failed)?;
        }
        let mut proposal: Proposal = tx.into_proposal().map_err(failed)?;
        proposal.writes.push(Write::Put(LOCKS.into(), list.encode(root).map_err(failed)?.into()));
        proposal.writes.push(Write::Put(KEYRING.into(), keyring.seal(root).map_err(failed)?.into()));
        let ticket = self.store.propose(proposal).map_err(failed)?;
        ticket.committed().await.map_err(failed)?;
        tracing::info!(cluster = %list.cluster_name, "the store is initialised");
        Ok(Secret::new(token))
    }

    /// `sys/unseal`: take one share. True: the server is unsealed.
    pub async fn unseal_share(self: &Arc<Self>, share: Secret<Vec<u8>>) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        if self.open().is_some() {
            return Ok(());
        }
        let Some(wanted) = read.list.shares_lock().cloned() else {
            let backend = match read.list.device_lock().map(|l| &l.kind) {
                Some(LockKind::Device { backend }) => backend.as_str(),
                _ => "one that is gone",
            };
            return refuse(format!(
                "this store is sealed by a device ({backend}), and its recovery shares approve acts only (recovery_form is authorise): \
                 bring the device back, or restore the store where it is"
            ));
        };
        if self.options.device.is_some()
            && lock(&self.seal.device_trouble).is_none()
            && !self.seal.sealed_by_hand.load(Ordering::SeqCst)
        {
            return refuse("the device answers: it unseals the store, recovery shares are for when it does not");
        }
        let LockKind::Shares { shares, threshold } = wanted.kind else {
            return Err(failed("the lock is not one of shares"));
        };
        let longest = holdfast_seal::shares::share_bytes(32, shares);
        if share.expose().len() > longest {
            return refuse(format!("invalid key: key is longer than maximum {longest} bytes"));
        }
        if share.expose().len() < longest {
            return refuse(format!("invalid key: key is shorter than {longest} bytes"));
        }
        let given = {
            let mut progress = lock(&self.seal.progress);
            if progress.shares.iter().any(|s| s.ct_eq(share.expose())) {
                return Ok(());
            }
            if progress.shares.is_empty() {
                progress.nonce = random::uuid_text(&random::uuid().map_err(failed)?);
            }
            progress.shares.push(share);
            if progress.shares.len() < threshold as usize {
                return Ok(());
            }
            std::mem::take(&mut *progress).shares
        };
        let root = locks::open_with_shares(&wanted, &read.list.cluster_id, &given).map_err(|e| match e {
            SealError::WrongShares => Refusal(400, format!("unable to retrieve stored keys: invalid key: {e}")),
            other => failed(other),
        })?;
        self.activate(root).await
    }

    /// Forget the shares given so far.
    pub fn reset_unseal(&self) -> Result<(), Refusal> {
        if self.open().is_some() {
            return refuse("vault is unsealed");
        }
        *lock(&self.seal.progress) = Progress::default();
        Ok(())
    }

    /// Bring the store into service with its root key.
    async fn activate(self: &Arc<Self>, root: Key) -> Result<(), Refusal> {
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        read.verify(&root).map_err(failed)?;
        let record = self.store.snapshot().get(KEYRING).map_err(failed)?;
        let record = record.ok_or_else(|| failed("the keyring is missing: restore the store from a backup"))?;
        let keyring = Keyring::open(&record, &root, read.list.cluster_id).map_err(failed)?;
        let barrier = Barrier::new(Arc::new(keyring));
        let open = Arc::new(Open {
            barrier: ArcSwap::from_pointee(barrier.clone()),
            root,
            cluster_id: random::uuid_text(&read.list.cluster_id),
            cluster_name: read.list.cluster_name.clone(),
            router: ArcSwap::from_pointee(Router::new(std::iter::empty(), 0)),
            mounts_version: AtomicU64::new(0),
            router_lock: Mutex::new(()),
            tokens: Cache::new(CACHED_TOKENS),
            sessions: Cache::new(CACHED_TOKENS),
            opened: Arc::new(Cache::new(CACHED_ENTRIES)),
            policies: PolicyCache::default(),
            audit: self.open_audit(&barrier).await?,
            closing: AtomicBool::new(false),
        });
        self.transact(&open, add_missing_mounts).await.map_err(failed)?;
        open.router.store(Arc::new(self.build_router(&open, None, 0).map_err(failed)?));
        self.open.store(Some(open.clone()));
        self.seal.sealed_by_hand.store(false, Ordering::SeqCst);
        *lock(&self.seal.progress) = Progress::default();
        *lock(&self.seal.device_trouble) = None;
        background::start(self, &open);
        tracing::info!(cluster = %open.cluster_name, "the server is unsealed");
        Ok(())
    }

    /// Open the declared audit devices; each has a salt kept in the barrier.
    async fn open_audit(self: &Arc<Self>, barrier: &Barrier) -> Result<audit::Broker, Refusal> {
        let mut broker = audit::Broker::default();
        for config in &self.options.audit {
            let name = format!("audit-salt/{}", config.path);
            let mut tx = Tx::new(self.store.view(), barrier.clone());
            tx.enter(SYSTEM);
            let salt = match tx.get(Place::Ordered(SETTINGS, name.as_bytes())).map_err(failed)? {
                Some(s) => String::from_utf8(s).map_err(failed)?,
                None => {
                    let salt = random::alphanumeric(32).map_err(failed)?;
                    tx.put(Place::Ordered(SETTINGS, name.as_bytes()), salt.clone().into_bytes()).map_err(failed)?;
                    let ticket = self.store.propose(tx.into_proposal().map_err(failed)?).map_err(failed)?;
                    ticket.committed().await.map_err(failed)?;
                    salt
                }
            };
            let switch = |name, default| config.switch(name, default).map_err(failed);
            let hasher = audit::Hasher::new(
                &salt,
                switch("log_raw", false)?,
                switch("hmac_accessor", true)?,
                switch("elide_list_responses", false)?,
            );
            let sink = Arc::new(audit::FileDevice::open(config).map_err(failed)?);
            broker.devices.push(audit::Device { config: config.clone(), hasher, sink });
        }
        Ok(broker)
    }

    /// Forget every key and cache. Requests in flight end first, for a moment.
    pub async fn seal_now(self: &Arc<Self>) {
        let _one = self.seal.act.lock().await;
        let Some(open) = self.open.swap(None) else { return };
        self.seal.sealed_by_hand.store(true, Ordering::SeqCst);
        open.closing.store(true, Ordering::SeqCst);
        self.job_stored.notify_waiters();
        self.seal_count.fetch_add(1, Ordering::SeqCst);
        self.sealed.notify_waiters();
        for _ in 0..200 {
            if Arc::strong_count(&open) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(open);
        trim_heap();
        scrub_workers().await;
        tracing::info!("the server is sealed");
    }

    /// Ask the device until it opens the store. Runs for as long as the process.
    pub async fn unseal_with_device(self: Arc<Self>) {
        let Some(device) = self.options.device.clone() else { return };
        let mut wait = RETRY.0;
        loop {
            if self.open().is_none() && !self.seal.sealed_by_hand.load(Ordering::SeqCst) {
                match self.try_device(&device).await {
                    Ok(()) => wait = RETRY.0,
                    Err((text, retry)) => {
                        if lock(&self.seal.device_trouble).as_deref() != Some(text.as_str()) {
                            tracing::error!("{text}");
                        }
                        *lock(&self.seal.device_trouble) = Some(text);
                        if !retry {
                            // A wrong PIN is not tried again by itself: tokens lock.
                            self.seal.retry.notified().await;
                            continue;
                        }
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.seal.retry.notified() => wait = RETRY.0,
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// The device may be asked again (a share route or SIGHUP says so).
    pub fn retry_device(&self) {
        self.seal.sealed_by_hand.store(false, Ordering::SeqCst);
        self.seal.retry.notify_one();
    }

    async fn try_device(self: &Arc<Self>, device: &Arc<dyn holdfast_seal::SealDevice>) -> Result<(), (String, bool)> {
        let Some(read) = self.lock_list().map_err(|e| (e, true))? else { return Ok(()) };
        let Some(wanted) = read.list.device_lock().cloned() else {
            return Err((
                "the store has no lock of a device: unseal it with its shares, or configure seal \"shamir\"".into(),
                true,
            ));
        };
        let LockKind::Device { backend } = &wanted.kind else {
            return Err(("the lock is not a device's".into(), true));
        };
        if backend != device.backend() {
            return Err((
                format!(
                    "the store is sealed by {backend:?}, the configuration says {:?}: correct the seal stanza",
                    device.backend()
                ),
                true,
            ));
        }
        let (device, cluster_id) = (device.clone(), read.list.cluster_id);
        let opened =
            tokio::task::spawn_blocking(move || device.unwrap(&wanted, &locks::wrap_context(&cluster_id, &wanted.id)));
        let root = opened.await.map_err(|e| (e.to_string(), true))?.map_err(|e| (e.text, e.retry))?;
        let _one = self.seal.act.lock().await;
        if self.open().is_some() {
            return Ok(());
        }
        self.activate(root).await.map_err(|Refusal(_, text)| (text, true))
    }

    /// A new keyring term seals from now on.
    pub(crate) async fn rotate_keyring(self: &Arc<Self>, open: &Arc<Open>) -> Result<()> {
        let _one = self.seal.act.lock().await;
        let old = open.barrier.load_full();
        let fresh = Arc::new(old.keyring().rotated(clock::now().secs()).map_err(Error::internal)?);
        let record = fresh.seal(&open.root).map_err(Error::internal)?;
        let view = self.store.view();
        let proposal = Proposal {
            view_index: view.index(),
            reads: vec![(KEYRING.into(), view.index())],
            ranges: Vec::new(),
            writes: vec![Write::Put(KEYRING.into(), record.into())],
        };
        let ticket = self.store.propose(proposal).map_err(crate::commit_failure)?;
        ticket.committed().await.map_err(crate::commit_failure)?;
        open.barrier.store(Arc::new(Barrier::new(fresh)));
        Ok(())
    }

    /// What `-dev` starts with: a token of a chosen id, and kv v2 at `secret/`.
    pub async fn set_up_dev(
        self: &Arc<Self>,
        root_token: Option<&str>,
        mounts: &[(&str, &str, &[(&str, &str)])],
    ) -> Result<()> {
        let open = self.open().ok_or_else(|| Error::Unavailable("sealed".into()))?;
        let now = clock::now();
        self.transact(&open, |tx| {
            if let Some(id) = root_token {
                let issue = Issue {
                    policies: vec!["root".into()],
                    path: "auth/token/create".into(),
                    display_name: "token".into(),
                    ..Issue::default()
                };
                let mut entry = TokenEntry::new(issue, random::alphanumeric(24)?, now);
                tokens::store(tx, id, &mut entry)?;
            }
            for (path, kind, options) in mounts {
                let mut mount = MountEntry::new(path, false, kind)?;
                mount.description = "key/value secret storage".into();
                mount.options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                router::save(tx, &mount)?;
            }
            Ok(())
        })
        .await
    }
}

/// How long the workers wait for one another.
const SCRUB_WAIT: Duration = Duration::from_millis(500);

/// Ciphers leave key schedules on the stacks of the threads that ran them: wipe every worker's. As many
/// tasks as there are workers hold on to a worker each until all have one.
async fn scrub_workers() {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let arrived = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let arrived = arrived.clone();
        tasks.spawn(async move {
            arrived.fetch_add(1, Ordering::SeqCst);
            let begin = std::time::Instant::now();
            while arrived.load(Ordering::SeqCst) < workers && begin.elapsed() < SCRUB_WAIT {
                std::thread::sleep(Duration::from_micros(200));
            }
            scrub_deep();
        });
    }
    while tasks.join_next().await.is_some() {}
    scrub_deep();
}

/// Wipe more than 100 KiB of the stack below.
#[inline(never)]
fn scrub_deep() {
    let room = [0u8; 48 << 10];
    std::hint::black_box(&room);
    scrub_stack();
}

/// Who gets what in a sealed envelope.
struct Recipients {
    /// In the order of the shares; none: they are handed out as they are.
    shares: Vec<PublicKey>,
    root_token: Option<PublicKey>,
}

impl Recipients {
    fn seal(&self, mut made: Initialised) -> Result<Initialised, Refusal> {
        for list in [&mut made.keys, &mut made.recovery_keys] {
            for (share, key) in list.iter_mut().zip(&self.shares) {
                let text = Secret::new(hex::encode(share.expose()));
                *share = Secret::new(key.encrypt(text.expose().as_bytes()).map_err(failed)?);
            }
        }
        if let Some(key) = &self.root_token {
            let message = key.encrypt(made.root_token.expose().as_bytes()).map_err(failed)?;
            made.root_token = Secret::new(base64::engine::general_purpose::STANDARD.encode(message));
        }
        Ok(made)
    }
}

enum Plan {
    Shares(u8, u8),
    Device { shares: u8, threshold: u8, form: RecoveryForm },
}

/// Recovery shares in the chosen form, and for `authorise` the key that they make.
fn add_recovery(
    list: &mut LockList,
    root: &Key,
    (shares, threshold): (u8, u8),
    form: RecoveryForm,
    now: Timestamp,
) -> Result<(Vec<Secret<Vec<u8>>>, Option<Key>), Refusal> {
    if shares == 0 {
        return Ok((Vec::new(), None));
    }
    list.recovery = Some(Recovery { form, shares, threshold });
    match form {
        RecoveryForm::Escrow => {
            let (lock, out) =
                locks::lock_with_shares(root, &list.cluster_id, shares, threshold, 100, now.secs()).map_err(failed)?;
            list.locks.push(lock);
            Ok((out, None))
        }
        RecoveryForm::Authorise => {
            let key = Key::random(32).map_err(failed)?;
            let out = holdfast_seal::shares::split(&key, shares, threshold).map_err(failed)?;
            Ok((out, Some(key)))
        }
    }
}

/// Mounts, policies and the root token of a fresh store.
fn first_records(tx: &mut Tx, root_token: &str, now: Timestamp) -> Result<()> {
    policies::first(tx, now)?;
    let mut system = MountEntry::new("sys/", false, "system")?;
    system.description = "system endpoints used for control, policy and debugging".into();
    system.seal_wrap = true;
    system.passthrough_request_headers = vec!["Accept".into()];
    router::save(tx, &system)?;
    let mut token = MountEntry::new("token/", true, "token")?;
    token.description = "token based credentials".into();
    router::save(tx, &token)?;
    add_missing_mounts(tx)?;
    let issue = Issue {
        policies: vec!["root".into()],
        path: "auth/token/root".into(),
        display_name: "root".into(),
        ..Issue::default()
    };
    let mut entry = TokenEntry::new(issue, random::alphanumeric(24)?, now);
    tokens::store(tx, root_token, &mut entry)?;
    Ok(())
}

/// Mounts that every store has, and that one made by an earlier version lacks.
fn add_missing_mounts(tx: &mut Tx) -> Result<()> {
    let present = router::load(tx)?;
    if present.iter().any(|e| !e.auth && e.kind == "cubbyhole") {
        return Ok(());
    }
    if let Some(other) = present.iter().find(|e| !e.auth && e.path == "cubbyhole/") {
        tracing::error!(kind = %other.kind, "cubbyhole/ belongs to an engine: move it away and unseal again, or responses cannot be wrapped");
        return Ok(());
    }
    let mut cubbyhole = MountEntry::new("cubbyhole/", false, "cubbyhole")?;
    cubbyhole.description = "per-token private secret storage".into();
    cubbyhole.local = true;
    router::save(tx, &cubbyhole)
}

#[cfg(test)]
mod tests {
    use holdfast_hsm::memory::allow_unlocked;

    use super::*;
    use crate::{EngineTable, Options, SYSTEM_TTL_SECS, TtlLimits};

    #[tokio::test]
    async fn a_store_of_an_earlier_version_gets_its_cubbyhole_when_it_is_unsealed() {
        allow_unlocked();
        let core = Core::new(Options {
            store: holdfast_storage::Store::open_on(None, 1 << 20).unwrap(),
            engines: EngineTable { secrets: &[], auth: &[] },
            device: None,
            storage_type: "inmem".into(),
            audit: Vec::new(),
            limits: TtlLimits { default_secs: SYSTEM_TTL_SECS, max_secs: SYSTEM_TTL_SECS },
            cluster_name: None,
            max_entry_bytes: 1 << 20,
        });
        let request = InitRequest { secret_shares: 1, secret_threshold: 1, ..InitRequest::default() };
        let key = core.initialise(&request).await.unwrap().keys.pop().unwrap();
        let share = || Secret::new(key.expose().clone());
        core.unseal_share(share()).await.unwrap();
        let open = core.open().unwrap();
        let forget = |tx: &mut Tx| {
            let cubbyhole = router::load(tx)?.into_iter().find(|e| e.kind == "cubbyhole").unwrap();
            router::forget(tx, &cubbyhole)
        };
        core.transact(&open, forget).await.unwrap();
        assert!(core.router(&open).unwrap().find("cubbyhole/x").is_none());
        drop(open);
        core.seal_now().await;
        core.unseal_share(share()).await.unwrap();
        let open = core.open().unwrap();
        let router = core.router(&open).unwrap();
        let (mount, _) = router.find("cubbyhole/x").unwrap();
        assert_eq!((mount.entry.kind.as_str(), mount.scope), ("cubbyhole", crate::layout::CUBBYHOLE));
    }
}
