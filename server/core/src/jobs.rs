//! Jobs: what may touch many keys. A stored record made in the commit that takes the thing out of
//! service, worked off in bounded batches, resumed at unseal, seen at `sys/jobs`.

use std::time::Duration;

use holdfast_sdk::{Error, Map, Place, Result, Timestamp, TokenId, Transaction, Value, record};
use minicbor::{Decode, Encode};

use crate::audit::Act;
use crate::layout::{JOBS, MOUNTS, NamespaceId, ROOT, STORE, SYSTEM, Scope};
use crate::namespaces::{self, Ended, seal};
use crate::router::{Handler, MountEntry, Router};
use crate::tx::{Effect, Tx};
use crate::{Core, Open, clock, cubbyhole, intents, leases, moves, random, tokens};

/// Keys that one batch of a job changes.
const BATCH_KEYS: usize = 256;

#[derive(Debug, Clone, Encode, Decode)]
pub enum Kind {
    /// Remove everything that a mount stored.
    #[n(0)]
    CleanMount {
        #[cbor(n(0), with = "minicbor::bytes")]
        mount: [u8; 16],
        #[n(1)]
        path: String,
        /// As it was mounted: what it made outside is undone through it. Earlier versions did not keep it.
        #[n(2)]
        entry: Option<Box<MountEntry>>,
        /// How far its leases have been told to end.
        #[cbor(n(3), with = "minicbor::bytes")]
        #[cbor(default)]
        cursor: Vec<u8>,
    },
    /// Revoke the children of a token that is gone.
    #[n(1)]
    RevokeChildren {
        #[cbor(n(0), with = "minicbor::bytes")]
        parent: [u8; 32],
    },
    /// Delete what is left in the cubbyhole of a token that is gone.
    #[n(2)]
    CleanCubbyhole {
        #[cbor(n(0), with = "minicbor::bytes")]
        token: [u8; 32],
    },
    /// Change what an engine's earlier version stored in a mount.
    #[n(3)]
    UpgradeMount {
        #[cbor(n(0), with = "minicbor::bytes")]
        mount: [u8; 16],
        #[n(1)]
        path: String,
        /// Where the next batch begins.
        #[cbor(n(2), with = "minicbor::bytes")]
        cursor: Vec<u8>,
    },
    /// Take the parent from the children of a token that was revoked without them.
    #[n(4)]
    OrphanChildren {
        #[cbor(n(0), with = "minicbor::bytes")]
        parent: [u8; 32],
    },
    /// Look for records of tokens that are gone.
    #[n(5)]
    TidyTokens {
        /// The table that is looked through.
        #[n(0)]
        table: u8,
        /// Where the next batch begins.
        #[cbor(n(1), with = "minicbor::bytes")]
        cursor: Vec<u8>,
    },
    /// Revoke what has leases below a path, as it was at a time.
    #[n(6)]
    RevokeLeases {
        #[n(0)]
        folder: String,
        /// Unix time in nanoseconds.
        #[n(1)]
        before: u64,
        /// Where the next batch begins. Earlier versions began anew each time.
        #[cbor(n(2), with = "minicbor::bytes")]
        #[cbor(default)]
        cursor: Vec<u8>,
        /// The leases are only forgotten.
        #[n(3)]
        #[cbor(default)]
        forget: bool,
    },
    /// End the leases of a token that is gone.
    #[n(7)]
    EndLeasesOfToken {
        #[cbor(n(0), with = "minicbor::bytes")]
        token: [u8; 32],
    },
    /// End all that is in a namespace that was deleted: the one that the job works in.
    #[n(8)]
    EndNamespace {
        #[n(0)]
        path: String,
    },
    /// Delete what a sealed namespace keeps, unread.
    #[n(9)]
    WipeNamespace {
        #[n(0)]
        path: String,
    },
    /// Put back what became due while a namespace was sealed, by the number of its keyring.
    #[n(10)]
    TakeUpParked {
        #[n(0)]
        number: u32,
    },
    /// Bring a mount to another namespace: out of the one that the job works in.
    #[n(11)]
    MoveMount(#[n(0)] Box<moves::Move>),
}

impl Kind {
    pub fn clean_mount(entry: &MountEntry) -> Kind {
        Kind::CleanMount {
            mount: entry.uuid,
            path: entry.full_path(),
            entry: Some(Box::new(entry.clone())),
            cursor: Vec::new(),
        }
    }

