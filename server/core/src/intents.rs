//! Intents: what requests make outside, from before they begin until it is committed or undone.
//!
//! An intent is stored before its act starts and goes in the commit that completes the request. Until
//! its deadline it belongs to its request; then, or when the request says that it failed, it is undone
//! ([`crate::undo`]), and once more [`LOOK_AGAIN`] later, because an act that was given up may still
//! happen. Every step is a transaction, so that completing and undoing exclude one another. Times here are
//! cluster times.

use std::time::Duration;

use holdfast_sdk::{Act, Error, Map, Outside, Place, Result, Timestamp, Transaction, Value, record};
use minicbor::{Decode, Encode};

use crate::expiry;
use crate::layout::{GIVEN_UP, INTENTS, INTENTS_DUE, IRREVOCABLE, NamespaceId, ROOT, STORE, SYSTEM};
use crate::leases::{self, EngineLease};
use crate::namespaces::seal;
use crate::router::Mount;
use crate::tx::{Effect, Tx};
use crate::{clock, random, router};

/// The longest time that an act may be given.
pub const MAX_TIME_OUT: Duration = Duration::from_secs(300);
/// From the end of an act's time to the deadline of its intent.
pub const GRACE: Duration = Duration::from_secs(10);
/// From the deadline (or the undoing, if that comes later) to the second look.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// How long one undoing may take.
pub const UNDO_TIME_OUT: Duration = Duration::from_secs(60);
/// Pauses between failed tries of undoing: the first, doubled with each, up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// Tries after which an undoing waits for an operator or the next unseal: more than a day's.
const TRIES: u32 = 36;

/// Intents that are looked at in one transaction.
const BATCH: usize = 256;
/// What is kept of an error.
const ERROR_CHARS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum State {
    /// Its request is under way, until the deadline.
    #[n(0)]
    Open,
    /// It is to be undone.
    #[n(1)]
    Undoing,
    /// It was undone, and is undone once more before it is forgotten.
    #[n(2)]
    Undone,
    /// Undoing failed too often.
    #[n(3)]
    GivenUp,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Undoing => "undoing",
            State::Undone => "undone",
            State::GivenUp => "given-up",
        }
    }
}

/// An intent as it is stored.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Intent {
    #[n(0)]
    pub mount_path: String,
    #[n(1)]
    pub target: String,
    /// The exact name of what is made.
    #[n(2)]
    pub name: String,
    /// The engine's own.
    #[cbor(n(3), with = "minicbor::bytes")]
    record: Vec<u8>,
    #[n(4)]
    request_id: String,
    #[n(5)]
    created_ns: u64,
    #[n(6)]
    deadline_ns: u64,
    #[n(7)]
    pub state: State,
    /// Undoings that failed since the last that did not.
    #[n(8)]
    tries: u32,
    #[n(9)]
    last_error: Option<String>,
    /// Its key in the index of when to look at it; none while nobody will.
    #[cbor(n(10), with = "minicbor::bytes")]
    due_key: Option<Vec<u8>>,
    /// The lease that ends with the undoing. One undoing is enough then: nobody is about to make it any more.
    #[n(11)]
    lease: Option<String>,
}
holdfast_sdk::record!(Intent);

impl Intent {
    pub fn outside(&self) -> Outside {
        Outside { target: self.target.clone(), name: self.name.clone(), record: self.record.clone() }
    }

    /// The lease that it ends.
    pub fn lease(&self) -> Option<&str> {
        self.lease.as_deref()
    }

    /// Undoings that have failed.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// It ends a lease.
    pub fn is_of_lease(&self) -> bool {
        self.lease.is_some()
    }

    fn deadline(&self) -> Timestamp {
        Timestamp(self.deadline_ns)
    }

    /// When it is looked at next.
    fn next_look(&self) -> Option<Timestamp> {
        self.due_key.as_deref().and_then(expiry::time_of)
    }
}

