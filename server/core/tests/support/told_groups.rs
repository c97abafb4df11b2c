//! An auth method that believes whoever logs in, and in which groups they say that they are.

use std::sync::Arc;

use holdfast_core::MountEntry;
use holdfast_sdk::{
    Alias, Backend, Call, Class, Found, Login, Operation, Renewal, Response, Result, Route, Routes, Tx, parameters,
};

pub struct ToldGroups {
    routes: Routes<ToldGroups>,
}

parameters! {
    struct Told {
        /// The groups.
        groups: Option<Vec<String>>,
    }
}

/// The factory for the table of engines.
pub fn told_groups(_: &MountEntry) -> std::result::Result<Arc<dyn Backend>, String> {
    let routes = Routes::new().path("login/{name}", "Log in.", |p| p.update(login).unauthenticated());
    Ok(Arc::new(ToldGroups { routes }))
}

fn login(_: &ToldGroups, _: &mut Tx, call: &Call<'_>, p: Told) -> Result<Response> {
    let name = call.capture("name").to_owned();
    let alias = Some(Alias { name, metadata: Vec::new() });
    Ok(Response::login(Login { alias, group_aliases: Some(p.groups.unwrap_or_default()), ..Login::default() }))
}

impl Backend for ToldGroups {
    fn kind(&self) -> &'static str {
        "told-groups"
    }
    fn class(&self) -> Class {
        Class::Auth
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.routes.find(operation, path)
    }
    holdfast_sdk::handled_by!(routes);
    fn renew_login(&self, _: &mut Tx, _: &[(String, String)]) -> Result<Renewal> {
        Ok(Renewal::default())
    }
}
