//! `identity/oidc/key/*`: named keys that sign identity tokens.
//!
//! A key is rotated from time to time: the next one takes its place, which is published long before; the one before
//! stays published for as long as what it signed may count.

use std::sync::Arc;

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Operation, Place, Preparation, Prepared, Response, Result, Table, Timestamp, Transaction, parameters,
};
use minicbor::{Decode, Encode};

use super::algorithm::{Algorithm, Pair};
use super::roles::Role;
use super::store::{self, Named};
use super::{R, map, plain, provider, rotation, seconds};
use crate::identity::IdentityBackend;
use crate::layout::IDENTITY;
use crate::layout::identity::OIDC_KEY;
use crate::random;
use crate::tx::Tx;

/// The key that every namespace has. It is made when something first refers to it.
pub const DEFAULT: &str = "default";

const DAY_SECS: u64 = 24 * 3600;
const SHORTEST_ROTATION_SECS: u64 = 60;

/// The private part of a key, with the public one.
#[derive(Clone, Encode, Decode)]
pub struct Signing {
    #[n(0)]
    pub kid: String,
    /// PKCS#8.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub private: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub public: Vec<u8>,
    #[n(3)]
    pub algorithm: Algorithm,
}

/// A key that signs nothing any more.
#[derive(Clone, Encode, Decode)]
struct Retired {
    #[n(0)]
    kid: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    public: Vec<u8>,
    #[n(2)]
    algorithm: Algorithm,
    /// Unix time in nanoseconds.
    #[n(3)]
    published_until: u64,
}

#[derive(Clone, Encode, Decode)]
pub struct NamedKey {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub algorithm: Algorithm,
    #[n(2)]
    pub rotation_secs: u64,
    /// How long a key is published after its rotation.
    #[n(3)]
    pub verification_secs: u64,
    #[n(4)]
    pub allowed_client_ids: Vec<String>,
    #[n(5)]
    pub signing: Signing,
    #[n(6)]
    next: Signing,
    #[n(7)]
    retired: Vec<Retired>,
    /// Its entry in the index of what is to be rotated.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub due: Vec<u8>,
}
holdfast_sdk::record!(NamedKey);

impl Named for NamedKey {
    const TABLE: Table = OIDC_KEY;
    const KIND: &'static str = "key";
    fn name(&self) -> &str {
        &self.name
    }
}

/// A public key as it is published.
pub struct Public<'k> {
    pub kid: &'k str,
    pub algorithm: Algorithm,
    pub key: &'k [u8],
}

/// What a key is without its pairs.
struct Settings {
    algorithm: Algorithm,
    rotation_secs: u64,
    verification_secs: u64,
    allowed_client_ids: Vec<String>,
}

impl Settings {
    /// Of the key that every namespace has.
    fn of_default() -> Settings {
        let allowed_client_ids = vec!["*".to_owned()];
        Settings { allowed_client_ids, ..Settings::of_new() }
    }

    fn of_new() -> Settings {
        Settings {
            algorithm: Algorithm::Rs256,
            rotation_secs: DAY_SECS,
            verification_secs: DAY_SECS,
            allowed_client_ids: Vec::new(),
        }
    }

    fn of(key: &NamedKey) -> Settings {
        Settings {
            algorithm: key.algorithm,
            rotation_secs: key.rotation_secs,
            verification_secs: key.verification_secs,
            allowed_client_ids: key.allowed_client_ids.clone(),
        }
    }
}

impl Signing {
    fn new(algorithm: Algorithm, pair: &Pair) -> Result<Signing> {
        Ok(Signing {
            kid: random::uuid_text(&random::uuid()?),
            private: pair.private.expose().clone(),
            public: pair.public.clone(),
            algorithm,
        })
    }
}

impl NamedKey {
    fn new(name: &str, settings: Settings, made: &Made) -> Result<NamedKey> {
        let (signing, next) = made.two(settings.algorithm)?;
        Ok(NamedKey {
            name: name.to_owned(),
            algorithm: settings.algorithm,
            rotation_secs: settings.rotation_secs,
            verification_secs: settings.verification_secs,
            allowed_client_ids: settings.allowed_client_ids,
            signing,
            next,
            retired: Vec::new(),
            due: Vec::new(),
        })
    }