    pub fn tidy_tokens() -> Kind {
        Kind::TidyTokens { table: tokens::TIDIED_FIRST, cursor: Vec::new() }
    }

    pub fn word(&self) -> &'static str {
        match self {
            Kind::CleanMount { .. } => "clean-mount",
            Kind::RevokeChildren { .. } => "revoke-children",
            Kind::CleanCubbyhole { .. } => "clean-cubbyhole",
            Kind::UpgradeMount { .. } => "upgrade-mount",
            Kind::OrphanChildren { .. } => "orphan-children",
            Kind::TidyTokens { .. } => "tidy-tokens",
            Kind::RevokeLeases { forget: true, .. } => "forget-leases",
            Kind::RevokeLeases { .. } => "revoke-leases",
            Kind::EndLeasesOfToken { .. } => "end-leases-of-token",
            Kind::EndNamespace { .. } => "end-namespace",
            Kind::WipeNamespace { .. } => "wipe-namespace",
            Kind::TakeUpParked { .. } => "take-up-parked",
            Kind::MoveMount(_) => "move-mount",
        }
    }

    /// What made it necessary.
    fn cause(&self) -> &'static str {
        match self {
            Kind::CleanMount { .. } => "a mount was disabled: what it stored and made is gone",
            Kind::RevokeChildren { .. } => "a token ended: its children end with it",
            Kind::CleanCubbyhole { .. } => "a token ended: its cubbyhole is gone",
            Kind::UpgradeMount { .. } => "a mount was upgraded",
            Kind::OrphanChildren { .. } => "a token was revoked without its children",
            Kind::TidyTokens { .. } => "tokens were to be tidied",
            Kind::RevokeLeases { forget: true, .. } => "leases were to be forgotten",
            Kind::RevokeLeases { .. } => "leases were to be revoked",
            Kind::EndLeasesOfToken { .. } => "a token ended: its leases end with it",
            Kind::EndNamespace { .. } => "a namespace was deleted",
            Kind::WipeNamespace { .. } => "a namespace was deleted while it was sealed",
            Kind::TakeUpParked { .. } => "a namespace was unsealed: what was due meanwhile is due again",
            Kind::MoveMount(_) => "a mount was to be moved to another namespace",
        }
    }

    /// What it works at.
    fn path(&self) -> Option<&str> {
        match self {
            Kind::CleanMount { path, .. }
            | Kind::UpgradeMount { path, .. }
            | Kind::EndNamespace { path }
            | Kind::WipeNamespace { path }
            | Kind::RevokeLeases { folder: path, .. } => Some(path),
            Kind::MoveMount(mv) => Some(&mv.from),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Encode, Decode)]
pub struct Job {
    #[n(0)]
    pub kind: Kind,
    #[n(1)]
    pub created: u64,
    #[n(2)]
    pub batches: u64,
    /// Why the last batch failed; it is tried again.
    #[n(3)]
    pub last_error: Option<String>,
    /// Where it works; none: in the root namespace.
    #[cbor(n(4), with = "minicbor::bytes")]
    #[cbor(default)]
    namespace: Option<NamespaceId>,
}
holdfast_sdk::record!(Job);

impl Job {
    /// It is done, as the audit log tells it.
    pub fn done(&self, id: &[u8; 16]) -> Act {
        let act = Act::new("delete", format!("sys/jobs/{}", random::uuid_text(id)), self.kind.cause());
        let act = act.within(self.namespace()).plain("kind", self.kind.word());
        let act = act.plain("created_time", &Timestamp::from_secs(self.created).rfc3339());
        match self.kind.path() {
            Some(path) => act.plain("path", path),
            None => act,
        }
    }

    pub fn namespace(&self) -> NamespaceId {
        self.namespace.unwrap_or(ROOT)
    }

    /// It needs nothing of its namespace to be read.
    pub fn is_blind(&self) -> bool {
        matches!(self.kind, Kind::WipeNamespace { .. })
    }

    /// It ends the namespace of a path, or one in it.
    pub fn ends_namespace_in(&self, path: &str) -> bool {
        matches!(&self.kind, Kind::EndNamespace { path: of } if of.starts_with(path))
    }
}

