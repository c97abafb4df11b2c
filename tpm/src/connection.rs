//! The TPM opened: one connection, used by one call at a time as a TPM wants it, and what brings it back when the TPM
//! was away.

use crate::fault::{Fault, explain};
use crate::nonce;
use crate::quorum::Pending;
use crate::root::{self, Root};
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::tpm::TpmConfig;
use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::tss::{TPM2_LOADED_SESSION_FIRST, TPM2_TRANSIENT_FIRST};
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{CapabilityData, SymmetricDefinition};
use tss_esapi::tss2_esys::TPMS_CONTEXT;
use tss_esapi::{Context, Error, TctiNameConf, WrapperErrorKind};

/// How long a call waits for the one before it.
const TURN: Duration = Duration::from_secs(8);
/// More objects and sessions than any TPM has room for.
const MAX_LEFT_BEHIND: u32 = 64;

/// A TPM as configured.
pub(crate) struct Tpm {
    pub(crate) config: TpmConfig,
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    in_use: bool,
}

/// An open TPM.
pub(crate) struct Connection {
    pub(crate) context: Context,
    pub(crate) root: Root,
    /// Authenticates each command and answer, and encrypts their first parameters: nothing readable passes the bus. It
    /// is salted with the storage root key, so only that TPM can have agreed to it.
    pub(crate) session: AuthSession,
    /// The key that was used last: signing with it again costs no loading.
    pub(crate) loaded: Option<Loaded>,
    /// The session that waits for custodians.
    pub(crate) pending: Option<Pending>,
    /// It is closed after this call.
    pub(crate) is_spent: bool,
}

/// A key in the TPM.
pub(crate) struct Loaded {
    pub(crate) handle: KeyHandle,
    /// As it rests outside, to know it by.
    pub(crate) private: Vec<u8>,
}

impl Tpm {
    pub(crate) fn new(config: TpmConfig) -> Self {
        Self { config, state: Mutex::default(), free: Condvar::new() }
    }