/// Where an intent is stored: its mount's UUID, then its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Key(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl Key {
    fn new(mount: &[u8; 16]) -> Result<Key> {
        let mut key = [0; 32];
        key[..16].copy_from_slice(mount);
        key[16..].copy_from_slice(&random::uuid()?);
        Ok(Key(key))
    }

    pub fn read(bytes: &[u8]) -> Result<Key> {
        bytes.try_into().map(Key).map_err(|_| Error::Internal("an intent's key is broken".into()))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As an operator names it: the mount's UUID and its own.
    pub fn id(&self) -> String {
        let mut own = [0; 16];
        own.copy_from_slice(&self.0[16..]);
        format!("{}.{}", random::uuid_text(&self.mount()), random::uuid_text(&own))
    }

    fn parse(id: &str) -> Option<Key> {
        let digits: String = id.chars().filter(|c| !matches!(c, '-' | '.')).collect();
        hex::decode(digits).ok()?.try_into().ok().map(Key)
    }

    pub fn mount(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        id
    }
}

pub fn after(t: Timestamp, d: Duration) -> Timestamp {
    Timestamp(t.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
}

fn load(tx: &mut Tx, key: &Key) -> Result<Option<Intent>> {
    tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(INTENTS, &key.0)))
}

fn save(tx: &mut Tx, key: &Key, intent: &Intent) -> Result<()> {
    tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(INTENTS, &key.0), intent))
}

/// An intent that is due.
pub struct Due {
    pub namespace: NamespaceId,
    pub key: Key,
    pub target: String,
}

impl Due {
    /// The namespace stands behind the key, unless it is the root.
    fn encode(namespace: NamespaceId, key: &Key) -> Vec<u8> {
        if namespace == ROOT { key.0.to_vec() } else { [&key.0[..], &namespace].concat() }
    }

    fn decode(bytes: &[u8]) -> Result<(NamespaceId, Key)> {
        let (key, namespace) = bytes.split_at(bytes.len().min(32));
        Ok((namespace.try_into().unwrap_or(ROOT), Key::read(key)?))
    }
}

/// Look at it at `at`, and not before; `None`: when somebody asks for it.
fn save_due(tx: &mut Tx, key: &Key, intent: &mut Intent, at: Option<Timestamp>) -> Result<()> {
    if let Some(old) = intent.due_key.take() {
        expiry::remove_in(tx, INTENTS_DUE, &old)?;
    }
    if let Some(at) = at {
        intent.due_key = Some(expiry::put_in(tx, INTENTS_DUE, at, Due::encode(tx.namespace(), key))?);
    }
    save(tx, key, intent)
}

fn remove(tx: &mut Tx, key: &Key, intent: &Intent) -> Result<()> {
    if let Some(due) = &intent.due_key {
        expiry::remove_in(tx, INTENTS_DUE, due)?;
    }
    tx.within(SYSTEM, |tx| {
        if intent.lease.is_some() {
            tx.delete(Place::Ordered(IRREVOCABLE, &key.0))?;
        }
        tx.delete(Place::Ordered(INTENTS, &key.0))
    })
}

/// Store the intent of an act that starts when this is committed.
pub fn add(tx: &mut Tx, mount: &Mount, request_id: &str, act: &Act, now: Timestamp) -> Result<Key> {
    require_mount(tx, mount)?;
    let key = Key::new(&mount.entry.uuid)?;
    let deadline = after(now, act.time_out.min(MAX_TIME_OUT) + GRACE);
    let mut intent = Intent {
        mount_path: mount.full_path.clone(),
        target: act.outside.target.clone(),
        name: act.outside.name.clone(),
        record: act.outside.record.clone(),
        request_id: request_id.to_owned(),
        created_ns: now.0,
        deadline_ns: deadline.0,
        state: State::Open,
        tries: 0,
        last_error: None,
        due_key: None,
        lease: None,
    };
    save_due(tx, &key, &mut intent, Some(deadline))?;
    Ok(key)
}

/// A lease ends: what it stands for is to be undone from this commit on.
pub fn end_lease(tx: &mut Tx, lease: &EngineLease) -> Result<Key> {
    let key = Key::new(&lease.mount)?;
    let (outside, now) = (lease.outside(), clock::now());
    let mut intent = Intent {
        mount_path: lease.mount_path().to_owned(),
        target: outside.target,
        name: outside.name,
        record: outside.record,
        request_id: String::new(),
        created_ns: now.0,
        deadline_ns: now.0,
        state: State::Undoing,
        tries: 0,
        last_error: None,
        due_key: None,
        lease: Some(lease.id.clone()),
    };
    tx.effect(Effect::Undo);
    // Whatever the clocks say, it is due.
    save_due(tx, &key, &mut intent, Some(Timestamp(0)))?;
    Ok(key)
}

