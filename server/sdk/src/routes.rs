//! The table of paths of a backend.
//!
//! ```
//! use holdfast_sdk::{Call, Response, Result, Routes, Tx};
//! struct Engine;
//! impl Engine {
//!     fn read(&self, _tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
//!         Response::list(vec![call.capture("name").to_owned()])
//!     }
//! }
//! let routes = Routes::<Engine>::new().path("roles/{name}", "Read a role.", |p| p.read(Engine::read));
//! assert!(routes.find(holdfast_sdk::Operation::Read, "roles/a").is_some());
//! assert!(routes.find(holdfast_sdk::Operation::Read, "roles/a/b").is_none());
//! ```
//!
//! A pattern is a path with `{name}` for one segment, and `{name...}` for the rest, which may be empty,
//! or `{name+}` for a rest that is not. Fixed segments may stand behind a rest: `{path+}/tune`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Act, Call, Captures, Error, Field, Kind, Operation, Parameters, Preparation, Response, Result, Tx};

type Apply<B, T> = Box<dyn Fn(&B, &mut T, &Call<'_>) -> Result<Response> + Send + Sync>;
type Exists<B, T> = fn(&B, &mut T, &Call<'_>) -> Result<Option<bool>>;
type Intend<B, T> = Arc<dyn Fn(&B, &mut T, &Call<'_>) -> Result<Option<Act>> + Send + Sync>;
type Prepare<B, T> = Arc<dyn Fn(&B, &mut T, &Call<'_>) -> Result<Option<Preparation>> + Send + Sync>;

/// A route that a path matched, and what its pattern caught.
#[derive(Debug, Clone)]
pub struct Found {
    pub(crate) route: usize,
    pub pattern: Arc<str>,
    pub captures: Captures,
    /// The route has the operation that was asked.
    pub supported: bool,
    pub unauthenticated: bool,
    pub root_protected: bool,
    /// Any node of a cluster may answer it: a read that leaves nothing behind.
    pub reads_anywhere: bool,
    /// The operation acts outside.
    pub acts: bool,
    /// The operation may wait before its transaction: it has a `prepare`.
    pub waits: bool,
    /// Names that the request's parameters may have.
    pub known: Arc<[&'static str]>,
    /// Every parameter is the operation's own.
    pub takes_anything: bool,
}

/// A route as OpenAPI and `path-help` see it.
pub struct Route<'a> {
    pub pattern: &'a str,
    pub synopsis: &'a str,
    pub description: &'a str,
    pub operations: Vec<(Operation, &'static [Field])>,
    pub unauthenticated: bool,
    pub root_protected: bool,
    pub has_exists: bool,
    pub reads_anywhere: bool,
}

enum Part {
    Literal(String),
    Segment(Arc<str>),
    Rest { name: Arc<str>, may_be_empty: bool },
}

struct Handler<B, T: ?Sized> {
    fields: &'static [Field],
    apply: Apply<B, T>,
    prepare: Option<Prepare<B, T>>,
    intend: Option<Intend<B, T>>,
}

/// One path while it is declared.
pub struct Path<B, T: ?Sized = Tx> {
    pattern: Arc<str>,
    parts: Vec<Part>,
    synopsis: &'static str,
    description: &'static str,
    handlers: BTreeMap<Operation, Handler<B, T>>,
    exists: Option<Exists<B, T>>,
    unauthenticated: bool,
    may_end_in_slash: bool,
    reads_anywhere: bool,
    root_protected: Protected,
    known: Arc<[&'static str]>,
}

/// Which operations of a path need `sudo`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protected {
    None,
    All,
    Only(Operation),
}

/// All paths of a backend, in the order in which they are tried.
pub struct Routes<B, T: ?Sized = Tx> {
    paths: Vec<Path<B, T>>,
}

impl<B: 'static, T: ?Sized + 'static> Default for Routes<B, T> {
    fn default() -> Self {
        Routes { paths: Vec::new() }
    }
}

impl<B: 'static, T: ?Sized + 'static> Routes<B, T> {
    pub fn new() -> Self {
        Routes::default()
    }

    /// Declare a path.
    pub fn path(
        mut self,
        pattern: &str,
        synopsis: &'static str,
        declare: impl FnOnce(Path<B, T>) -> Path<B, T>,
    ) -> Self {
        let parts = pattern
            .split('/')
            .map(|p| match p.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                Some(name) => match (name.strip_suffix("..."), name.strip_suffix('+')) {
                    (Some(name), _) => Part::Rest { name: name.into(), may_be_empty: true },
                    (_, Some(name)) => Part::Rest { name: name.into(), may_be_empty: false },
                    (None, None) => Part::Segment(name.into()),
                },
                None => Part::Literal(p.to_owned()),
            })
            .collect();
        let mut path = declare(Path {
            pattern: pattern.into(),
            parts,
            synopsis,
            description: "",
            handlers: BTreeMap::new(),
            exists: None,
            unauthenticated: false,
            may_end_in_slash: false,
            reads_anywhere: false,
            root_protected: Protected::None,
            known: Arc::new([]),
        });
        let mut known: Vec<&'static str> =
            path.handlers.values().flat_map(|h| h.fields.iter().map(|f| f.name)).collect();
        known.sort_unstable();
        known.dedup();
        path.known = known.into();
        self.paths.push(path);
        self
    }

    /// The first path that matches.
    pub fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.paths.iter().enumerate().find_map(|(route, p)| {
            let captures = p.matches(path)?;
            let open_ended = matches!(p.parts.last(), Some(Part::Rest { .. }));
            // The path of a list may end in a slash; other paths with one are no paths of fixed routes.
            if !open_ended && path.ends_with('/') && !p.lists() && !p.may_end_in_slash {
                return None;
            }
            Some(Found {
                route,
                pattern: p.pattern.clone(),
                captures,
                supported: p.handlers.contains_key(&operation),
                unauthenticated: p.unauthenticated,
                root_protected: p.root_protected == Protected::All || p.root_protected == Protected::Only(operation),
                reads_anywhere: p.reads_anywhere && !operation.writes(),
                waits: p.handlers.get(&operation).is_some_and(|h| h.prepare.is_some()),
                acts: p.handlers.get(&operation).is_some_and(|h| h.intend.is_some()),
                known: p.known.clone(),
                takes_anything: p.handlers.get(&operation).is_some_and(|h| h.fields.iter().any(|f| f.name == "*")),
            })
        })
    }

    pub fn exists(&self, backend: &B, found: &Found, tx: &mut T, call: &Call<'_>) -> Result<Option<bool>> {
        match self.paths.get(found.route).and_then(|p| p.exists) {
            Some(exists) => exists(backend, tx, call),
            None => Ok(None),
        }
    }

    /// The work that an operation has to do before its transaction.
    pub fn prepare(&self, backend: &B, found: &Found, tx: &mut T, call: &Call<'_>) -> Result<Option<Preparation>> {
        let handler = self.paths.get(found.route).and_then(|p| p.handlers.get(&call.operation));
        match handler.and_then(|h| h.prepare.as_ref()) {
            Some(prepare) => prepare(backend, tx, call),
            None => Ok(None),
        }
    }

    /// What an operation that acts outside is about to do.
    pub fn intend(&self, backend: &B, found: &Found, tx: &mut T, call: &Call<'_>) -> Result<Option<Act>> {
        let handler = self.paths.get(found.route).and_then(|p| p.handlers.get(&call.operation));
        match handler.and_then(|h| h.intend.as_ref()) {
            Some(intend) => intend(backend, tx, call),
            None => Ok(None),
        }
    }

    pub fn apply(&self, backend: &B, found: &Found, tx: &mut T, call: &Call<'_>) -> Result<Response> {
        let path = self.paths.get(found.route).ok_or(Error::UnsupportedPath)?;
        let handler = path.handlers.get(&call.operation).ok_or(Error::UnsupportedOperation)?;
        (handler.apply)(backend, tx, call)
    }

    pub fn describe(&self) -> Vec<Route<'_>> {
        self.paths
            .iter()
            .map(|p| Route {
                pattern: &p.pattern,
                synopsis: p.synopsis,
                description: p.description,
                operations: p.handlers.iter().map(|(o, h)| (*o, h.fields)).collect(),
                unauthenticated: p.unauthenticated,
                root_protected: p.root_protected != Protected::None,
                has_exists: p.exists.is_some(),
                reads_anywhere: p.reads_anywhere,
            })
            .collect()
    }
}

/// What stands before the fixed segments `tail`, which `text` must end with.
fn before<'t>(text: &'t str, tail: &[Part]) -> Option<&'t str> {
    tail.iter().rev().try_fold(text, |text, part| match part {
        Part::Literal(l) => text.strip_suffix(l.as_str())?.strip_suffix('/'),
        Part::Segment(_) | Part::Rest { .. } => None,
    })
}

