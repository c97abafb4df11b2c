//! The namespaces in use: what a request needs to know of its own, and its mounts, read at the first use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use holdfast_sdk::Result;
use holdfast_seal::Barrier;
use holdfast_storage::Key;

use super::{Namespace, at, gone, key, load};
use crate::layout::{NamespaceId, ROOT, SYSTEM};
use crate::router::{self, Mount, Router};
use crate::tx::Tx;
use crate::{Core, Open};

/// Namespaces kept in memory at most.
const KEPT: usize = 1024;

/// A namespace in use, as it was at one state of the store.
pub struct Space {
    pub uuid: NamespaceId,
    /// `root`, or what its tokens end in.
    pub id: String,
    /// From the root, with a slash at its end; the root's is empty.
    pub path: String,
    /// Storage keys of its record and of those above it: what a request in it stands on.
    pub keys: Vec<Key>,
    /// The path of the one that is locked, itself or one above it.
    pub locked: Option<String>,
    /// Those above it and itself, the root left out.
    chain: Vec<NamespaceId>,
    mounts: Arc<Mounts>,
    read_at: u64,
    used: AtomicBool,
}

impl Space {
    /// Whether it, or one that it is in, is sealed by itself.
    pub fn is_sealed(&self, barrier: &Barrier) -> bool {
        self.chain.iter().any(|uuid| barrier.is_sealed(uuid))
    }

    /// Whether one that it is in is.
    pub fn is_in_a_sealed_one(&self, barrier: &Barrier) -> bool {
        self.chain.split_last().is_some_and(|(_, above)| above.iter().any(|uuid| barrier.is_sealed(uuid)))
    }
}

/// The mounts of a namespace.
struct Mounts {
    router: ArcSwap<Router>,
    /// The last batch that changed one of them.
    changed_at: AtomicU64,
    building: Mutex<()>,
}

impl Mounts {
    fn unread(changed_at: u64) -> Mounts {
        Mounts {
            router: ArcSwap::from_pointee(Router::unread()),
            changed_at: AtomicU64::new(changed_at.max(1)),
            building: Mutex::new(()),
        }
    }
}

/// The root, and those that were used lately.
pub struct Spaces {
    pub root: Arc<Space>,
    kept: RwLock<Kept>,
    /// The last batch that changed a namespace's record,
    changed_at: AtomicU64,
    /// and the last that changed a mount of any but the root.
    mounts_changed_at: AtomicU64,
}

#[derive(Default)]
struct Kept {
    by_path: HashMap<String, NamespaceId>,
    by_uuid: HashMap<NamespaceId, Arc<Space>>,
}

impl Spaces {
    pub fn new() -> Spaces {
        let root = Space {
            uuid: ROOT,
            id: "root".into(),
            path: String::new(),
            keys: Vec::new(),
            locked: None,
            chain: Vec::new(),
            mounts: Arc::new(Mounts::unread(0)),
            read_at: 0,
            used: AtomicBool::new(true),
        };
        Spaces {
            root: Arc::new(root),
            kept: RwLock::default(),
            changed_at: AtomicU64::new(0),
            mounts_changed_at: AtomicU64::new(0),
        }
    }

    /// The batch of `index`, which is about to be published, changed a namespace's record.
    pub fn changed(&self, index: u64) {
        self.changed_at.fetch_max(index, Ordering::SeqCst);
    }

    /// The batch of `index`, which is about to be published, changed a mount.
    pub fn mounts_changed(&self, namespace: NamespaceId, index: u64) {
        if namespace == ROOT {
            self.root.mounts.changed_at.fetch_max(index, Ordering::SeqCst);
            return;
        }
        // Before it is looked for: who keeps one meanwhile looks here afterwards.
        self.mounts_changed_at.fetch_max(index, Ordering::SeqCst);
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = kept.by_uuid.get(&namespace) {
            space.mounts.changed_at.fetch_max(index, Ordering::SeqCst);
        }
    }

    fn is_current(&self, space: &Space) -> bool {
        space.read_at >= self.changed_at.load(Ordering::SeqCst)
    }

    fn kept_at(&self, path: &str) -> Option<Arc<Space>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        self.used(kept.by_uuid.get(kept.by_path.get(path)?)?)
    }

    fn kept_of(&self, uuid: &NamespaceId) -> Option<Arc<Space>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        self.used(kept.by_uuid.get(uuid)?)
    }

    fn used(&self, space: &Arc<Space>) -> Option<Arc<Space>> {
        if !self.is_current(space) {
            return None;
        }
        if !space.used.load(Ordering::Relaxed) {
            space.used.store(true, Ordering::Relaxed);
        }
        Some(space.clone())
    }

    /// Keep what was read in a snapshot of `index`; mounts that are known stay known.
    fn keep(&self, namespace: &Namespace, above: Above, index: u64) -> Arc<Space> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let before = kept.by_uuid.get(&namespace.uuid);
        if let Some(newer) = before.filter(|b| b.read_at > index) {
            return newer.clone();
        }
        let mounts = before.map_or_else(|| Arc::new(Mounts::unread(0)), |b| b.mounts.clone());
        let space = Arc::new(Space {
            uuid: namespace.uuid,
            id: namespace.id.clone(),
            path: namespace.path.clone(),
            keys: above.keys,
            locked: above.locked,
            chain: above.chain,
            mounts,
            read_at: index,
            used: AtomicBool::new(true),
        });
        if kept.by_uuid.len() >= KEPT && !kept.by_uuid.contains_key(&space.uuid) {
            kept.make_room();
        }
        if !namespace.ending {
            kept.by_path.insert(space.path.clone(), space.uuid);
        } else if kept.by_path.get(&space.path) == Some(&space.uuid) {
            // Only who ends it finds it any more.
            kept.by_path.remove(&space.path);
        }
        kept.by_uuid.insert(space.uuid, space.clone());
        let changed = self.mounts_changed_at.load(Ordering::SeqCst);
        if space.mounts.router.load().is_unread() {
            space.mounts.changed_at.fetch_max(changed, Ordering::SeqCst);
        }
        space
    }

    /// Read all but the root anew, as of the batch of `index` at the earliest.
    pub fn forget_all(&self, index: u64) {
        self.changed(index);
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    fn forget(&self, path: &str) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(uuid) = kept.by_path.remove(path) {
            kept.by_uuid.remove(&uuid);
        }
    }
}