    /// What verifies at a time: in use, next, and retired but not past.
    pub fn public(&self, now: Timestamp) -> impl Iterator<Item = Public<'_>> {
        let live = [&self.signing, &self.next];
        let live = live.into_iter().map(|s| Public { kid: &s.kid, algorithm: s.algorithm, key: &s.public });
        let retired = self.retired.iter().filter(move |r| r.published_until > now.0);
        live.chain(retired.map(|r| Public { kid: &r.kid, algorithm: r.algorithm, key: &r.public }))
    }

    /// It is about to sign.
    pub fn note_use(&self, tx: &mut Tx) {
        tx.within(IDENTITY, |tx| tx.note_use(&use_of(&self.name), Place::Name(OIDC_KEY, &self.name)));
    }

    pub fn allows(&self, client_id: &str) -> bool {
        self.allowed_client_ids.iter().any(|id| id == "*" || id == client_id)
    }

    /// The next key takes over.
    pub fn rotate(&mut self, next: Signing, verification_secs: u64, now: Timestamp) {
        let next = std::mem::replace(&mut self.next, next);
        let before = std::mem::replace(&mut self.signing, next);
        self.retire(before, verification_secs, now);
    }

    fn retire(&mut self, before: Signing, verification_secs: u64, now: Timestamp) {
        self.retired.retain(|r| r.published_until > now.0);
        if verification_secs > 0 {
            self.retired.push(Retired {
                kid: before.kid,
                public: before.public,
                algorithm: before.algorithm,
                published_until: now.plus_secs(verification_secs).0,
            });
        }
        // Whoever rotates by hand all the time publishes no more than this: the oldest go first.
        let over = self.retired.len().saturating_sub(MOST_RETIRED);
        self.retired.drain(..over);
    }

    /// Store it, with the time of its next rotation.
    pub fn save(mut self, tx: &mut Tx, now: Timestamp) -> Result<()> {
        self.due = rotation::schedule(tx, &self, now)?;
        store::save(tx, &self)
    }
}

/// What `sys/last-use` tells a key by.
fn use_of(name: &str) -> String {
    format!("oidc/key/{name}")
}

/// Keys that are published after their rotation, for each name.
const MOST_RETIRED: usize = 64;

/// Pairs that were made before the transaction.
pub struct Made {
    algorithm: Algorithm,
    pairs: Vec<Pair>,
}

impl Made {
    fn pair(&self, algorithm: Algorithm, at: usize) -> Result<Signing> {
        match self.pairs.get(at).filter(|_| self.algorithm == algorithm) {
            Some(pair) => Signing::new(algorithm, pair),
            None => Err(changed()),
        }
    }

    fn two(&self, algorithm: Algorithm) -> Result<(Signing, Signing)> {
        Ok((self.pair(algorithm, 0)?, self.pair(algorithm, 1)?))
    }

    pub fn one(&self, algorithm: Algorithm) -> Result<Signing> {
        self.pair(algorithm, 0)
    }
}

/// What was prepared is for a key that has changed since.
fn changed() -> Error {
    Error::Unavailable("the key has just been changed; try again".into())
}