/// A client waits while what a lease stands for is undone: should nothing be heard of that by a deadline (its process
/// stopped, another node leads), the lease ends as one whose time is over.
pub fn await_end(tx: &mut Tx, lease: &EngineLease, deadline: Timestamp) -> Result<Key> {
    let key = Key::new(&lease.mount)?;
    let outside = lease.outside();
    let mut intent = Intent {
        mount_path: lease.mount_path().to_owned(),
        target: outside.target,
        name: outside.name,
        record: outside.record,
        request_id: String::new(),
        created_ns: clock::now().0,
        deadline_ns: deadline.0,
        state: State::Open,
        tries: 0,
        last_error: None,
        due_key: None,
        lease: Some(lease.id.clone()),
    };
    save_due(tx, &key, &mut intent, Some(deadline))?;
    Ok(key)
}

/// Somebody asks for the end of a lease that is being ended: it is tried at once.
pub fn hurry(tx: &mut Tx, key: &Key) -> Result<()> {
    let Some(mut intent) = load(tx, key)? else { return Ok(()) };
    if intent.state == State::GivenUp {
        (intent.state, intent.tries) = (State::Undoing, 0);
    }
    tx.effect(Effect::Undo);
    save_due(tx, key, &mut intent, Some(Timestamp(0)))
}

/// The lease that it was to end is forgotten, or has ended otherwise.
pub fn drop_ending(tx: &mut Tx, key: &Key) -> Result<()> {
    match load(tx, key)? {
        Some(intent) => {
            tx.effect(Effect::RunJobs);
            remove(tx, key, &intent)
        }
        None => Ok(()),
    }
}

/// Why a lease has not ended yet: tries that failed, and the last error.
pub fn why(tx: &mut Tx, key: &Key) -> Result<Option<(State, u32, Option<String>)>> {
    Ok(load(tx, key)?.map(|i| (i.state, i.tries, i.last_error)))
}

/// A mount that was disabled meanwhile completes nothing any more.
fn require_mount(tx: &mut Tx, mount: &Mount) -> Result<()> {
    match router::is_stored(tx, &mount.entry)? {
        true => Ok(()),
        false => Err(Error::Status(404, vec![format!("the mount {:?} is disabled", mount.full_path)])),
    }
}

/// The act is done and what the request makes is in this transaction: the intent goes with it.
pub fn complete(tx: &mut Tx, mount: &Mount, key: &Key) -> Result<()> {
    require_mount(tx, mount)?;
    match load(tx, key)? {
        Some(intent) if intent.state == State::Open => remove(tx, key, &intent),
        _ => Err(Error::Unavailable("what was made outside came too late: it is taken back; try again".into())),
    }
}

/// The act certainly made nothing, or a lease is as it was.
pub fn drop_open(tx: &mut Tx, key: &Key) -> Result<()> {
    match load(tx, key)? {
        Some(intent) if intent.state == State::Open => remove(tx, key, &intent),
        _ => Ok(()),
    }
}

/// Its request has failed and does nothing outside any more: undo it now. One that is gone already was undone
/// while the act was still under way, and is undone again.
pub fn give_back(tx: &mut Tx, mount: &Mount, key: &Key, outside: &Outside, why: &str, now: Timestamp) -> Result<()> {
    let mut intent = match load(tx, key)? {
        Some(intent) => intent,
        None => Intent {
            mount_path: mount.full_path.clone(),
            target: outside.target.clone(),
            name: outside.name.clone(),
            record: outside.record.clone(),
            request_id: String::new(),
            created_ns: now.0,
            deadline_ns: now.0,
            state: State::Open,
            tries: 0,
            last_error: None,
            due_key: None,
            lease: None,
        },
    };
    intent.state = State::Undoing;
    intent.last_error = Some(shortened(why));
    tx.effect(Effect::RunJobs);
    save_due(tx, key, &mut intent, Some(now))
}

