//! The CORS settings as the HTTP layer asks for them: read once, and again when a setting has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use holdfast_sdk::Result;
use holdfast_seal::Barrier;

pub use crate::sys::cors::Cors;
use crate::tx::Tx;
use crate::{Core, sys};

/// What was read, and at which index.
#[derive(Default)]
pub(crate) struct CorsCache {
    read: ArcSwapOption<(Option<Cors>, u64)>,
    /// The last batch that changed a setting.
    changed_at: AtomicU64,
}

impl CorsCache {
    /// The batch of `index` changed a setting.
    pub fn invalidate(&self, index: u64) {
        self.changed_at.fetch_max(index, Ordering::SeqCst);
    }
}

impl Core {
    /// What pages of other origins may do; `None` while it is not configured, or the server sealed.
    pub fn cors(&self) -> Result<Option<Cors>> {
        let Some(open) = self.open() else { return Ok(None) };
        let changed_at = open.cors.changed_at.load(Ordering::SeqCst);
        if let Some(read) = &*open.cors.read.load()
            && read.1 >= changed_at
        {
            return Ok(read.0.clone());
        }
        let view = self.store.view();
        let index = view.index();
        let found = sys::cors::load(&mut Tx::read_only(view, Barrier::clone(&open.barrier.load())))?;
        open.cors.read.store(Some(Arc::new((found.clone(), index))));
        Ok(found)
    }
}
