//! Second factors at logins.
//!
//! A *method* is a kind of factor with its settings, an *enforcement* says which logins need one of some methods.
//! A login that does gives no token yet: it waits, in memory and for minutes, until `sys/mfa/validate` brings the
//! codes; or the login brings them itself, in `X-Vault-MFA`.

mod attempts;
mod barcode;
mod check;
mod enforcements;
mod methods;
mod secrets;
mod totp;
mod waiting;

pub use attempts::Attempts;
pub use check::{Demand, Factors, constraints, demanded, of_headers, require};
pub use enforcements::{Who, here as enforcements};
pub use secrets::{forget_of_entity, take_over};
pub use waiting::{Claim, Waiting, WaitingLogins};

use holdfast_sdk::{Error, Result, Routes};

use crate::identity::IdentityBackend;
use crate::tx::Tx;

type R = Routes<IdentityBackend, Tx>;

/// Below `identity/`.
pub fn routes(routes: R) -> R {
    let routes = secrets::routes(routes);
    let routes = methods::routes(routes);
    enforcements::routes(routes)
}

/// What the active node keeps of logins that are under way.
#[derive(Default)]
pub struct SecondFactors {
    pub waiting: WaitingLogins,
    pub attempts: Attempts,
}

/// The id of a path; a text of another form is no path.
fn id_of(text: &str) -> Result<[u8; 16]> {
    crate::random::parse_uuid(text).ok_or(Error::UnsupportedPath)
}