impl<B: 'static, T: ?Sized + 'static> Path<B, T> {
    fn lists(&self) -> bool {
        self.handlers.contains_key(&Operation::List) || self.handlers.contains_key(&Operation::Scan)
    }

    fn matches(&self, path: &str) -> Option<Captures> {
        let mut captures = Vec::new();
        let mut rest = Some(path);
        for (at, part) in self.parts.iter().enumerate() {
            if let Part::Rest { name, may_be_empty } = part {
                let caught = before(rest.unwrap_or(""), &self.parts[at + 1..])?;
                captures.push((name.clone(), caught.to_owned()));
                return (*may_be_empty || !caught.is_empty()).then_some(Captures(captures));
            }
            let text = rest?;
            let (segment, after) = match text.split_once('/') {
                Some((s, a)) => (s, Some(a)),
                None => (text, None),
            };
            match part {
                Part::Literal(l) if l == segment => {}
                Part::Segment(name) if !segment.is_empty() => captures.push((name.clone(), segment.to_owned())),
                _ => return None,
            }
            rest = after;
        }
        // A slash at the end is optional.
        matches!(rest, None | Some("")).then_some(Captures(captures))
    }

    fn on<P: Parameters + 'static>(
        mut self,
        operation: Operation,
        handler: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>,
    ) -> Self {
        let apply: Apply<B, T> = Box::new(move |b, tx, call| handler(b, tx, call, P::parse(&call.request.data)?));
        self.handlers.insert(operation, Handler { fields: P::FIELDS, apply, prepare: None, intend: None });
        self
    }

    pub fn read<P: Parameters + 'static>(self, h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>) -> Self {
        self.on(Operation::Read, h)
    }

    pub fn update<P: Parameters + 'static>(self, h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>) -> Self {
        self.on(Operation::Update, h)
    }

    /// One handler for create and update; with an existence check the policy tells them apart.
    pub fn write<P: Parameters + 'static>(
        self,
        exists: Exists<B, T>,
        h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>,
    ) -> Self {
        let mut path = self.on(Operation::Create, h).on(Operation::Update, h);
        path.exists = Some(exists);
        path
    }

    pub fn delete<P: Parameters + 'static>(self, h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>) -> Self {
        self.on(Operation::Delete, h)
    }

    pub fn list<P: Parameters + 'static>(self, h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>) -> Self {
        self.on(Operation::List, h)
    }

    pub fn scan<P: Parameters + 'static>(self, h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>) -> Self {
        self.on(Operation::Scan, h)
    }

    pub fn patch<P: Parameters + 'static>(self, h: fn(&B, &mut T, &Call<'_>, P) -> Result<Response>) -> Self {
        self.on(Operation::Patch, h)
    }

    /// Slow work before the operation's transaction (hashing a password, asking a directory): what is read in
    /// `tx` tells what it has to do, and `apply` finds what came of it in [`Call::prepared`]. What was read may
    /// have changed by then: `apply` looks again.
    pub fn prepared<P: Parameters + 'static>(
        mut self,
        operation: Operation,
        prepare: fn(&B, &mut T, &Call<'_>, P) -> Result<Option<Preparation>>,
    ) -> Self {
        let prepare: Prepare<B, T> = Arc::new(move |b, tx, call| prepare(b, tx, call, P::parse(&call.request.data)?));
        for handler in self.with_create(operation) {
            handler.prepare = Some(prepare.clone());
        }
        self
    }

    /// The handlers of an operation; an update may turn out to create.
    fn with_create(&mut self, operation: Operation) -> impl Iterator<Item = &mut Handler<B, T>> {
        let also = if operation == Operation::Update { Operation::Create } else { operation };
        self.handlers.iter_mut().filter(move |(o, _)| **o == operation || **o == also).map(|(_, h)| h)
    }

    /// The operation acts outside: `intend` says what in a first transaction, and the operation's own handler
    /// runs when that is done (see [`Outside`](crate::Outside)).
    pub fn acts<P: Parameters + 'static>(
        mut self,
        operation: Operation,
        intend: fn(&B, &mut T, &Call<'_>, P) -> Result<Option<Act>>,
    ) -> Self {
        let intend: Intend<B, T> = Arc::new(move |b, tx, call| intend(b, tx, call, P::parse(&call.request.data)?));
        for handler in self.with_create(operation) {
            handler.intend = Some(intend.clone());
        }
        self
    }

    /// No token is asked for.
    pub fn unauthenticated(mut self) -> Self {
        self.unauthenticated = true;
        self
    }

    /// With a slash at its end it is the same path, though it has no list.
    pub fn may_end_in_slash(mut self) -> Self {
        self.may_end_in_slash = true;
        self
    }

    /// Reads and lists of this path may be answered by any node of a cluster. Such a handler reads what is stored and
    /// the caller, and nothing else: not what is in the memory of the active node, and nothing outside.
    pub fn reads_anywhere(mut self) -> Self {
        self.reads_anywhere = true;
        self
    }

    /// The policy must grant `sudo` too.
    pub fn root_protected(mut self) -> Self {
        self.root_protected = Protected::All;
        self
    }

    /// The policy must grant `sudo` too for this operation.
    pub fn root_protected_for(mut self, operation: Operation) -> Self {
        self.root_protected = Protected::Only(operation);
        self
    }

    pub fn describe(mut self, text: &'static str) -> Self {
        self.description = text;
        self
    }
}