/// Make pairs; where that is slow, on a thread of its own.
pub async fn make(slow: Arc<tokio::sync::Semaphore>, algorithm: Algorithm, count: usize) -> Result<Made> {
    let work = move || {
        let pairs: Result<Vec<Pair>> = (0..count).map(|_| algorithm.generate()).collect();
        Ok(Made { algorithm, pairs: pairs? })
    };
    if !algorithm.is_slow() {
        return work();
    }
    let _turn = slow.acquire_owned().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

fn preparation(backend: &IdentityBackend, algorithm: Algorithm, count: usize) -> Option<Preparation> {
    let slow = backend.slow.clone();
    Some(Box::pin(async move {
        let made: Prepared = Arc::new(make(slow, algorithm, count).await?);
        Ok(made)
    }))
}

fn prepared<'c>(call: &'c Call<'_>) -> Result<&'c Made> {
    call.prepared.and_then(|p| p.downcast_ref::<Made>()).ok_or_else(changed)
}

/// Before something refers to the default key: make its pairs if it is not there yet.
pub fn prepare_default(backend: &IdentityBackend, tx: &mut Tx, name: &str) -> Result<Option<Preparation>> {
    match name == DEFAULT && !store::is_there::<NamedKey>(tx, DEFAULT)? {
        true => Ok(preparation(backend, Settings::of_default().algorithm, 2)),
        false => Ok(None),
    }
}

/// The key that something is about to refer to. The default one is stored now, if it is not there yet.
pub fn referred(tx: &mut Tx, call: &Call<'_>, name: &str) -> Result<Option<NamedKey>> {
    match store::load::<NamedKey>(tx, name)? {
        None if name == DEFAULT => {
            let key = NamedKey::new(DEFAULT, Settings::of_default(), prepared(call)?)?;
            key.clone().save(tx, call.now)?;
            Ok(Some(key))
        }
        other => Ok(other),
    }
}

/// How long a key is published after its rotation; also where it is not made yet. None: there is no such key.
pub fn verification_secs(tx: &mut Tx, name: &str) -> Result<Option<u64>> {
    Ok(match store::load::<NamedKey>(tx, name)? {
        Some(key) => Some(key.verification_secs),
        None if name == DEFAULT => Some(Settings::of_default().verification_secs),
        None => None,
    })
}

parameters! {
    pub struct Write {
        /// How often the key is changed: a minute at least.
        rotation_period: Option<Seconds>,
        /// How long a key is published after it was changed.
        verification_ttl: Option<Seconds>,
        /// RS256, RS384, RS512, ES256, ES384, ES512 or EdDSA.
        algorithm: Option<String>,
        /// Clients that tokens of this key may be for; `*`: all.
        allowed_client_ids: Option<Vec<String>>,
    }
}
parameters! {
    pub struct Rotate {
        /// How long the key that is changed stays published, this time.
        verification_ttl: Option<Seconds>,
    }
}

pub fn routes(routes: R) -> R {
    routes
        .path("oidc/key", "List the keys of identity tokens.", |p| p.list(list))
        .path("oidc/key/{name}", "Read, write and delete a key of identity tokens.", |p| {
            p.read(read).write(exists, write).prepared(Operation::Update, prepare_write).delete(delete)
        })
        .path("oidc/key/{name}/rotate", "Change a key of identity tokens at once.", |p| {
            p.update(rotate).prepared(Operation::Update, prepare_rotate)
        })
}

fn exists(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    let name = call.capture("name");
    Ok(Some(name == DEFAULT || store::is_there::<NamedKey>(tx, name)?))
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut names = store::names::<NamedKey>(tx)?;
    if let Err(at) = names.binary_search_by(|n| n.as_str().cmp(DEFAULT)) {
        names.insert(at, DEFAULT.into());
    }
    Response::list(names)
}

fn settings_of(tx: &mut Tx, name: &str) -> Result<Option<Settings>> {
    Ok(match store::load::<NamedKey>(tx, plain(name)?)? {
        Some(key) => Some(Settings::of(&key)),
        None => (name == DEFAULT).then(Settings::of_default),
    })
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let settings = settings_of(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    Ok(Response::data(map([
        ("rotation_period", settings.rotation_secs.into()),
        ("verification_ttl", settings.verification_secs.into()),
        ("algorithm", settings.algorithm.name().into()),
        ("allowed_client_ids", settings.allowed_client_ids.into()),
    ])))
}

/// The settings that a write leads to, if it may.
fn written(tx: &mut Tx, name: &str, p: Write) -> Result<Settings> {
    let mut settings = settings_of(tx, name)?.unwrap_or_else(Settings::of_new);
    if let Some(secs) = seconds("rotation_period", p.rotation_period)? {
        settings.rotation_secs = secs;
    }
    if settings.rotation_secs < SHORTEST_ROTATION_SECS {
        return Err(Error::bad_request("rotation_period must be at least one minute"));
    }
    if let Some(secs) = seconds("verification_ttl", p.verification_ttl)? {
        settings.verification_secs = secs;
    }
    if settings.verification_secs > settings.rotation_secs.saturating_mul(10) {
        return Err(Error::bad_request("verification_ttl cannot be longer than 10x rotation_period"));
    }
    if let Some(ids) = p.allowed_client_ids {
        settings.allowed_client_ids = ids;
    }
    if let Some(given) = p.algorithm {
        settings.algorithm = Algorithm::named(&given)
            .ok_or_else(|| Error::bad_request(format!("unknown signing algorithm {given:?}")))?;
    }
    let longer: Vec<String> = store::all::<Role>(tx)?
        .into_iter()
        .filter(|r| r.key == name && r.ttl_secs > settings.verification_secs)
        .map(|r| r.name)
        .collect();
    if !longer.is_empty() {
        return Err(Error::bad_request(format!(
            "unable to update key {name:?} because it is currently referenced by one or more roles with a token ttl \
             greater than {} seconds: {}",
            settings.verification_secs,
            longer.join(", ")
        )));
    }
    Ok(settings)
}

fn prepare_write(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Option<Preparation>> {
    let name = call.capture("name");
    let settings = written(tx, name, p)?;
    match store::load::<NamedKey>(tx, name)? {
        Some(key) if key.algorithm == settings.algorithm => Ok(None),
        _ => Ok(preparation(backend, settings.algorithm, 2)),
    }
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = call.capture("name");
    let settings = written(tx, name, p)?;
    let key = match store::load::<NamedKey>(tx, name)? {
        None => NamedKey::new(name, settings, prepared(call)?)?,
        Some(mut key) => {
            if key.algorithm != settings.algorithm {
                let (signing, next) = prepared(call)?.two(settings.algorithm)?;
                // What the key before has signed counts as long as it would have.
                let (before, kept) = (std::mem::replace(&mut key.signing, signing), key.verification_secs);
                key.next = next;
                key.retire(before, kept, call.now);
            }
            let Settings { algorithm, rotation_secs, verification_secs, allowed_client_ids } = settings;
            NamedKey { algorithm, rotation_secs, verification_secs, allowed_client_ids, ..key }
        }
    };
    key.save(tx, call.now)?;
    Ok(Response::empty())
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    if name == DEFAULT {
        return Err(Error::bad_request(format!("deletion of key {name:?} not allowed")));
    }
    let roles = store::all::<Role>(tx)?.into_iter().filter(|r| r.key == name).map(|r| r.name).collect();
    store::in_use("key", name, "roles", roles)?;
    store::in_use("key", name, "clients", provider::referring_clients(tx, name)?)?;
    if let Some(key) = store::load::<NamedKey>(tx, name)? {
        rotation::forget(tx, &key)?;
        tx.within(IDENTITY, |tx| tx.forget_use(&use_of(name)))?;
        store::delete::<NamedKey>(tx, name)?;
    }
    Ok(Response::empty())
}

fn prepare_rotate(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: Rotate) -> Result<Option<Preparation>> {
    let name = plain(call.capture("name"))?;
    match store::load::<NamedKey>(tx, name)? {
        Some(key) => Ok(preparation(backend, key.algorithm, 1)),
        None => prepare_default(backend, tx, name),
    }
}

fn rotate(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Rotate) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    let verification = seconds("verification_ttl", p.verification_ttl)?;
    let Some(mut key) = store::load::<NamedKey>(tx, name)? else {
        // One that was never used is as good as rotated when it is made.
        let made = referred(tx, call, name)?;
        return match made {
            Some(_) => Ok(Response::empty()),
            None => Err(Error::bad_request(format!("no named key found at {name:?}"))),
        };
    };
    let kept = verification.unwrap_or(key.verification_secs);
    key.rotate(prepared(call)?.one(key.algorithm)?, kept, call.now);
    key.save(tx, call.now)?;
    Ok(Response::empty())
}