impl Kept {
    /// Those that were not used since room was made last go; half of all, if every one was.
    fn make_room(&mut self) {
        self.by_uuid.retain(|_, space| space.used.swap(false, Ordering::Relaxed));
        if self.by_uuid.len() > KEPT / 2 {
            let mut n = 0;
            self.by_uuid.retain(|_, _| {
                n += 1;
                n % 2 == 0
            });
        }
        let by_uuid = &self.by_uuid;
        self.by_path.retain(|_, uuid| by_uuid.contains_key(uuid));
    }
}

impl Core {
    /// The namespace at a path (with a slash at its end, or empty).
    pub(crate) fn space_at(&self, open: &Open, path: &str) -> Result<Option<Arc<Space>>> {
        if path.is_empty() {
            return Ok(Some(open.spaces.root.clone()));
        }
        if let Some(space) = open.spaces.kept_at(path) {
            return Ok(Some(space));
        }
        let mut tx = self.reader(open);
        match at(&mut tx, path)? {
            Some(namespace) => keep(open, &mut tx, &namespace).map(Some),
            None => {
                open.spaces.forget(path);
                Ok(None)
            }
        }
    }

    /// The namespace of a UUID, one that is being ended too.
    pub(crate) fn space_of(&self, open: &Open, uuid: NamespaceId) -> Result<Option<Arc<Space>>> {
        if uuid == ROOT {
            return Ok(Some(open.spaces.root.clone()));
        }
        if let Some(space) = open.spaces.kept_of(&uuid) {
            return Ok(Some(space));
        }
        let mut tx = self.reader(open);
        match load(&mut tx, &uuid)? {
            Some(namespace) => keep(open, &mut tx, &namespace).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn reader(&self, open: &Open) -> Tx {
        Tx::read_only(self.store.view(), Barrier::clone(&open.barrier.load())).cached(&open.opened)
    }

    /// The root's mounts, as of a view that is at least as new as the last applied change.
    pub(crate) fn router(self: &Arc<Self>, open: &Open) -> Result<Arc<Router>> {
        self.router_of(open, &open.spaces.root)
    }

    /// The mounts of a namespace by its UUID.
    pub(crate) fn router_in(self: &Arc<Self>, open: &Open, uuid: NamespaceId) -> Result<Arc<Router>> {
        let space = self.space_of(open, uuid)?.ok_or_else(gone)?;
        self.router_of(open, &space)
    }

    /// The mounts of a namespace.
    pub(crate) fn router_of(self: &Arc<Self>, open: &Open, space: &Space) -> Result<Arc<Router>> {
        let mounts = &space.mounts;
        let is_current = |router: &Router| router.version >= mounts.changed_at.load(Ordering::SeqCst);
        let current = mounts.router.load_full();
        if is_current(&current) {
            return Ok(current);
        }
        let _one_at_a_time = mounts.building.lock().unwrap_or_else(PoisonError::into_inner);
        let current = mounts.router.load_full();
        if is_current(&current) {
            return Ok(current);
        }
        let fresh = Arc::new(self.build_router(open, space.uuid, &current)?);
        mounts.router.store(fresh.clone());
        Ok(fresh)
    }

    fn build_router(self: &Arc<Self>, open: &Open, namespace: NamespaceId, before: &Router) -> Result<Router> {
        // What every namespace has is made once, for the root.
        let shared = if namespace == ROOT { None } else { Some(self.router(open)?) };
        let mut tx = Tx::read_only(self.store.view(), Barrier::clone(&open.barrier.load()));
        tx.enter(SYSTEM.of(namespace));
        let entries = router::load(&mut tx)?;
        let mut mounts: Vec<Arc<Mount>> = Vec::with_capacity(entries.len());
        for entry in entries {
            mounts.push(Arc::new(self.mount_of(namespace, entry, before, shared.as_deref())?));
        }
        Ok(Router::new(mounts.into_iter(), tx.index()))
    }
}

/// What a namespace and those that it is in say together.
struct Above {
    keys: Vec<Key>,
    locked: Option<String>,
    chain: Vec<NamespaceId>,
}

/// Keep a namespace with what those say that it is in.
fn keep(open: &Open, tx: &mut Tx, namespace: &Namespace) -> Result<Arc<Space>> {
    let mut all = Vec::new();
    for (end, _) in namespace.path.match_indices('/').filter(|(end, _)| end + 1 < namespace.path.len()) {
        all.extend(at(tx, &namespace.path[..=end])?);
    }
    all.push(namespace.clone());
    let above = Above {
        keys: all.iter().map(|n| key(&n.uuid).into()).collect(),
        chain: all.iter().map(|n| n.uuid).collect(),
        locked: all.iter().find(|n| n.lock.is_some()).map(|n| n.path.clone()),
    };
    Ok(open.spaces.keep(namespace, above, tx.index()))
}