/// Store a job for the present namespace; it starts when the transaction is committed. Returns its id.
pub fn add(tx: &mut Tx, kind: Kind) -> Result<[u8; 16]> {
    add_in(tx, tx.namespace(), kind)
}

/// Store a job for a namespace.
pub fn add_in(tx: &mut Tx, namespace: NamespaceId, kind: Kind) -> Result<[u8; 16]> {
    let id: [u8; 16] = random::uuid()?;
    let namespace = Some(namespace).filter(|n| *n != ROOT);
    let job = Job { kind, created: clock::now().secs(), batches: 0, last_error: None, namespace };
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(JOBS, &id), &job))?;
    tx.effect(Effect::RunJobs);
    Ok(id)
}

/// How long an answer waits for what goes on behind: as long as the reference lets a request take.
pub const LONGEST_WAIT: Duration = Duration::from_secs(90);
/// How often a job is looked at that nobody has told to be done.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Wait until a job is done. False: it was not within the time, or the server was sealed meanwhile.
pub async fn done(core: &Core, open: &Open, id: &[u8; 16]) -> Result<bool> {
    let wait = async {
        loop {
            let told = core.job_done.notified();
            tokio::pin!(told);
            // From here on nothing is missed.
            told.as_mut().enable();
            let mut tx = Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
            if tx.within(STORE, |tx| tx.get(Place::Ordered(JOBS, id)))?.is_none() {
                return Ok(true);
            }
            drop(tx);
            let _either_way_it_is_looked_at = tokio::time::timeout(LOOK_AGAIN, told).await;
        }
    };
    tokio::select! {
        () = core.closing(open) => Ok(false),
        outcome = tokio::time::timeout(LONGEST_WAIT, wait) => outcome.unwrap_or(Ok(false)),
    }
}

/// All jobs that are not done, at most 1,000.
pub fn list(tx: &mut Tx) -> Result<Vec<([u8; 16], Job)>> {
    let found = tx.within(STORE, |tx| tx.ordered(JOBS, &[], &[], 1000))?;
    found
        .into_iter()
        .map(|(id, bytes)| {
            let id = id.try_into().map_err(|_| Error::Internal("a job's key is broken".into()))?;
            Ok((id, record::read(&bytes)?))
        })
        .collect()
}

/// A mount that was disabled and is not cleaned up yet.
pub fn disabled_mount(tx: &mut Tx, mount: &[u8; 16]) -> Result<Option<MountEntry>> {
    Ok(list(tx)?.into_iter().find_map(|(_, job)| match job.kind {
        Kind::CleanMount { mount: of, entry, .. } if of == *mount => entry.map(|e| *e),
        _ => None,
    }))
}

/// Forget a job.
pub fn forget(tx: &mut Tx, id: &[u8; 16]) -> Result<()> {
    tx.within(STORE, |tx| tx.delete(Place::Ordered(JOBS, id)))
}

/// How far one batch has brought a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is done and forgotten.
    Done,
    More,
    /// Something else has to happen first; its record says what.
    Waits,
}

