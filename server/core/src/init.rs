//! Initialising: the first locks, keys and records of a store, and who gets what of them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use holdfast_hsm::memory::{Key, Secret};
use holdfast_pgp::PublicKey;
use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};
use holdfast_seal::locks::{LockList, Minimum, Recovery, RecoveryForm};
use holdfast_seal::{Barrier, Entropy, Keyring, Lock, locks};
use holdfast_storage::{Proposal, Write, level};

use crate::ceremony::authority;
use crate::layout::{KEYRING, LOCKS, SETTINGS, STORE};
use crate::router::{self, MountEntry};
use crate::seal_state::{Refusal, add_missing_mounts, failed, refuse};
use crate::seals::Seal;
use crate::tokens::{self, Issue, TokenEntry};
use crate::tx::Tx;
use crate::{Core, clock, policies, random};

/// How long the first member of a cluster may take to lead it.
const LEAD_WITHIN: Duration = Duration::from_secs(10);

/// Parameters of `sys/init`.
#[derive(Debug, Default, Clone)]
pub struct InitRequest {
    pub secret_shares: i64,
    pub secret_threshold: i64,
    pub recovery_shares: i64,
    pub recovery_threshold: i64,
    pub recovery_form: Option<String>,
    /// The least that each lock of the store has to be: `any`, `device`, `device+quorum`.
    pub minimum_lock: Option<String>,
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

impl Core {
    /// `sys/init`. With a device the server unseals itself afterwards.
    pub async fn initialise(self: &Arc<Self>, request: &InitRequest) -> Result<Initialised, Refusal> {
        let _one = self.seal.act.lock().await;
        let plan = self.check_init(request)?;
        let minimum = self.check_minimum(request, &plan)?;
        let recipients = self.init_keys(request, &plan)?;
        if self.is_initialised().map_err(failed)? {
            return refuse("Vault is already initialized");
        }
        self.lead_to_initialise().await?;
        let now = clock::now();
        let cluster_id = random::uuid().map_err(failed)?;
        let entropy = self.entropy().await?;
        let root = entropy.key(32).map_err(failed)?;
        let mut list = LockList {
            cluster_id,
            cluster_name: match &self.options.cluster_name {
                Some(n) => n.clone(),
                None => format!("holdfast-cluster-{}", hex::encode(random::bytes::<4>().map_err(failed)?)),
            },
            generation: 1,
            minimum,
            locks: Vec::new(),
            recovery: None,
        };
        match plan {
            Plan::Shares(shares, threshold) => {
                let (lock, keys) =
                    locks::lock_with_shares(&root, &cluster_id, shares, threshold, 0, now.secs()).map_err(failed)?;
                list.locks.push(lock);
                let root_token = self.write_first(&root, &list, None, (&entropy, now)).await?;
                recipients.seal(Initialised { keys, recovery_keys: Vec::new(), root_token })
            }
            Plan::Device { shares, threshold, form } => {
                self.try_rollback_counter().await?;
                for seal in &self.seals().present {
                    // A store is not begun with a way to it that does not open.
                    let lock = self.device_lock(seal, &root, cluster_id, now).await?;
                    list.minimum.allows(&lock).map_err(|why| Refusal(400, why))?;
                    list.locks.push(lock);
                }
                let (recovery_keys, verifier) =
                    add_recovery(&mut list, &root, (shares, threshold), form, (&entropy, now))?;
                let root_token = self.write_first(&root, &list, verifier, (&entropy, now)).await?;
                self.unlock(root, None, "the store was initialised").await?;
                recipients.seal(Initialised { keys: Vec::new(), recovery_keys, root_token })
            }
        }
    }

