//! A counter that a device never takes back (TPM 2.0: an NV index of the type TPM2_NT_COUNTER).

use minicbor::{Decode, Encode};

/// What is done with the counter that the configuration names. Each may be asked twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum CounterAct {
    /// Where it is; `None` if it is not there yet.
    #[n(0)]
    Read,
    /// Make it where it is not there.
    #[n(1)]
    Make,
    /// Raise it by one, to this value, unless it has that already.
    #[n(2)]
    RaiseTo(#[n(0)] u64),
}
