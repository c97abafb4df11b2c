//! Recovery mode: a server that only repairs its store. It mounts nothing, ends nothing that is due, and is no member of
//! its cluster, so that what keeps it from starting as usual can be taken away by `sys/raw`.
//!
//! Holders of the store's shares make a token for it (`sys/generate-recovery-token`), which is kept in memory alone and
//! ends with the process. There are no audit devices; what is done stands in the server's log, and what is changed in the
//! store as well, in the same commit: the next unseal tells the audit log of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Error, Map, Operation, Request, Response, Result, Value};
use holdfast_seal::{Barrier, Keyring};

use super::authority::required;
use super::generation::{Attempt, Cover, Generation, Made};
use super::{Gathering, bytes_of};
use crate::audit::{Act, untold};
use crate::layout::KEYRING;
use crate::old_routes::attempt;
use crate::router::Router;
use crate::seal_state::{Refusal, failed, refuse};
use crate::sys::raw;
use crate::tx::Tx;
use crate::{Answer, Core, RecoveryStore, commit_failure, random};

/// Letters of a recovery token behind its prefix.
const LETTERS: usize = 24;
const PREFIX: &str = "hvr.";
const TOKEN_BYTES: usize = PREFIX.len() + LETTERS;

pub(crate) struct RecoveryMode {
    store: RecoveryStore,
    /// One share at a time.
    act: tokio::sync::Mutex<()>,
    under_way: Mutex<Option<Generation>>,
    opened: Mutex<Option<Arc<Opened>>>,
}