    /// The node that initialises a cluster is its first member, and the active one for that moment.
    pub(crate) async fn lead_to_initialise(&self) -> Result<(), Refusal> {
        let Some(cluster) = &self.options.cluster else { return Ok(()) };
        if !cluster.is_member() {
            cluster.found().await.map_err(failed)?;
        }
        let leads = async {
            loop {
                let lead = cluster.lead();
                if lead.here {
                    return lead.term;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let Ok(term) = tokio::time::timeout(LEAD_WITHIN, leads).await else {
            return Err(Refusal(503, "this node does not lead its cluster: initialise it at the one that does".into()));
        };
        self.store.take_over(term).await.map_err(failed)
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

    fn check_init(&self, r: &InitRequest) -> Result<Plan, Refusal> {
        if !self.has_device() {
            if r.recovery_form.is_some() {
                return refuse("parameters recovery_form not applicable to seal type shamir");
            }
            if r.recovery_shares != 0 || r.recovery_threshold != 0 {
                return refuse("parameters recovery_shares,recovery_threshold not applicable to seal type shamir");
            }
            let (n, t) = check_shares(r.secret_shares, r.secret_threshold)?;
            return Ok(Plan::Shares(n, t));
        }
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

    /// The least that locks have to be, which those of the configuration must be too.
    fn check_minimum(&self, r: &InitRequest, plan: &Plan) -> Result<Minimum, Refusal> {
        let word = r.minimum_lock.as_deref().unwrap_or("any");
        let Some(minimum) = Minimum::parse(word) else {
            return refuse(format!("minimum_lock {word:?}: any, device and device+quorum are possible"));
        };
        let allowed = match plan {
            Plan::Shares(..) => minimum.allows_backend("shamir"),
            Plan::Device { form: RecoveryForm::Escrow, shares: 1.., .. } if minimum != Minimum::Any => {
                Err(format!("minimum_lock {word:?}: escrowed recovery shares open the store without a device"))
            }
            Plan::Device { .. } => {
                self.seals().present.iter().try_for_each(|seal| minimum.allows_backend(seal.device.backend()))
            }
        };
        allowed.map(|()| minimum).map_err(|why| Refusal(400, why))
    }

    /// Let a seal's device wrap the root key, and open it again to prove it.
    pub(crate) async fn device_lock(
        &self,
        seal: &Seal,
        root: &Key,
        cluster_id: [u8; 16],
        now: Timestamp,
    ) -> Result<Lock, Refusal> {
        let id: [u8; 16] = random::bytes().map_err(failed)?;
        let root = root.try_clone().map_err(failed)?;
        let worked = seal.ask(move |device| {
            let lock = locks::lock_with_device(&root, device, &cluster_id, id, now.secs())?;
            if lock.needs_custodians() {
                // They are not here; the device has tried its part without them.
                return Ok(Some(lock));
            }
            let again = device.unwrap(&lock, &locks::wrap_context(&cluster_id, &id))?;
            Ok(again.ct_eq(root.expose()).then_some(lock))
        });
        let named = |text: String| match &seal.name {
            Some(name) => format!("seal {name:?}: {text}"),
            None => text,
        };
        match worked.await.map_err(|e| Refusal(500, named(e.text)))? {
            Some(lock) => {
                Ok(Lock { proved: !lock.needs_custodians(), name: seal.name.clone(), priority: seal.priority, ..lock })
            }
            None => Err(failed(named("the device does not give back what it wrapped; it is not used".into()))),
        }
    }

    /// Everything a fresh store holds, in one commit.
    async fn write_first(
        self: &Arc<Self>,
        root: &Key,
        list: &LockList,
        verifier: Option<Key>,
        (entropy, now): (&Entropy, Timestamp),
    ) -> Result<Secret<String>, Refusal> {
        let keyring = Arc::new(Keyring::generate_from(entropy, list.cluster_id, now.secs()).map_err(failed)?);
        let barrier = Barrier::new(keyring.clone());
        let mut tx = Tx::new(self.store.view(), barrier.clone());
        let token = tokens::new_root_service_id().map_err(failed)?;
        first_records(&mut tx, &token, now).map_err(failed)?;
        if let Some(key) = verifier {
            let check = authority::verifier(&barrier, &key).map_err(failed)?;
            tx.within(STORE, |tx| tx.put(Place::Ordered(SETTINGS, authority::VERIFIER), check)).map_err(failed)?;
        }
        let mut proposal: Proposal = tx.into_proposal().map_err(failed)?;
        proposal.writes.push(Write::Put(LOCKS.into(), list.encode(root).map_err(failed)?.into()));
        proposal.writes.push(Write::Put(level::LEVEL_KEY.into(), level::value(level::known())));
        proposal.writes.push(Write::Put(KEYRING.into(), keyring.seal(root).map_err(failed)?.into()));
        let ticket = self.store.propose(proposal).map_err(failed)?;
        ticket.committed().await.map_err(failed)?;
        self.store.stand_by();
        tracing::info!(cluster = %list.cluster_name, "the store is initialised");
        Ok(Secret::new(token))
    }

    /// What `-dev` starts with: a token of a chosen id, and kv v2 at `secret/`.
    pub async fn set_up_dev(
        self: &Arc<Self>,
        first: &Secret<String>,
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
                let mut entry = TokenEntry::new(issue, tokens::new_accessor(tx)?, now);
                tokens::store(tx, id, &mut entry)?;
                // The one that nobody was told of.
                if let Some(first) = tokens::id_of(tx, first.expose())? {
                    tokens::revoke_tree(tx, &first)?;
                }
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

fn check_shares(shares: i64, threshold: i64) -> Result<(u8, u8), Refusal> {
    counts(shares, threshold).map_err(|text| Refusal(400, format!("invalid seal configuration: {text}")))
}

/// Shares and how many of them are needed, if that is possible.
pub(crate) fn counts(shares: i64, threshold: i64) -> Result<(u8, u8), &'static str> {
    match (u8::try_from(shares), u8::try_from(threshold)) {
        _ if shares < 1 => Err("shares must be at least one"),
        _ if threshold < 1 => Err("threshold must be at least one"),
        (Err(_), _) => Err("shares must be less than 256"),
        (Ok(n), Ok(t)) if t <= n => match (n, t) {
            (2.., 1) => Err("threshold must be greater than one for multiple shares"),
            both => Ok(both),
        },
        _ => Err("threshold cannot be larger than shares"),
    }
}

enum Plan {
    Shares(u8, u8),
    Device { shares: u8, threshold: u8, form: RecoveryForm },
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

/// Recovery shares in the chosen form, and for `authorise` the key that they make.
fn add_recovery(
    list: &mut LockList,
    root: &Key,
    (shares, threshold): (u8, u8),
    form: RecoveryForm,
    (entropy, now): (&Entropy, Timestamp),
) -> Result<(Vec<Secret<Vec<u8>>>, Option<Key>), Refusal> {
    if shares == 0 {
        return Ok((Vec::new(), None));
    }
    list.recovery = Some(Recovery { form, shares, threshold });
    let key = entropy.key(32).map_err(failed)?;
    let out = holdfast_seal::shares::split(&key, shares, threshold).map_err(failed)?;
    match form {
        RecoveryForm::Escrow => {
            let lock = locks::lock_with_key(root, &key, &list.cluster_id, (shares, threshold), 100, now.secs());
            list.locks.push(lock.map_err(failed)?);
            Ok((out, None))
        }
        RecoveryForm::Authorise => Ok((out, Some(key))),
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
    self::root_token(tx, root_token, now)
}

/// Store a root token of the present namespace, which has no parent.
pub(crate) fn root_token(tx: &mut Tx, token: &str, now: Timestamp) -> Result<()> {
    let issue = Issue {
        policies: vec!["root".into()],
        path: "auth/token/root".into(),
        display_name: "root".into(),
        ..Issue::default()
    };
    let mut entry = TokenEntry::new(issue, tokens::new_accessor(tx)?, now);
    tokens::store(tx, token, &mut entry)?;
    Ok(())
}