/// Work off one batch.
pub fn step(core: &Core, tx: &mut Tx, router: &Router, id: &[u8; 16]) -> Result<Step> {
    tx.enter(STORE);
    let Some(mut job) = tx.within(STORE, |tx| record::get::<Job>(tx, Place::Ordered(JOBS, id)))? else {
        return Ok(Step::Done);
    };
    let namespace = job.namespace();
    tx.enter(SYSTEM.of(namespace));
    let token = |own: &[u8; 32]| TokenId { namespace, own: *own };
    let more = match &mut job.kind {
        Kind::CleanMount { mount, entry, cursor, .. } => 'done: {
            if leases::end_of_mount(tx, mount, cursor)? {
                break 'done true;
            }
            if let Some((_, intent)) = intents::of_mount(tx, mount, 1)?.first() {
                let why =
                    format!("waits until what it made outside is undone, {:?} among it: see sys/intents", intent.name);
                note_failure(tx, id, &why)?;
                return Ok(Step::Waits);
            }
            clean_mount(core, tx, Scope::mount(namespace, *mount), entry.as_deref())?
        }
        Kind::RevokeChildren { parent } => tokens::revoke_children(tx, &token(parent))?,
        Kind::CleanCubbyhole { token: of } => cubbyhole::clean(tx, &token(of), BATCH_KEYS)?,
        Kind::UpgradeMount { mount, cursor, .. } => upgrade_mount(tx, router, mount, cursor)?,
        Kind::OrphanChildren { parent } => tokens::let_children_go(tx, &token(parent))?,
        Kind::RevokeLeases { folder, before, cursor, forget } => {
            let how = if *forget { leases::How::Forget } else { leases::How::Revoke };
            leases::end_below(tx, folder, how, Timestamp(*before), cursor)?
        }
        Kind::EndLeasesOfToken { token: of } => leases::end_rest_of_token(tx, &token(of))?,
        Kind::WipeNamespace { .. } => seal::wipe_some(tx, &namespace, BATCH_KEYS)?,
        Kind::TakeUpParked { number } => seal::take_up_parked(tx, *number)?,
        Kind::MoveMount(mv) => match moves::step(core, tx, mv)? {
            moves::Progress::Done => false,
            moves::Progress::More => true,
            moves::Progress::Waits(why) => {
                note_failure(tx, id, &why)?;
                return Ok(Step::Waits);
            }
        },
        Kind::EndNamespace { .. } => match namespaces::end_some(tx, namespace)? {
            Ended::All => false,
            Ended::Some => true,
            Ended::Waits => {
                note_failure(tx, id, "waits until its mounts are cleaned up: see the other jobs")?;
                return Ok(Step::Waits);
            }
        },
        Kind::TidyTokens { table, cursor } => tokens::tidy(tx, table, cursor, BATCH_KEYS, core.clock.cluster())?,
    };
    job.batches += 1;
    job.last_error = None;
    tx.within(STORE, |tx| match more {
        true => record::put(tx, Place::Ordered(JOBS, id), &job),
        false => tx.delete(Place::Ordered(JOBS, id)),
    })?;
    Ok(if more { Step::More } else { Step::Done })
}

/// First the engine tidies up, then its records go. True: there may be more.
fn clean_mount(core: &Core, tx: &mut Tx, scope: Scope, entry: Option<&MountEntry>) -> Result<bool> {
    if let Some(entry) = entry {
        let engine = core.backend(entry)?;
        if tx.within(scope, |tx| engine.clean(tx))? {
            return Ok(true);
        }
    }
    tx.delete_prefix(&scope.prefix(), BATCH_KEYS)
}

/// A batch of an upgrade. False: all is done, or the mount is gone.
fn upgrade_mount(tx: &mut Tx, router: &Router, mount: &[u8; 16], cursor: &mut Vec<u8>) -> Result<bool> {
    // Read in this transaction: a mount that is disabled meanwhile gets nothing written to it.
    if tx.within(SYSTEM, |tx| tx.get(Place::Ordered(MOUNTS, mount)))?.is_none() {
        return Ok(false);
    }
    let not_yet = || Error::Unavailable("the mount is not in service yet".into());
    let found = router.mounts().find(|m| m.entry.uuid == *mount).ok_or_else(not_yet)?;
    let Handler::Engine(backend) = &found.handler else { return Ok(false) };
    match tx.within(found.scope, |tx| backend.upgrade(tx, cursor))? {
        Some(next) => {
            *cursor = next;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Keep why a job's last batch failed, for whoever looks at `sys/jobs`.
pub fn note_failure(tx: &mut Tx, id: &[u8; 16], error: &str) -> Result<()> {
    tx.within(STORE, |tx| match record::get::<Job>(tx, Place::Ordered(JOBS, id))? {
        Some(mut job) if job.last_error.as_deref() != Some(error) => {
            job.last_error = Some(error.to_owned());
            record::put(tx, Place::Ordered(JOBS, id), &job)
        }
        _ => Ok(()),
    })
}

/// A job as `sys/jobs` shows it.
pub fn shown(id: &[u8; 16], job: &Job) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("id".into(), random::uuid_text(id).into());
    out.insert("kind".into(), job.kind.word().into());
    out.insert("created_time".into(), holdfast_sdk::Timestamp::from_secs(job.created).rfc3339().into());
    out.insert("batches".into(), job.batches.into());
    out.insert("last_error".into(), job.last_error.clone().map_or(Value::Null, Value::from));
    if let Some(path) = job.kind.path() {
        out.insert("path".into(), path.into());
    }
    if let Kind::MoveMount(mv) = &job.kind {
        out.insert("target".into(), mv.to.clone().into());
    }
    out
}