/// Intents that are due by `now`, the oldest first, with their targets.
pub fn due(tx: &mut Tx, now: Timestamp, limit: usize) -> Result<Vec<Due>> {
    let mut out = Vec::new();
    for (_, value) in expiry::due_in(tx, INTENTS_DUE, now, limit)? {
        let (namespace, key) = Due::decode(&value)?;
        if tx.is_sealed(&namespace) {
            continue;
        }
        if let Some(intent) = tx.within(SYSTEM.of(namespace), |tx| load(tx, &key))? {
            out.push(Due { namespace, key, target: intent.target });
        }
    }
    Ok(out)
}

/// Put aside what is due in sealed namespaces. False: there was nothing.
pub fn park_due(tx: &mut Tx, now: Timestamp, limit: usize) -> Result<bool> {
    let mut any = false;
    for (place, value) in expiry::due_in(tx, INTENTS_DUE, now, limit)? {
        let (namespace, _) = Due::decode(&value)?;
        if tx.is_sealed(&namespace) {
            seal::park(tx, &namespace, INTENTS_DUE, &place, value)?;
            any = true;
        }
    }
    Ok(any)
}

/// Take a due intent for undoing: from this commit on its request cannot complete it. It is due again if
/// nothing is heard of the undoing.
pub fn begin_undo(tx: &mut Tx, key: &Key, now: Timestamp) -> Result<Option<Intent>> {
    // Somebody may have undone it since it was found due.
    let is_due = |intent: &Intent| intent.next_look().is_some_and(|at| at <= now);
    let Some(mut intent) = load(tx, key)?.filter(is_due) else { return Ok(None) };
    if intent.state == State::Open {
        if now < intent.deadline() {
            return Ok(None);
        }
        intent.state = State::Undoing;
        if let Some(lease) = &intent.lease
            && !leases::ends_by(tx, lease, key)?
        {
            // It is gone, or ends otherwise.
            remove(tx, key, &intent)?;
            return Ok(None);
        }
    }
    save_due(tx, key, &mut intent, Some(after(now, UNDO_TIME_OUT + GRACE)))?;
    Ok(Some(intent))
}

/// It is undone: for the first time, or for good. True: it is forgotten.
pub fn undone(tx: &mut Tx, key: &Key, now: Timestamp) -> Result<bool> {
    let Some(mut intent) = load(tx, key)? else { return Ok(true) };
    if let Some(lease) = &intent.lease {
        leases::undone(tx, lease)?;
    }
    if intent.state == State::Undone || intent.lease.is_some() {
        remove(tx, key, &intent)?;
        tx.effect(Effect::RunJobs);
        return Ok(true);
    }
    intent.state = State::Undone;
    intent.tries = 0;
    intent.last_error = None;
    let again = after(now.max(intent.deadline()), LOOK_AGAIN);
    save_due(tx, key, &mut intent, Some(again))?;
    Ok(false)
}

/// Undoing failed: it is tried again after a pause that grows, until it is given up. True: it was just now.
pub fn failed(tx: &mut Tx, key: &Key, error: &str, now: Timestamp) -> Result<bool> {
    let Some(mut intent) = load(tx, key)? else { return Ok(false) };
    intent.tries += 1;
    intent.last_error = Some(shortened(error));
    if intent.tries >= TRIES {
        intent.state = State::GivenUp;
        tracing::error!(
            mount = %intent.mount_path, target = %intent.target, name = %intent.name, %error,
            "what was made outside cannot be undone; it is tried again at the next unseal, or when sys/intents says so"
        );
        if let Some(lease) = &intent.lease {
            let lease = lease.clone().into_bytes();
            tx.within(SYSTEM, |tx| tx.put(Place::Ordered(IRREVOCABLE, &key.0), lease))?;
        }
        if let Some(place) = given_up_place(tx, key) {
            tx.within(STORE, |tx| tx.put(Place::Ordered(GIVEN_UP, &place), Vec::new()))?;
        }
        return save_due(tx, key, &mut intent, None).map(|()| true);
    }
    let again = after(now, pause(intent.tries)?);
    save_due(tx, key, &mut intent, Some(again)).map(|()| false)
}

/// An error's beginning: what a target says may be long.
fn shortened(error: &str) -> String {
    error.chars().take(ERROR_CHARS).collect()
}

/// A pause that doubles with each try, between half of it and the whole.
pub fn pause(tries: u32) -> Result<Duration> {
    let whole = PAUSE.0.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(PAUSE.1);
    let share = u32::from(u16::from_be_bytes(random::bytes()?)) + 1;
    Ok(whole / 2 + whole / 2 * share / (1 << 16))
}

