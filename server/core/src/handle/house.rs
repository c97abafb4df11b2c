//! Which namespace a request is for: by its header, its path, and what it names.

use std::sync::Arc;

use holdfast_sdk::{Error, Request, Result, Value};

use crate::audit::{AuthFacts, Pending, RequestFacts};
use crate::layout::ROOT;
use crate::namespaces::{self, Space};
use crate::router::{Mount, Router};
use crate::{Answer, Core, Open};

/// Where a request is handled.
pub(super) struct House {
    /// None: the root.
    space: Option<Arc<Space>>,
    pub router: Arc<Router>,
    /// The mount table was as found at this index or later.
    pub routed_at: u64,
}

impl House {
    pub fn space<'s>(&'s self, open: &'s Open) -> &'s Space {
        self.space.as_ref().unwrap_or(&open.spaces.root)
    }
}

/// What a request names that may be of another namespace.
enum Named<'r> {
    /// The caller's own token.
    Own,
    /// What ends in this id.
    EndingIn(&'r str),
}

impl Core {
    /// The request as its namespace has it, and where it is handled. Most are for the root, and name a mount of it.
    ///
    /// One that is refused has its audit lines all the same.
    pub(super) fn housed(
        self: &Arc<Self>,
        open: &Open,
        mut request: Request,
    ) -> Result<(Request, House), (Answer, Pending)> {
        let house = self.house_of(open, &mut request).and_then(|house| {
            if house.space.is_some() && is_of_root_alone(&request.path) {
                return Err(Error::bad_request("operation unavailable in namespaces"));
            }
            match house.space.as_ref().and_then(|s| s.locked.as_ref()) {
                Some(locked) if !(*locked == request.namespace && request.path == namespaces::UNLOCK) => {
                    Err(is_locked(locked))
                }
                _ => Ok(house),
            }
        });
        match house {
            Ok(house) => Ok((request, house)),
            Err(why) => match self.audit_unhoused(open, &request, &why) {
                Ok(lines) => Err((Answer::failure(&why), lines)),
                Err(e) => {
                    self.metrics.audit_failures.add(1);
                    Err((Answer::failure(&e), Pending::default()))
                }
            },
        }
    }

    /// Both lines of a request that no namespace takes.
    fn audit_unhoused(&self, open: &Open, request: &Request, why: &Error) -> Result<Pending> {
        let facts = AuthFacts { presented: request.token.as_ref().map(|t| t.expose().clone()), ..AuthFacts::default() };
        let headers = open.audited_headers(self)?;
        let about = RequestFacts {
            id: &request.id,
            operation: request.operation,
            path: &request.path,
            data: &request.data,
            mount_point: "",
            mount_type: "",
            mount_accessor: "",
            mount_class: "",
            namespace: "",
            namespace_path: &request.namespace,
            remote: request.remote,
            wrap_ttl_secs: request.wrap_ttl.map_or(0, |t| t.as_secs()),
            headers: &request.headers,
            audited_headers: &headers,
            certificate_serial: request.client_certificate_serial.as_deref(),
            plain_request_keys: &[],
            plain_response_keys: &[],
            policy_override: request.policy_override,
            forwarded_from: request.forwarded_from.as_deref().unwrap_or(""),
            node: "",
        };
        let now = self.clock.now();
        open.audit.entry(&facts, &about).both((now, now), Some(why), Err(why))
    }

    pub(super) fn house_of(self: &Arc<Self>, open: &Open, request: &mut Request) -> Result<House> {
        let mut house = match request.namespace.as_str() {
            "" => self.house(open, None)?,
            path => {
                let space = self.space_at(open, path)?.ok_or_else(namespaces::gone)?;
                refuse_sealed(open, &space, &request.path)?;
                self.house(open, Some(space))?
            }
        };
        // A mount and a namespace never share a path: the first that is found is the one.
        while house.router.find(&request.path).is_none() {
            let Some((first, rest)) = request.path.split_once('/') else { break };
            let Some(below) = self.space_at(open, &format!("{}{first}/", request.namespace))? else { break };
            request.path = rest.to_owned();
            request.namespace.clone_from(&below.path);
            refuse_sealed(open, &below, &request.path)?;
            house = self.house(open, Some(below))?;
        }
        match named(request) {
            Some(named) => match self.space_of_named(open, request, named)? {
                Some(other) => {
                    request.namespace.clone_from(&other.path);
                    refuse_sealed(open, &other, &request.path)?;
                    self.house(open, Some(other).filter(|space| space.uuid != ROOT))
                }
                None => Ok(house),
            },
            None => Ok(house),
        }
    }

