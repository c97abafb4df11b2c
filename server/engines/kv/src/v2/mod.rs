//! kv version 2. The table of paths first; a file for each subject.

mod config;
mod data;
mod metadata;
mod record;
mod upgrade;
mod versions;

pub use record::{Metadata, MountConfig, VersionState};

use holdfast_sdk::{
    Backend, Body, Call, Class, Found, Operation, Response, Result, Route, Routes, Table, Timestamp, Tx,
};

/// By secret path.
pub(crate) const METADATA: Table = Table(1);
/// By the secret's random id, then its version.
pub(crate) const DATA: Table = Table(2);
/// One record.
pub(crate) const CONFIG: Table = Table(3);

pub struct KvV2 {
    routes: Routes<KvV2>,
}

impl Default for KvV2 {
    fn default() -> Self {
        let routes = Routes::new()
            .path("config", "Settings of the mount.", |p| p.read(config::read).update(config::write).reads_anywhere())
            .path("data/{path...}", "Write, patch, read and delete the latest version of a secret.", |p| {
                p.read(data::read)
                    .write(data::exists, data::write)
                    .patch(data::patch)
                    .delete(data::delete_latest)
                    .reads_anywhere()
            })
            .path("delete/{path...}", "Mark versions as deleted.", |p| p.update(versions::delete))
            .path("undelete/{path...}", "Bring deleted versions back.", |p| p.update(versions::undelete))
            .path("destroy/{path...}", "Remove the data of versions for good.", |p| p.update(versions::destroy))
            .path("metadata/{path...}", "Read, write, list and remove what is known of a secret.", |p| {
                p.read(metadata::read)
                    .write(metadata::exists, metadata::write)
                    .patch(metadata::patch)
                    .delete(metadata::delete)
                    .list(metadata::list)
                    .scan(metadata::scan)
                    .reads_anywhere()
            })
            .path("detailed-metadata/{path...}", "List secrets with what is known of them.", |p| {
                p.list(metadata::list_detailed).scan(metadata::scan_detailed).reads_anywhere()
            })
            .path("subkeys/{path...}", "The structure of a secret without its values.", |p| {
                p.read(data::subkeys).reads_anywhere()
            })
            .path("{path...}", "Not a path of version 2.", |p| {
                p.read(wrong_path).update(wrong_path).delete(wrong_path).list(wrong_path).patch(wrong_path)
            });
        KvV2 { routes }
    }
}

/// A path of version 1 on a mount of version 2: say what to use.
fn wrong_path(_: &KvV2, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let word = match call.operation {
        Operation::Read => "get",
        Operation::List | Operation::Scan => "list",
        Operation::Delete => "delete",
        Operation::Patch => "patch",
        Operation::Create | Operation::Update => "put",
    };
    let text = format!(
        "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. \
         If using the Holdfast CLI, use 'holdfast kv {word}' for this operation."
    );
    Ok(Response::gone(Body::None, vec![text]))
}

/// The answer to anything but a list on `data`, `metadata`, … without a name.
pub(crate) fn root_of_mount() -> Response {
    Response::gone(Body::None, vec!["Non-listing operations on the root of a K/V v2 mount are not supported.".into()])
}

impl Backend for KvV2 {
    fn secrets(&self) -> Option<Table> {
        Some(METADATA)
    }
    fn kind(&self) -> &'static str {
        "kv"
    }
    fn class(&self) -> Class {
        Class::Secret
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe().into_iter().filter(|r| r.pattern != "{path...}").collect()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        if path == "config/" || (path == "config" && operation == Operation::List) {
            return self.routes.find(operation, "config/-");
        }
        self.routes.find(operation, path)
    }
    holdfast_sdk::handled_by!(routes);
    fn take_over(&self, tx: &mut Tx, now: Timestamp) -> Result<bool> {
        upgrade::take_over(tx, now)
    }
    fn upgrade(&self, tx: &mut Tx, cursor: &[u8]) -> Result<Option<Vec<u8>>> {
        upgrade::batch(tx, cursor)
    }
}
