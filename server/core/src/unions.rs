//! What is compiled of lists of names, kept as long as nothing that it was made of changes.
//!
//! A union is used for a snapshot only if nothing was changed between the one it was made from and
//! now, and that one is not newer: a slow reader of an older snapshot cannot bring back what was changed.
//! One that was made for an entity counts only as long as the entity stands as it was then.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;

use crate::sync::{Arc, AtomicU64, Ordering, PoisonError, RandomState, RwLock};

static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// A list of names that is hashed once: a token's, which ask at each of its requests.
#[derive(Clone)]
pub struct Names {
    list: Arc<[String]>,
    hash: u64,
}

impl Names {
    pub fn list(&self) -> &[String] {
        &self.list
    }
}

impl From<Arc<[String]>> for Names {
    fn from(list: Arc<[String]>) -> Names {
        Names { hash: HASHES.hash_one(&*list), list }
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Names) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.list, &other.list) || self.list == other.list)
    }
}

impl Eq for Names {}

impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The entity that a union is made for, and its id.
pub type For<'a, W> = Option<(&'a [u8; 16], &'a Arc<W>)>;

/// Unions `C` by names, and by the entity `W` that they were made for.
pub struct Unions<C, W> {
    /// The index of the last batch that changed something that unions are made of.
    changed_at: AtomicU64,
    kept: RwLock<Kept<C, W>>,
    /// Kept at most.
    capacity: usize,
}

/// What was used lately, and before that: when the former has half of what is kept, the latter goes and it takes its
/// place. So what is asked for again and again stays, whatever comes and goes beside it.
struct Kept<C, W> {
    lately: Generation<C, W>,
    before: Generation<C, W>,
}

struct Generation<C, W> {
    by_names: HashMap<Names, OfNames<C, W>>,
    count: usize,
}

/// The unions of one list of names.
struct OfNames<C, W> {
    without_entity: Option<Made<C>>,
    by_entity: HashMap<[u8; 16], (Arc<W>, Made<C>)>,
}

/// A union, and the index of the snapshot that it was made from.
struct Made<C> {
    union: Arc<C>,
    read_at: u64,
}

impl<C, W> Unions<C, W> {
    pub fn new(capacity: usize) -> Unions<C, W> {
        Unions {
            changed_at: AtomicU64::new(0),
            kept: RwLock::new(Kept { lately: Generation::empty(), before: Generation::empty() }),
            capacity,
        }
    }

    /// The batch of `index`, which is about to be published, changes something that unions are made of.
    pub fn invalidate(&self, index: u64) {
        self.changed_at.fetch_max(index, Ordering::SeqCst);
    }

    /// The union that is true in a snapshot of index `view`, if one is kept.
    pub fn get(&self, view: u64, names: &Names, made_for: For<'_, W>) -> Option<Arc<C>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let is_true = |made: &&Made<C>| made.read_at <= view && self.is_unchanged_since(made.read_at);
        if let Some(made) = kept.lately.get(names, made_for) {
            return Some(made).filter(is_true).map(|made| made.union.clone());
        }
        let made = kept.before.get(names, made_for).filter(is_true)?;
        let (union, read_at) = (made.union.clone(), made.read_at);
        drop(kept);
        self.keep(names, made_for, Made { union: union.clone(), read_at });
        Some(union)
    }

    /// Keep a union that was made from a snapshot of index `view`.
    pub fn insert(&self, view: u64, names: &Names, made_for: For<'_, W>, union: Arc<C>) {
        if !self.is_unchanged_since(view) {
            return;
        }
        self.keep(names, made_for, Made { union, read_at: view });
    }

    fn keep(&self, names: &Names, made_for: For<'_, W>, made: Made<C>) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.lately.count >= self.capacity.div_ceil(2) {
            kept.before = std::mem::replace(&mut kept.lately, Generation::empty());
        }
        let of = kept.lately.by_names.entry(names.clone()).or_insert_with(OfNames::empty);
        let former = match made_for {
            None => of.without_entity.replace(made),
            Some((id, who)) => of.by_entity.insert(*id, (who.clone(), made)).map(|(_, made)| made),
        };
        kept.lately.count += usize::from(former.is_none());
    }

    fn is_unchanged_since(&self, index: u64) -> bool {
        self.changed_at.load(Ordering::SeqCst) <= index
    }
}

impl<C, W> Generation<C, W> {
    fn empty() -> Generation<C, W> {
        Generation { by_names: HashMap::new(), count: 0 }
    }

    fn get(&self, names: &Names, made_for: For<'_, W>) -> Option<&Made<C>> {
        self.by_names.get(names)?.get(made_for)
    }
}

impl<C, W> OfNames<C, W> {
    fn empty() -> OfNames<C, W> {
        OfNames { without_entity: None, by_entity: HashMap::new() }
    }

    fn get(&self, made_for: For<'_, W>) -> Option<&Made<C>> {
        match made_for {
            None => self.without_entity.as_ref(),
            Some((id, who)) => {
                let (before, made) = self.by_entity.get(id)?;
                Arc::ptr_eq(before, who).then_some(made)
            }
        }
    }
}
