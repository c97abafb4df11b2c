//! An engine that makes users in a world outside, where everything may go wrong, against the sdk alone.
//!
//! The world is found by the mount's option `world`, and outlives the server as a database does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use holdfast_core::MountEntry;
use holdfast_sdk::lease::{Limits, Terms};
use holdfast_sdk::{
    Act, Backend, Call, Class, Error, Failure, Found, Map, Means, NewLease, Operation, Outside, Place, Preparation,
    Prepared, Response, Result, Route, Routes, Table, Timestamp, Tx, Work,
};
use tokio::sync::watch;

const USERS: Table = Table(1);

/// What becomes of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Works,
    /// It is refused, and nothing was made.
    Refused,
    /// The user is there, and the answer was lost.
    AnswerLost,
    /// Nothing happens until the world goes on; then it works.
    HangsBefore,
    /// The user is there, and the answer does not come until the world goes on.
    HangsAfter,
}

/// What is outside, and its mood.
pub struct World {
    users: Mutex<BTreeSet<String>>,
    /// Until when users may log in, as a renewal said.
    pub ends: Mutex<BTreeMap<String, Timestamp>>,
    mood: Mutex<Mood>,
    goes_on: watch::Sender<bool>,
    made: AtomicU64,
    pub acts: AtomicU64,
    pub undoings: AtomicU64,
}

struct Mood {
    acts: BTreeMap<String, Ending>,
    undo_fails: u32,
    undo_hangs: bool,
    undo_hangs_at: String,
    handler_fails: bool,
    clean_fails: bool,
    clean_panics: bool,
}

static WORLDS: LazyLock<Mutex<HashMap<String, Arc<World>>>> = LazyLock::new(Mutex::default);

impl World {
    pub fn of(name: &str) -> Arc<World> {
        let new = || {
            Arc::new(World {
                users: Mutex::default(),
                ends: Mutex::default(),
                mood: Mutex::new(Mood {
                    acts: BTreeMap::new(),
                    undo_fails: 0,
                    undo_hangs: false,
                    undo_hangs_at: String::new(),
                    handler_fails: false,
                    clean_fails: false,
                    clean_panics: false,
                }),
                goes_on: watch::Sender::new(false),
                made: AtomicU64::new(0),
                acts: AtomicU64::new(0),
                undoings: AtomicU64::new(0),
            })
        };
        WORLDS.lock().unwrap().entry(name.to_owned()).or_insert_with(new).clone()
    }

    pub fn users(&self) -> Vec<String> {
        self.users.lock().unwrap().iter().cloned().collect()
    }

    /// From now on acts at `target` end so.
    pub fn acts_end(&self, target: &str, end: Ending) {
        self.mood.lock().unwrap().acts.insert(target.to_owned(), end);
    }

    pub fn undo_fails(&self, times: u32) {
        self.mood.lock().unwrap().undo_fails = times;
    }

    pub fn undo_hangs(&self, hangs: bool) {
        self.mood.lock().unwrap().undo_hangs = hangs;
    }

    pub fn undo_hangs_at(&self, target: &str) {
        self.mood.lock().unwrap().undo_hangs_at = target.to_owned();
    }

    /// From now on the handler fails that runs when the act is done.
    pub fn handler_fails(&self, fails: bool) {
        self.mood.lock().unwrap().handler_fails = fails;
    }

    pub fn clean_fails(&self, fails: bool) {
        self.mood.lock().unwrap().clean_fails = fails;
    }

    pub fn clean_panics(&self, panics: bool) {
        self.mood.lock().unwrap().clean_panics = panics;
    }

    /// What hangs does so no longer.
    pub fn go_on(&self) {
        self.goes_on.send_replace(true);
    }

    async fn hang(&self) {
        let mut goes_on = self.goes_on.subscribe();
        let _told = goes_on.wait_for(|on| *on).await;
    }
}

/// The time an act may take, as the engine says it.
pub const TIME_OUT_SECS: u64 = 20;

pub struct Engine {
    world: Arc<World>,
    routes: Routes<Engine>,
}

/// The factory for the table of engines.
pub fn outside(mount: &MountEntry) -> std::result::Result<Arc<dyn Backend>, String> {
    let routes = Routes::new()
        .path("creds/{target}", "Make a user at a target.", |p| {
            p.read(made).prepared(Operation::Read, name).acts(Operation::Read, intend)
        })
        .path("leased/{target}", "Make a user that has a lease.", |p| {
            p.read(leased).prepared(Operation::Read, name).acts(Operation::Read, intend)
        })
        .path("note", "Something with a lease that is nowhere but in the store.", |p| p.update(noted))
        .path("left/{target}", "Whether something is left at a target.", |p| p.read(left))
        .path("users", "The users that the store knows.", |p| p.list(known));
    Ok(Arc::new(Engine { world: World::of(mount.option("world").unwrap_or("")), routes }))
}

fn name(engine: &Engine, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let world = engine.world.clone();
    Ok(Some(Box::pin(async move {
        let n = world.made.fetch_add(1, Ordering::SeqCst);
        let name: Prepared = Arc::new(format!("user-{n}"));
        Ok(name)
    })))
}

