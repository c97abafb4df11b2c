//! Single records that many requests need: read once, and again when a setting has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use holdfast_sdk::Result;
use holdfast_seal::Barrier;

use crate::sys::audited_headers;
pub use crate::sys::audited_headers::AuditedHeaders;
pub use crate::sys::cors::Cors;
use crate::tx::Tx;
use crate::{Core, Open, sys};

/// What the HTTP layer and the audit log ask for with each request.
#[derive(Default)]
pub(crate) struct SettingsCache {
    cors: Cached<Option<Arc<Cors>>>,
    audited_headers: Cached<AuditedHeaders>,
    /// The last batch that changed a setting.
    changed_at: AtomicU64,
}

/// What was read, and at which index.
struct Cached<T>(ArcSwapOption<(Arc<T>, u64)>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Cached(ArcSwapOption::empty())
    }
}

impl SettingsCache {
    /// The batch of `index` changed a setting.
    pub fn invalidate(&self, index: u64) {
        self.changed_at.fetch_max(index, Ordering::SeqCst);
    }
}

impl<T> Cached<T> {
    fn get(&self, core: &Core, open: &Open, load: impl FnOnce(&mut Tx) -> Result<T>) -> Result<Arc<T>> {
        let changed_at = open.settings.changed_at.load(Ordering::SeqCst);
        if let Some(read) = &*self.0.load()
            && read.1 >= changed_at
        {
            return Ok(read.0.clone());
        }
        let view = core.store.view();
        let index = view.index();
        let found = Arc::new(load(&mut Tx::read_only(view, Barrier::clone(&open.barrier.load())))?);
        self.0.store(Some(Arc::new((found.clone(), index))));
        Ok(found)
    }
}

impl Core {
    /// What pages of other origins may do; `None` while it is not configured, or the server sealed.
    pub fn cors(&self) -> Result<Option<Arc<Cors>>> {
        let Some(open) = self.open() else { return Ok(None) };
        let load = |tx: &mut Tx| Ok(sys::cors::load(tx)?.map(Arc::new));
        Ok(open.settings.cors.get(self, &open, load)?.as_ref().clone())
    }

    /// The request headers that audit lines show; `None` while the server is sealed.
    pub fn audited_headers(&self) -> Result<Option<Arc<AuditedHeaders>>> {
        let Some(open) = self.open_to_read() else { return Ok(None) };
        open.audited_headers(self).map(Some)
    }
}

impl Open {
    pub fn audited_headers(&self, core: &Core) -> Result<Arc<AuditedHeaders>> {
        self.settings.audited_headers.get(core, self, audited_headers::load)
    }
}