    /// The mount of a path below a namespace, and the path of the namespace that it is in.
    pub(crate) fn mount_at(
        self: &Arc<Self>,
        open: &Open,
        namespace: &str,
        path: &str,
    ) -> Result<Option<(Arc<Mount>, String)>> {
        let Some(mut space) = self.space_at(open, namespace)? else { return Ok(None) };
        let mut path = path;
        loop {
            if let Some((mount, _)) = self.router_of(open, &space)?.find(path) {
                return Ok(Some((mount.clone(), space.path.clone())));
            }
            let Some((first, rest)) = path.split_once('/') else { return Ok(None) };
            let below = self.space_at(open, &format!("{}{first}/", space.path))?;
            let Some(below) = below.filter(|b| !b.is_sealed(&open.barrier.load())) else { return Ok(None) };
            (space, path) = (below, rest);
        }
    }

    fn house(self: &Arc<Self>, open: &Open, space: Option<Arc<Space>>) -> Result<House> {
        let routed_at = self.store.view().index();
        let router = self.router_of(open, space.as_ref().unwrap_or(&open.spaces.root))?;
        Ok(House { space, router, routed_at })
    }

    /// The namespace of what a request names, where it is the caller's or below it: the request is judged there.
    fn space_of_named(&self, open: &Open, request: &Request, named: Named<'_>) -> Result<Option<Arc<Space>>> {
        let Some(token) = &request.token else { return Ok(None) };
        let mut tx = self.reader(open);
        let own = match namespaces::suffix_of_token(token.expose()) {
            None => ROOT,
            Some(suffix) => match namespaces::by_id(&mut tx, suffix)? {
                Some(uuid) => uuid,
                None => return Ok(None),
            },
        };
        match named {
            Named::Own => self.space_of(open, own),
            Named::EndingIn(suffix) => {
                let Some(uuid) = namespaces::by_id(&mut tx, suffix)? else { return Ok(None) };
                let own = namespaces::path_of(&mut tx, own)?;
                Ok(self.space_of(open, uuid)?.filter(|space| space.path.starts_with(&own)))
            }
        }
    }
}

/// Nothing of a namespace is reached while it is sealed, and those in it are not known.
fn refuse_sealed(open: &Open, space: &Space, path: &str) -> Result<()> {
    let barrier = open.barrier.load();
    if !space.is_sealed(&barrier) {
        return Ok(());
    }
    if is_of_root_alone(path) {
        return Err(Error::bad_request("operation unavailable in namespaces"));
    }
    if let Some(locked) = &space.locked {
        return Err(is_locked(locked));
    }
    if space.is_in_a_sealed_one(&barrier) {
        return Err(namespaces::gone());
    }
    Err(namespaces::seal::is_sealed())
}

/// What is said of a namespace whose API is locked.
fn is_locked(path: &str) -> Error {
    let text = format!(
        "API access to this namespace has been locked by an administrator - {path:?} must be unlocked to gain access."
    );
    Error::Status(503, vec![text])
}

/// What a request is about by its route, if that may be of another namespace than the one it was sent to.
fn named(request: &Request) -> Option<Named<'_>> {
    let given = |name: &str| request.data.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match request.path.split_once('/')? {
        ("auth", "token/lookup-self" | "token/renew-self" | "token/revoke-self")
        | ("sys", "wrapping/lookup" | "wrapping/rewrap" | "wrapping/unwrap") => Some(Named::Own),
        ("auth", route @ ("token/lookup" | "token/renew" | "token/revoke" | "token/revoke-orphan")) => {
            match given("token") {
                Some(token) => namespaces::suffix_of_token(token).map(Named::EndingIn),
                None => (route == "token/lookup").then_some(Named::Own),
            }
        }
        ("sys", route) => match lease_of(route)? {
            "" => namespaces::suffix_of_lease(given("lease_id")?).map(Named::EndingIn),
            lease => namespaces::suffix_of_lease(lease).map(Named::EndingIn),
        },
        _ => None,
    }
}

/// The lease that a route below `sys/` is about; empty: the body names it.
fn lease_of(route: &str) -> Option<&str> {
    let route = route.strip_prefix("leases/").unwrap_or(route);
    ["lookup", "renew", "revoke"].iter().find_map(|name| match route.strip_prefix(name)? {
        "" => Some(""),
        rest if *name != "lookup" => rest.strip_prefix('/'),
        _ => None,
    })
}

/// Routes that only the root namespace has.
pub fn is_of_root_alone(path: &str) -> bool {
    const ROOTS: &[&str] = &[
        "health",
        "init",
        "seal",
        "seal-backend-status",
        "sealwrap",
        "devices",
        "unseal",
        "config",
        "quotas",
        "loggers",
        "metrics",
        "host-info",
        "pprof",
        "raw",
        "audit",
        "audit-hash",
        "audit-chain",
        "generate-root",
        "in-flight-req",
        "rekey",
        "rekey-recovery-key",
        "step-down",
        "storage",
        "jobs",
        "intents",
    ];
    let Some(rest) = path.strip_prefix("sys/") else { return false };
    ROOTS.iter().any(|r| rest.strip_prefix(r).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}
