//! The vendor's library: loaded and initialised once for the process, however many
//! tokens of it are used; finalised when the last user is gone, and never while a call
//! is under way.

use super::Pkcs11Config;
use super::functions;
use super::parameters::Parameters;
use super::token::TokenInfo;
use crate::device::DeviceError;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::Slot;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};

static MODULES: Mutex<Vec<(PathBuf, Weak<Module>)>> = Mutex::new(Vec::new());

/// A library. Calls hold [`Opened`] (a shared lock) for as long as they run.
pub(super) struct Module {
    lib: String,
    parameters: Option<Parameters>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Loaded once; stays loaded, since unloading vendors' libraries is not safe.
    context: Option<Pkcs11>,
    initialised: bool,
    /// Counts initialisations: handles of an earlier one mean nothing.
    generation: u64,
}

impl Module {
    /// The one of this process for a library, which is initialised with the parameters of its first user.
    pub(super) fn shared(config: &Pkcs11Config) -> Arc<Self> {
        let lib = &config.lib;
        let path = Path::new(lib).canonicalize().unwrap_or_else(|_| PathBuf::from(lib));
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        modules.retain(|(_, module)| module.strong_count() > 0);
        if let Some(module) = modules.iter().find(|(p, _)| *p == path).and_then(|(_, m)| m.upgrade()) {
            return module;
        }
        let module = Arc::new(Self {
            lib: lib.clone(),
            parameters: config.parameters.as_deref().map(Parameters::new),
            state: RwLock::default(),
        });
        modules.push((path, Arc::downgrade(&module)));
        module
    }

    /// The module, initialised, for the length of one call.
    pub(super) fn open(&self) -> Result<Opened<'_>, DeviceError> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if let (Some(context), true) = (&state.context, state.initialised) {
                return Ok(Opened {
                    context: context.clone(),
                    lib: &self.lib,
                    generation: state.generation,
                    _state: state,
                });
            }
            drop(state);
            self.initialise(None)?;
        }
    }

    /// Finalises and initialises anew, which makes libraries look at their slots again.
    /// Waits for calls under way. Does nothing if it was done since `seen`.
    pub(super) fn reopen(&self, seen: u64) -> Result<(), DeviceError> {
        self.initialise(Some(seen))
    }

    fn initialise(&self, replace: Option<u64>) -> Result<(), DeviceError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.initialised {
            if replace != Some(state.generation) {
                return Ok(());
            }
            state.finalise();
        }
        let context = match &state.context {
            Some(context) => context,
            None => state.context.insert(load(&self.lib)?),
        };
        let arguments = match &self.parameters {
            Some(parameters) => parameters.arguments(CInitializeFlags::OS_LOCKING_OK),
            None => CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK),
        };
        match context.initialize(arguments) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => {
                return Err(DeviceError::config(format!(
                    "PKCS#11 module '{}' does not initialise ({error}): check its configuration file, 'lib_parameters' and 'lib_environment', and that its files may be used ('helper_write_paths')",
                    self.lib
                )));
            }
        }
        state.initialised = true;
        state.generation += 1;
        Ok(())
    }
}

impl State {
    fn finalise(&mut self) {
        self.initialised = false;
        if let Some(Err(error)) = self.context.clone().map(Pkcs11::finalize) {
            tracing::warn!(%error, "a PKCS#11 module did not finalise cleanly");
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.initialised {
            state.finalise();
        }
    }
}

/// An initialised module; while it lives the module is not finalised.
pub(super) struct Opened<'a> {
    pub(super) context: Pkcs11,
    lib: &'a str,
    pub(super) generation: u64,
    _state: RwLockReadGuard<'a, State>,
}

impl Opened<'_> {
    /// What the token in a slot says of itself.
    pub(super) fn token_info(&self, slot: Slot) -> Result<TokenInfo, Error> {
        functions::token_info(&self.context, self.lib, slot)
    }
}

fn load(lib: &str) -> Result<Pkcs11, DeviceError> {
    if lib.contains('/') && !Path::new(lib).exists() {
        return Err(DeviceError::config(format!(
            "PKCS#11 module '{lib}' does not exist: install the vendor's library or correct 'lib'"
        )));
    }
    Pkcs11::new(lib).map_err(|error| {
        DeviceError::config(format!(
            "PKCS#11 module '{lib}' cannot be loaded ({error}): check 'lib' and its own libraries"
        ))
    })
}