impl Route<'_> {
    /// The pattern's own parameters, in order.
    pub fn captures(&self) -> Vec<String> {
        self.pattern
            .split('/')
            .filter_map(|p| Some(p.strip_prefix('{')?.strip_suffix('}')?.trim_end_matches(['.', '+']).to_owned()))
            .collect()
    }

    /// Declared fields of all operations by name.
    pub fn fields(&self) -> BTreeMap<&'static str, (Kind, &'static str)> {
        self.operations.iter().flat_map(|(_, f)| f.iter()).map(|f| (f.name, (f.kind, f.description))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Engine;

    fn nothing(_: &Engine, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
        Ok(Response::empty())
    }

    #[test]
    fn a_rest_may_have_fixed_segments_behind_it() {
        let routes = Routes::<Engine>::new()
            .path("mounts/{path+}/tune", "", |p| p.read(nothing))
            .path("mounts/{path+}", "", |p| p.read(nothing).delete(nothing))
            .path("all/{path...}", "", |p| p.read(nothing));
        let caught = |path: &str| {
            let found = routes.find(Operation::Read, path)?;
            Some((found.pattern.to_string(), found.captures.get("path")?.to_owned()))
        };
        let some = |pattern: &str, path: &str| Some((pattern.to_owned(), path.to_owned()));
        assert_eq!(caught("mounts/a/b/tune"), some("mounts/{path+}/tune", "a/b"));
        assert_eq!(caught("mounts/tune"), some("mounts/{path+}", "tune"));
        assert_eq!(caught("mounts/a/tune/"), some("mounts/{path+}", "a/tune/"));
        assert_eq!(caught("mounts/a/"), some("mounts/{path+}", "a/"));
        assert_eq!(caught("mounts/"), None);
        assert_eq!(caught("all/"), some("all/{path...}", ""));
        assert!(!routes.find(Operation::Delete, "mounts/a/tune").unwrap().supported);
    }
}