fn intend(_: &Engine, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Act>> {
    let name: &String = call.prepared.and_then(|p| p.downcast_ref()).ok_or(Error::NotFound)?;
    let target = call.capture("target").to_owned();
    if target == "none" {
        return Ok(None);
    }
    assert!(target != "defect", "the engine panics on purpose");
    Ok(Some(Act {
        outside: Outside { target, name: name.clone(), record: b"record".to_vec() },
        means: Arc::new("means"),
        time_out: Duration::from_secs(TIME_OUT_SECS),
    }))
}

/// The user is there: it is stored, in the commit that ends the intent.
fn made(engine: &Engine, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let mut m = Map::new();
    if let Some(done) = call.done {
        if engine.world.mood.lock().unwrap().handler_fails {
            return Err(Error::bad_request("the handler fails on purpose"));
        }
        tx.put(Place::Name(USERS, &done.outside.name), Vec::new())?;
        m.insert("username".into(), done.outside.name.clone().into());
    }
    Ok(Response::data(m))
}

/// How long leases of this engine live at first, and at most.
pub const LEASE_SECS: (u64, u64) = (600, 3600);

fn leased(engine: &Engine, tx: &mut Tx, call: &Call<'_>, p: ()) -> Result<Response> {
    let response = made(engine, tx, call, p)?;
    let Some(done) = call.done else { return Ok(response) };
    let limits = Limits { default_secs: LEASE_SECS.0, max_secs: LEASE_SECS.1 };
    let granted = limits.first(Terms::default(), call.caller, call.now);
    let lease = NewLease {
        ttl_secs: granted.ttl_secs,
        renewable: true,
        outside: done.outside.clone(),
        counted_as: done.outside.target.clone(),
    };
    Ok(Response { new_lease: Some(Box::new(lease)), ..response })
}

fn noted(engine: &Engine, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let name = format!("note-{}", engine.world.made.fetch_add(1, Ordering::SeqCst));
    tx.put(Place::Name(USERS, &name), Vec::new())?;
    let outside = Outside { target: String::new(), name, record: Vec::new() };
    let lease = NewLease { ttl_secs: 60, renewable: false, outside, counted_as: String::new() };
    Ok(Response { new_lease: Some(Box::new(lease)), ..Response::data(Map::new()) })
}

fn left(_: &Engine, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let mut m = Map::new();
    m.insert("left".into(), tx.has_outside(call.capture("target"))?.into());
    Ok(Response::data(m))
}

fn known(_: &Engine, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(tx.names(USERS, "", "", 0)?)
}

impl Backend for Engine {
    fn kind(&self) -> &'static str {
        "outside"
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
    holdfast_sdk::handled_by!(routes);

    fn effect<'a>(&'a self, outside: &'a Outside, means: &'a Means) -> Work<'a, Result<Means, Failure>> {
        Box::pin(async {
            let end = self.world.mood.lock().unwrap().acts.get(&outside.target).copied().unwrap_or(Ending::Works);
            self.world.acts.fetch_add(1, Ordering::SeqCst);
            assert_eq!((means.downcast_ref(), &*outside.record), (Some(&"means"), &b"record"[..]));
            if end == Ending::Refused {
                return Err(Failure::Nothing(Error::bad_request("the world refuses")));
            }
            if end == Ending::HangsBefore {
                self.world.hang().await;
            }
            self.world.users.lock().unwrap().insert(outside.name.clone());
            match end {
                Ending::AnswerLost => return Err(Error::Unavailable("the answer was lost".into()).into()),
                Ending::HangsAfter => self.world.hang().await,
                _ => {}
            }
            Ok(Arc::new(()) as Means)
        })
    }

    fn reach(&self, _: &mut Tx, outside: &Outside) -> Result<Means> {
        Ok(Arc::new(outside.target.clone()))
    }

    /// A user that is not there is undone.
    fn undo<'a>(&'a self, outside: &'a Outside, means: &'a Means) -> Work<'a, Result<()>> {
        Box::pin(async {
            assert_eq!(means.downcast_ref(), Some(&outside.target));
            self.world.undoings.fetch_add(1, Ordering::SeqCst);
            let hangs = {
                let mut mood = self.world.mood.lock().unwrap();
                if mood.undo_fails > 0 {
                    mood.undo_fails -= 1;
                    return Err(Error::Unavailable("the world cannot be reached".into()));
                }
                mood.undo_hangs || mood.undo_hangs_at == outside.target
            };
            if hangs {
                self.world.hang().await;
            }
            self.world.users.lock().unwrap().remove(&outside.name);
            Ok(())
        })
    }

    fn lease_terms(&self, _: &mut Tx, _: &Outside) -> Result<Terms> {
        Ok(Terms { default_secs: LEASE_SECS.0, max_secs: LEASE_SECS.1 })
    }

    fn extend<'a>(&'a self, outside: &'a Outside, _: &'a Means, until: Timestamp) -> Work<'a, Result<()>> {
        Box::pin(async move {
            if !self.world.users.lock().unwrap().contains(&outside.name) {
                return Err(Error::bad_request("no such user"));
            }
            self.world.ends.lock().unwrap().insert(outside.name.clone(), until);
            Ok(())
        })
    }

    fn lease_ended(&self, tx: &mut Tx, outside: &Outside) -> Result<()> {
        tx.delete(Place::Name(USERS, &outside.name))
    }

    fn clean(&self, _: &mut Tx) -> Result<bool> {
        let (fails, panics) = {
            let mood = self.world.mood.lock().unwrap();
            (mood.clean_fails, mood.clean_panics)
        };
        assert!(!panics, "the clean-up panics on purpose");
        match fails {
            true => Err(Error::Internal("the clean-up fails on purpose".into())),
            false => Ok(false),
        }
    }
}