/// What there is when enough holders have agreed.
struct Opened {
    barrier: Barrier,
    token: Arc<Secret<String>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RecoveryMode {
    pub fn new(store: RecoveryStore) -> RecoveryMode {
        RecoveryMode {
            store,
            act: tokio::sync::Mutex::default(),
            under_way: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// What was opened, to whom has the token.
    fn opened_for(&self, token: Option<&Secret<String>>) -> Option<Arc<Opened>> {
        let opened = lock(&self.opened).clone()?;
        // In a time that does not tell how much of a wrong one was right.
        token.is_some_and(|t| opened.token.ct_eq(t.expose())).then_some(opened)
    }
}

impl Core {
    pub fn is_in_recovery_mode(&self) -> bool {
        self.recovery_mode.is_some()
    }

    /// Forget the keys of recovery mode: the process ends.
    pub fn end_recovery_mode(&self) {
        if let Some(mode) = &self.recovery_mode {
            *lock(&mode.under_way) = None;
            *lock(&mode.opened) = None;
        }
    }

    /// The answer to a request in recovery mode; `None`: it has no such route.
    pub async fn recover(self: &Arc<Self>, request: &Request) -> Option<Answer> {
        let mode = self.recovery_mode.as_ref()?;
        let said = match request.path.strip_prefix("sys/")? {
            "generate-recovery-token/attempt" => match request.operation {
                Operation::Read => self.recovery_attempt(mode),
                Operation::Update => self.begin_recovery_attempt(mode, &request.data),
                Operation::Delete => {
                    *lock(&mode.under_way) = None;
                    return Some(Answer::json(204, Vec::new()));
                }
                _ => return Some(Answer::errors(405, &[])),
            },
            "generate-recovery-token/update" if request.operation == Operation::Update => {
                self.give_recovery_share(mode, &request.data).await
            }
            "generate-recovery-token/update" => return Some(Answer::errors(405, &[])),
            rest => {
                let path = rest.strip_prefix("raw").filter(|p| p.is_empty() || p.starts_with('/'))?;
                let Some(opened) = mode.opened_for(request.token.as_ref()) else {
                    return Some(Answer::errors(403, &[]));
                };
                let answer = self.raw_in_recovery_mode(mode, &opened, request, path.trim_start_matches('/')).await;
                return Some(match answer {
                    Ok(response) => Answer::success(response, &request.id, "system"),
                    Err(e) => Answer::failure(&e),
                });
            }
        };
        Some(match said {
            Ok(shown) => Answer::bare(200, &attempt(&shown, shown.token_bytes)),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        })
    }

    /// How many shares it takes; they are those that the store's seal asks for.
    fn recovery_required(&self) -> Result<u8, Refusal> {
        match self.lock_list().map_err(failed)? {
            Some(read) => Ok(required(&read.list)),
            None => refuse("Vault is not initialized"),
        }
    }

    fn recovery_attempt(&self, mode: &RecoveryMode) -> Result<Attempt, Refusal> {
        let required = self.recovery_required()?;
        Ok(match &*lock(&mode.under_way) {
            Some(generation) => generation.attempt(required, TOKEN_BYTES),
            None => Attempt { required, token_bytes: TOKEN_BYTES, ..Attempt::default() },
        })
    }

    fn begin_recovery_attempt(&self, mode: &RecoveryMode, data: &Map<String, Value>) -> Result<Attempt, Refusal> {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or("");
        let required = self.recovery_required()?;
        if lock(&mode.opened).is_some() {
            return refuse("attempted to generate recovery operation token when already unsealed");
        }
        if required == 0 {
            return refuse("the store was initialised without shares that could authorise this");
        }
        let (cover, shown) = Cover::of(text("otp"), text("pgp_key"), TOKEN_BYTES)?;
        let mut under_way = lock(&mode.under_way);
        if under_way.is_some() {
            return refuse("root generation already in progress for this namespace");
        }
        let generation = Generation { gathering: Gathering::new()?, cover };
        let begun = Attempt { otp: shown, ..generation.attempt(required, TOKEN_BYTES) };
        *under_way = Some(generation);
        Ok(begun)
    }

    async fn give_recovery_share(&self, mode: &RecoveryMode, data: &Map<String, Value>) -> Result<Attempt, Refusal> {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or("");
        let share = bytes_of(text("key")).filter(|share| !share.expose().is_empty());
        let Some(share) = share else { return refuse("'key' must be a valid hex or base64 string") };
        let _one = mode.act.lock().await;
        let required = self.recovery_required()?;
        let given = {
            let mut under_way = lock(&mode.under_way);
            let Some(generation) = &mut *under_way else { return refuse("no root generation in progress") };
            if generation.gathering.nonce != text("nonce") {
                let right = &generation.gathering.nonce;
                return refuse(format!(
                    "incorrect nonce supplied; nonce for this root generation operation is {right:?}"
                ));
            }
            match generation.gathering.add(share, required, "generation operation")? {
                None => return Ok(generation.attempt(required, 0)),
                Some(given) => given,
            }
        };
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        let (root, _) = self
            .open_by_holders(&read, &given)
            .await
            .map_err(|Refusal(status, text)| Refusal(status, format!("root generation aborted: {text}")))?;
        let record = self.store.snapshot().get(KEYRING).map_err(failed)?;
        let record = record.ok_or_else(|| failed("the keyring is missing: restore the store from a backup"))?;
        let keyring = Keyring::open(&record, &root, read.list.cluster_id).map_err(failed)?;
        let token = Arc::new(Secret::new(format!("{PREFIX}{}", random::alphanumeric(LETTERS).map_err(failed)?)));
        let Some(generation) = lock(&mode.under_way).take() else { return refuse("no root generation in progress") };
        let made = Made { token: token.clone(), encoded: generation.cover.over(&token)? };
        *lock(&mode.opened) = Some(Arc::new(Opened { barrier: Barrier::new(Arc::new(keyring)), token }));
        tracing::warn!("a recovery token was made by shares: entries of the store can be read and written with it");
        Ok(Attempt { given: usize::from(required), made: Some(made), ..generation.attempt(required, 0) })
    }

    async fn raw_in_recovery_mode(
        &self,
        mode: &RecoveryMode,
        opened: &Opened,
        request: &Request,
        path: &str,
    ) -> Result<Response> {
        // What is mounted may be what is broken: nothing of it is read.
        let (router, data) = (Router::unread(), &request.data);
        let operation = request.operation;
        let written = operation.writes();
        if let (true, RecoveryStore::ReadOnly(why)) = (written, &mode.store) {
            return Err(Error::bad_request(why.clone()));
        }
        tracing::warn!(?operation, path, "an entry of the store is asked for in recovery mode");
        if let (true, Some(cluster)) = (written, &self.options.cluster) {
            // A node that is alone in its cluster leads it; what is read from then on counts.
            cluster.may_lead(true);
            self.lead_to_initialise().await?;
        }
        let mut tx = match written {
            true => Tx::new(self.store.view(), opened.barrier.clone()),
            false => Tx::read_only(self.store.view(), opened.barrier.clone()),
        };
        let response = match operation {
            Operation::Read => raw::read_at(&mut tx, &router, path, holdfast_sdk::Parameters::parse(data)?)?,
            Operation::List => raw::list_at(&mut tx, &router, path, holdfast_sdk::Parameters::parse(data)?)?,
            Operation::Update | Operation::Create => {
                raw::write_at(&mut tx, &router, path, holdfast_sdk::Parameters::parse(data)?)?
            }
            Operation::Delete => raw::delete_at(&mut tx, &router, path)?,
            _ => return Err(Error::UnsupportedOperation),
        };
        if written {
            let operation = if operation == Operation::Delete { "delete" } else { "update" };
            let cause =
                "somebody with a recovery token, which holders of shares have made, changed an entry of the store";
            let act = Act::new(operation, format!("sys/raw/{path}"), cause);
            untold::put(&mut tx, act.plain("node", self.node_id().unwrap_or("node")).plain("request_id", &request.id))?;
            let ticket = self.store.propose(tx.into_proposal()?).map_err(commit_failure)?;
            ticket.committed().await.map_err(commit_failure)?;
        }
        Ok(response)
    }
}
