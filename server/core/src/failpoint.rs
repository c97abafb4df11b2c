//! Points of the request's way at which tests stop it. Without the feature `failpoints` there is nothing here.

#[cfg(feature = "failpoints")]
pub use here::{Failpoints, POINTS, SEAL_POINTS};

#[cfg(feature = "failpoints")]
pub(crate) use here::of_a_request;

/// What a request does, as against what the server commits of itself: only this is held up.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn of_a_request<F: Future>(handling: F) -> F {
    handling
}

/// A point of the way: a test may hold the request up here.
macro_rules! failpoint {
    ($core:expr, $name:literal) => {
        #[cfg(feature = "failpoints")]
        $core.failpoints.reach($name).await;
    };
}

pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
mod here {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, PoisonError};

    tokio::task_local! {
        static A_REQUEST: ();
    }

    /// What a request does, as against what the server commits of itself: only this is held up.
    pub(crate) fn of_a_request<F: Future>(handling: F) -> impl Future<Output = F::Output> {
        A_REQUEST.scope((), handling)
    }

    /// All points, in the order in which a request that acts outside reaches them.
    pub const POINTS: [&str; 10] = [
        "received",
        "authorised",
        "audited",
        "prepared",
        "intended",
        "acted",
        "proposed",
        "committed",
        "answered",
        "failed",
    ];

    /// Those of a change of seal, which wrapping anew by several seals reaches without the first.
    pub const SEAL_POINTS: [&str; 4] = ["agreed", "wrapped", "proposed", "committed"];

    type Hook = Arc<dyn Fn(&'static str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

    /// What a test has to say at each point.
    #[derive(Default)]
    pub struct Failpoints(Mutex<Option<Hook>>);

    impl Failpoints {
        /// From now on `hook` is awaited at every point that a request reaches.
        pub fn set(
            &self,
            hook: impl Fn(&'static str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
        ) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
        }

        pub fn clear(&self) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }

        pub(crate) fn set_by_a_test(&self) -> bool {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
        }

        pub(crate) async fn reach(&self, point: &'static str) {
            debug_assert!(POINTS.contains(&point) || SEAL_POINTS.contains(&point), "{point}");
            if A_REQUEST.try_with(|()| ()).is_err() {
                return;
            }
            let hook = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(hook) = hook {
                hook(point).await;
            }
        }
    }
}
