//! `identity/`: the mount that every store has for entities and groups. It has no routes yet.

use holdfast_sdk::{Backend, Call, Class, Error, Found, Operation, Response, Result, Route, Routes, Tx};

/// The secret engine, mounted at `identity/` when a store is made.
#[derive(Default)]
pub struct Identity {
    routes: Routes<Identity>,
}

impl Backend for Identity {
    fn kind(&self) -> &'static str {
        "identity"
    }
    fn class(&self) -> Class {
        Class::Secret
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.routes.find(operation, path)
    }
    fn apply(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Response> {
        if !found.supported {
            return Err(Error::UnsupportedOperation);
        }
        self.routes.apply(self, found, tx, call)
    }
}
