//! What somebody is told can be seen by everybody.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake};
use std::time::{Duration, Instant};

use holdfast_storage::{Proposal, Store, Write};

/// Looks at the store in the very moment in which it is told.
struct Looks {
    store: Arc<Store>,
    /// The index that could be seen then.
    saw: AtomicU64,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        self.saw.store(self.store.view().index(), Ordering::SeqCst);
    }
}

#[test]
fn who_waits_for_what_is_in_flight_is_told_when_everybody_can_see_it() {
    let store = Arc::new(Store::open_on(None, 1 << 20).unwrap());
    let mut waited = 0;
    for n in 0..200_u32 {
        let writes = vec![Write::Put(b"k"[..].into(), n.to_be_bytes()[..].into())];
        let written = store.propose(Proposal { view_index: store.view().index(), writes, ..Proposal::default() });
        let written = written.unwrap().index;
        // One that read what is in flight, and writes nothing.
        let reader = Proposal { view_index: store.view_in_flight().index(), ..Proposal::default() };
        let mut told = pin!(store.propose(reader).unwrap().committed());
        let looks = Arc::new(Looks { store: store.clone(), saw: AtomicU64::new(0) });
        let first_look = told.as_mut().poll(&mut Context::from_waker(&looks.clone().into()));
        if first_look.is_pending() {
            waited += 1;
            let end = Instant::now() + Duration::from_secs(30);
            while looks.saw.load(Ordering::SeqCst) == 0 {
                assert!(Instant::now() < end, "nobody was told");
                std::thread::yield_now();
            }
            assert!(looks.saw.load(Ordering::SeqCst) >= written, "told of {written} before it could be seen");
        }
    }
    assert!(waited > 0, "everything was there at once");
}