/// Where one of another namespace than the root is found again at an unseal.
fn given_up_place(tx: &Tx, key: &Key) -> Option<Vec<u8>> {
    (tx.namespace() != ROOT).then(|| [&tx.namespace()[..], &key.0].concat())
}

/// The same for what was given up in other namespaces than the root. True: there may be more.
pub fn take_up_again_elsewhere(tx: &mut Tx, now: Timestamp) -> Result<bool> {
    let found = tx.within(STORE, |tx| tx.ordered(GIVEN_UP, &[], &[], BATCH))?;
    for (place, _) in &found {
        tx.within(STORE, |tx| tx.delete(Place::Ordered(GIVEN_UP, place)))?;
        let Some((namespace, key)) = place.split_first_chunk::<16>() else { continue };
        if tx.is_sealed(namespace) {
            seal::park(tx, namespace, GIVEN_UP, place, Vec::new())?;
            continue;
        }
        let key = Key::read(key)?;
        tx.within(SYSTEM.of(*namespace), |tx| match load(tx, &key)? {
            Some(intent) if intent.state == State::GivenUp => try_again(tx, &key, intent, now),
            _ => Ok(()),
        })?;
    }
    Ok(found.len() == BATCH)
}

/// At an unseal: what was given up is tried once more. Looks at a batch from a key on; returns where the next
/// one begins, if there is more.
pub fn take_up_again(tx: &mut Tx, from: &[u8], now: Timestamp) -> Result<Option<Vec<u8>>> {
    let batch = read_all(tx.within(SYSTEM, |tx| tx.ordered(INTENTS, from, &[], BATCH))?)?;
    let next = batch.get(BATCH - 1).map(|(last, _)| [&last.0[..], &[0]].concat());
    for (key, intent) in batch {
        if intent.state == State::GivenUp {
            try_again(tx, &key, intent, now)?;
        }
    }
    Ok(next)
}

/// Look at these later than others that are due.
pub fn make_way(tx: &mut Tx, keys: &[(NamespaceId, Key)], now: Timestamp, pause: Duration) -> Result<()> {
    for (namespace, key) in keys {
        tx.enter(SYSTEM.of(*namespace));
        if let Some(mut intent) = load(tx, key)?.filter(|i| i.next_look().is_some_and(|at| at <= now)) {
            save_due(tx, key, &mut intent, Some(after(now, pause)))?;
        }
    }
    Ok(())
}

fn try_again(tx: &mut Tx, key: &Key, mut intent: Intent, now: Timestamp) -> Result<()> {
    intent.state = State::Undoing;
    intent.tries = 0;
    tx.effect(Effect::RunJobs);
    save_due(tx, key, &mut intent, Some(now))
}

/// How many intents a list shows.
pub const LISTED: usize = 1000;

/// Intents in the order of their mounts.
pub fn list(tx: &mut Tx, limit: usize) -> Result<Vec<(Key, Intent)>> {
    read_all(tx.within(SYSTEM, |tx| tx.ordered(INTENTS, &[], &[], limit))?)
}

/// Some intents of a mount.
pub fn of_mount(tx: &mut Tx, mount: &[u8; 16], limit: usize) -> Result<Vec<(Key, Intent)>> {
    let end = holdfast_storage::prefix_end(mount).unwrap_or_default();
    read_all(tx.within(SYSTEM, |tx| tx.ordered(INTENTS, mount, &end, limit))?)
}

/// Whether something is being made or undone at a mount's target. If there is too much of the mount to look at all of it,
/// there may be.
pub fn any_at(tx: &mut Tx, mount: &[u8; 16], target: &str) -> Result<bool> {
    let some = of_mount(tx, mount, LISTED)?;
    Ok(some.len() == LISTED || some.iter().any(|(_, intent)| intent.target == target))
}