    /// Runs `act` with the TPM. If it was away or started anew, it is opened again, once; nothing that is asked of a TPM
    /// here leaves something in it, so all may be asked twice.
    pub(crate) fn run<T>(
        &self,
        what: &str,
        mut act: impl FnMut(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, DeviceError> {
        let mut kept = self.take_turn()?;
        let mut renewed = false;
        let result = loop {
            let known = kept.is_some();
            let attempt = match kept.take() {
                Some(connection) => Ok(connection),
                None => Connection::open(&self.config),
            }
            .and_then(|mut connection| {
                let result = connection.end_late_challenge().and_then(|()| act(&mut connection));
                let spoilt = |fault: &Fault| fault.asks_for_a_new_connection() || fault.is_a_forged_answer();
                if !result.as_ref().is_err_and(spoilt) && !connection.is_spent {
                    kept = Some(connection);
                }
                result
            });
            match attempt {
                // A connection that has just been opened tells how things are now.
                Err(fault) if fault.asks_for_a_new_connection() && known && !renewed => renewed = true,
                other => break other,
            }
        };
        self.give_back(kept);
        result.map_err(|fault| explain(&self.config, what, fault))
    }

    /// Closes the TPM; the next call opens it again.
    pub(crate) fn close(&self) {
        self.state().connection = None;
    }

    fn take_turn(&self) -> Result<Option<Connection>, DeviceError> {
        let (mut state, waited) = self
            .free
            .wait_timeout_while(self.state(), TURN, |state| state.in_use)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(DeviceError::new(
                Class::Busy,
                format!(
                    "{} has been busy with another call for {} s: tried again later",
                    self.config.name(),
                    TURN.as_secs()
                ),
            ));
        }
        state.in_use = true;
        Ok(state.connection.take())
    }

    fn give_back(&self, connection: Option<Connection>) {
        let mut state = self.state();
        state.connection = connection;
        state.in_use = false;
        drop(state);
        self.free.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn open(config: &TpmConfig) -> Result<Self, Fault> {
        let tcti = TctiNameConf::from_str(&config.tcti).map_err(|_| {
            DeviceError::config(format!(
                "tcti '{}' names no way to a TPM: write it as in \"{}\" or \"swtpm:host=127.0.0.1,port=2321\"",
                config.tcti,
                TpmConfig::DEFAULT_TCTI
            ))
        })?;
        let mut context = Context::new(tcti)?;
        if !config.is_shared() {
            flush_what_was_left_behind(&mut context)?;
        }
        let root = root::root(&mut context, config)?;
        let session = start_session(&mut context, root.handle, SessionType::Hmac)?;
        Ok(Self { context, root, session, loaded: None, pending: None, is_spent: false })
    }

    /// With the session that protects commands and answers.
    pub(crate) fn protected<T>(
        &mut self,
        act: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> tss_esapi::Result<T> {
        self.context.execute_with_session(Some(self.session), act)
    }

    /// With a policy session, which protects as the other does.
    pub(crate) fn with_policy<T>(
        &mut self,
        act: impl FnOnce(&mut Self, PolicySession) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let session = start_session(&mut self.context, self.root.handle, SessionType::Policy)?;
        let result = PolicySession::try_from(session).map_err(Fault::from).and_then(|policy| act(self, policy));
        self.flush(SessionHandle::from(session).into(), result)
    }

    /// Makes room: the key that was used last is taken out.
    pub(crate) fn forget_loaded(&mut self) -> Result<(), Fault> {
        match self.loaded.take() {
            Some(loaded) => self.flush(loaded.handle.into(), Ok(())),
            None => Ok(()),
        }
    }

    /// A policy session that may wait, and the nonce that the TPM gave it.
    pub(crate) fn session_with_nonce(&mut self) -> Result<(PolicySession, Vec<u8>), Fault> {
        let started = start_session(&mut self.context, self.root.handle, SessionType::Policy)?;
        let saved = self.context.context_save(SessionHandle::from(started).into())?;
        let nonce = TPMS_CONTEXT::try_from(saved.clone()).map_err(Fault::from);
        let nonce = nonce.and_then(|saved| Ok(nonce::of_saved(&saved)?));
        // In any case: a saved session stays in the TPM when the connection ends, a loaded one does not.
        let session_handle = SessionHandle::from(self.context.context_load(saved)?);
        let session = PolicySession::PolicySession {
            hashing_algorithm: HashingAlgorithm::Sha256,
            session_handle,
            session_type: SessionType::Policy,
        };
        match nonce {
            Ok(nonce) => Ok((session, nonce)),
            Err(fault) => self.flush(session_handle.into(), Err(fault)),
        }
    }

    /// The session that waits for custodians waits no longer.
    pub(crate) fn end_challenge(&mut self) -> Result<(), Fault> {
        match self.pending.take() {
            Some(pending) => self.flush(pending.session().into(), Ok(())),
            None => Ok(()),
        }
    }

    fn end_late_challenge(&mut self) -> Result<(), Fault> {
        match &self.pending {
            Some(pending) if pending.is_over() => self.end_challenge(),
            _ => Ok(()),
        }
    }

    /// Takes an object or session out of the TPM, whatever came of its use.
    pub(crate) fn flush<T>(&mut self, handle: ObjectHandle, result: Result<T, Fault>) -> Result<T, Fault> {
        let flushed = self.context.execute_without_session(|context| context.flush_context(handle));
        let value = result?;
        flushed?;
        Ok(value)
    }
}

fn start_session(context: &mut Context, root: KeyHandle, kind: SessionType) -> Result<AuthSession, Fault> {
    let session = context.execute_without_session(|context| {
        context.start_auth_session(
            Some(root),
            None,
            None,
            kind,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
    })?;
    let session = session.ok_or_else(|| DeviceError::new(Class::Failed, "the TPM gave no session"))?;
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_continue_session(true)
        .with_decrypt(kind == SessionType::Hmac)
        .with_encrypt(true)
        .build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    Ok(session)
}

/// Objects and sessions of a process that ended without a word stay in a TPM which no resource manager looks after, and
/// it has room for three. Who talks to such a TPM is its only user.
fn flush_what_was_left_behind(context: &mut Context) -> Result<(), Fault> {
    for first in [TPM2_TRANSIENT_FIRST, TPM2_LOADED_SESSION_FIRST] {
        let (data, _) = context.get_capability(CapabilityType::Handles, first, MAX_LEFT_BEHIND)?;
        let CapabilityData::Handles(handles) = data else { continue };
        for handle in handles.into_inner() {
            let object = context.tr_from_tpm_public(handle)?;
            match context.flush_context(object) {
                // The crate minds that it has flushed a policy session, but it has.
                Ok(()) | Err(Error::WrapperError(WrapperErrorKind::InvalidHandleState)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