fn read_all(found: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<(Key, Intent)>> {
    found.into_iter().map(|(key, value)| Ok((Key::read(&key)?, record::read(&value)?))).collect()
}

fn find(tx: &mut Tx, id: &str) -> Result<(Key, Intent)> {
    let key = Key::parse(id).ok_or(Error::NotFound)?;
    let intent = load(tx, &key)?.ok_or(Error::NotFound)?;
    Ok((key, intent))
}

/// An operator wants an intent undone now.
pub fn retry(tx: &mut Tx, id: &str, now: Timestamp) -> Result<()> {
    let (key, intent) = find(tx, id)?;
    match intent.state {
        State::Open => Err(Error::bad_request("its request is under way; it is undone after its deadline")),
        State::Undone => save_due(tx, &key, &mut { intent }, Some(now)),
        State::Undoing | State::GivenUp => try_again(tx, &key, intent, now),
    }
}

/// An operator takes it upon themselves: it is forgotten whether or not it was undone.
pub fn forget(tx: &mut Tx, id: &str) -> Result<()> {
    let (key, intent) = find(tx, id)?;
    if intent.state == State::Open {
        return Err(Error::bad_request("its request is under way; it is undone after its deadline"));
    }
    tracing::warn!(mount = %intent.mount_path, target = %intent.target, name = %intent.name, "an operator forgot an intent");
    tx.effect(Effect::RunJobs);
    if let Some(lease) = &intent.lease {
        leases::undone(tx, lease)?;
    }
    remove(tx, &key, &intent)
}

/// An intent as operators see it.
pub fn shown(key: &Key, intent: &Intent) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("id".into(), key.id().into());
    m.insert("mount".into(), intent.mount_path.clone().into());
    m.insert("target".into(), intent.target.clone().into());
    m.insert("name".into(), intent.name.clone().into());
    m.insert("state".into(), intent.state.word().into());
    m.insert("request_id".into(), intent.request_id.clone().into());
    m.insert("created_time".into(), Timestamp(intent.created_ns).rfc3339().into());
    m.insert("deadline".into(), intent.deadline().rfc3339().into());
    m.insert("next_look".into(), intent.next_look().map_or(Value::Null, |t| t.rfc3339().into()));
    m.insert("tries".into(), intent.tries.into());
    if let Some(lease) = &intent.lease {
        m.insert("lease_id".into(), lease.clone().into());
    }
    m.insert("last_error".into(), intent.last_error.clone().map_or(Value::Null, Value::from));
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unsealed;

    #[tokio::test]
    async fn what_was_given_up_is_tried_again_at_the_next_unseal() {
        let (core, open) = unsealed().await;
        let now = core.clock.cluster();
        let key = Key::new(&[7; 16]).unwrap();
        let mut intent = Intent {
            mount_path: "db/".into(),
            target: "a".into(),
            name: "user".into(),
            record: Vec::new(),
            request_id: String::new(),
            created_ns: now.0,
            deadline_ns: now.0,
            state: State::Undoing,
            tries: 0,
            last_error: None,
            due_key: None,
            lease: None,
        };
        let all_due = Timestamp(u64::MAX / 2);
        let long_error = "x".repeat(5000);
        core.transact(&open, |tx| {
            save_due(tx, &key, &mut intent, Some(now))?;
            for _ in 1..TRIES {
                failed(tx, &key, &long_error, now)?;
            }
            assert_eq!(due(tx, all_due, 9)?.len(), 1, "one entry of the index, however often it was moved");
            failed(tx, &key, &long_error, now)?;
            assert!(due(tx, all_due, 9)?.is_empty());
            let given_up = load(tx, &key)?.unwrap();
            assert_eq!((given_up.state, given_up.next_look()), (State::GivenUp, None));
            assert_eq!(given_up.last_error.unwrap().len(), ERROR_CHARS);
            assert_eq!(take_up_again(tx, &[], now)?, None);
            let again: Vec<_> = due(tx, all_due, 9)?.into_iter().map(|d| (d.namespace, d.key, d.target)).collect();
            assert_eq!(again, [(ROOT, key, "a".to_owned())]);
            assert_eq!(load(tx, &key)?.unwrap().state, State::Undoing);
            assert_eq!(Key::parse(&key.id()), Some(key));
            Ok(())
        })
        .await
        .unwrap();
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for (tries, whole_secs) in [(1, 1), (2, 2), (5, 16), (12, 2048), (13, 3600), (30, 3600), (u32::MAX, 3600)] {
            let whole = Duration::from_secs(whole_secs);
            for _ in 0..50 {
                let p = pause(tries).unwrap();
                assert!(p >= whole / 2 && p <= whole, "{tries}: {p:?}");
            }
        }
    }
}
