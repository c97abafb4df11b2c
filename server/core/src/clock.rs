//! Time: the one place where the wall clock and the clock of the boot are read.
//!
//! *Cluster time* never goes back: it is the wall clock's, and between two looks at that it goes on
//! with `CLOCK_BOOTTIME`, which nobody can set. If the two part by more than [`APART`], it is not known
//! which of them is right: mass expiry pauses, since what it ends cannot be brought back, and goes on
//! when an operator confirms the wall clock ([`Clock::confirm`]), when the wall clock has come back, or
//! when it has kept its new course for [`STEADY`]. Meanwhile cluster time goes on with the clock of the
//! boot, and whoever asks [`Clock::now`] is told the later of both: a token past its end by either
//! is refused, though it is not swept. Leases of engines are reckoned in cluster time alone: what they stand for
//! outside ends neither early nor late because a clock was wrong for a while. So is the sweep of tokens that
//! were issued meanwhile.
//!
//! Cluster time is stored with what is committed (at most once a second), so that a wall clock that was
//! set back while the server was down is noticed too. So is one that is ahead by more than [`AWAY`]: whether
//! nothing was written for so long or the clock is wrong cannot be told apart, so it is in doubt as one that
//! jumped is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_sdk::Timestamp;

/// How far wall clock and boot time may part before it counts as a jump.
pub const APART: Duration = Duration::from_secs(5);
/// How long a wall clock that jumped must keep its course to be believed.
pub const STEADY: Duration = Duration::from_secs(600);
/// A server may have been off, or idle, for so long before it was started and nobody wonders.
pub const AWAY: Duration = Duration::from_secs(24 * 3600);
/// How often cluster time is stored, where something is committed.
const STAMP_EVERY_NS: i64 = 1_000_000_000;
/// Reading both clocks may take this long, or they are read again.
const READ_WITHIN: Duration = Duration::from_millis(1);

/// The clocks of the machine; tests bring their own.
pub trait Clocks: Send + Sync + 'static {
    /// UTC.
    fn wall(&self) -> Timestamp;
    /// Since the boot, suspension included.
    fn boot(&self) -> Duration;
}

/// The system's own.
pub struct SystemClocks;

impl Clocks for SystemClocks {
    fn wall(&self) -> Timestamp {
        now()
    }
    fn boot(&self) -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    }
}

/// The wall clock, for what people read. What ends is judged by [`Clock::now`].
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Whether `t` lies further ahead of `now` than clocks may differ: it was read from a clock that was wrong.
pub fn is_ahead(t: Timestamp, now: Timestamp) -> bool {
    t.0 > now.0.saturating_add(APART.as_nanos() as u64)
}

/// Cluster time.
pub struct Clock {
    clocks: Arc<dyn Clocks>,
    /// Cluster time less boot time, in nanoseconds; never falls, unless a store shows that the wall clock, which is taken
    /// for it until then, was far ahead when this process began.
    offset: AtomicI64,
    /// The same, as an active node has said it.
    heard: AtomicI64,
    /// Wall clock and boot time when this process began.
    began: (i64, i64),
    /// The cluster time that was stored last.
    stamped: AtomicI64,
    /// Times that mass expiry was paused.
    pub pauses: AtomicU64,
    course: Mutex<Course>,
}

struct Course {
    /// Wall clock less boot time, as it is believed.
    believed: i64,
    apart: Option<Apart>,
    /// A store has said how late it is.
    resumed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Apart {
    /// Wall clock less boot time when it was last seen to jump, and the boot time then.
    difference: i64,
    steady_since: i64,
    /// Cluster time when the clocks parted.
    since: Timestamp,
}

/// What `sys/clock` shows.
pub struct Shown {
    pub cluster: Timestamp,
    pub wall: Timestamp,
    pub boot: Duration,
    /// Set while mass expiry is paused: how far the wall clock is ahead (or, negative, behind), since
    /// when, and for how long it has kept its course.
    pub apart: Option<(i64, Timestamp, Duration)>,
}

const APART_NS: i64 = APART.as_nanos() as i64;
const AWAY_NS: i64 = AWAY.as_nanos() as i64;
const STEADY_NS: i64 = STEADY.as_nanos() as i64;

fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

fn of_timestamp(t: Timestamp) -> i64 {
    i64::try_from(t.0).unwrap_or(i64::MAX)
}

fn timestamp(ns: i64) -> Timestamp {
    Timestamp(u64::try_from(ns).unwrap_or(0))
}

fn secs(ns: i64) -> i64 {
    ns / 1_000_000_000
}

impl Clock {
    pub fn new(clocks: Arc<dyn Clocks>) -> Clock {
        let began = (of_timestamp(clocks.wall()), nanos(clocks.boot()));
        let difference = began.0 - began.1;
        Clock {
            clocks,
            offset: difference.into(),
            heard: i64::MIN.into(),
            began,
            stamped: i64::MIN.into(),
            pauses: AtomicU64::new(0),
            course: Mutex::new(Course { believed: difference, apart: None, resumed: false }),
        }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster_ns(&self) -> i64 {
        nanos(self.clocks.boot()).saturating_add(self.offset.load(Ordering::Relaxed))
    }

    /// What ends is judged by this: cluster time, or the wall clock where that is ahead.
    pub fn now(&self) -> Timestamp {
        timestamp(self.cluster_ns()).max(self.clocks.wall())
    }

    /// Cluster time itself, which no jump of the wall clock touches: for deadlines of what is under way.
    pub fn cluster(&self) -> Timestamp {
        timestamp(self.cluster_ns())
    }

    /// The wall clock as this server has it.
    pub fn wall(&self) -> Timestamp {
        self.clocks.wall()
    }

    /// How far the wall clock is ahead of cluster time; nothing, as long as it is not in doubt.
    pub fn wall_ahead(&self) -> Duration {
        let ahead = of_timestamp(self.clocks.wall()).saturating_sub(self.cluster_ns());
        if ahead > APART_NS { Duration::from_nanos(ahead.unsigned_abs()) } else { Duration::ZERO }
    }

    /// Time since the boot: for pauses, which no change of the wall clock may stretch.
    pub fn boot(&self) -> Duration {
        self.clocks.boot()
    }

    /// Compare both clocks. The cluster time up to which things may be ended; `None`: mass expiry is paused.
    pub fn observe(&self) -> Option<Timestamp> {
        let (wall, boot) = self.read();
        let difference = wall - boot;
        let mut course = self.course();
        let jumped = (difference - course.believed).abs() > APART_NS;
        match &mut course.apart {
            _ if !jumped => {
                if course.apart.take().is_some() {
                    tracing::info!("the wall clock agrees with the time since the boot again; mass expiry goes on");
                }
                self.follow(&mut course, difference);
            }
            None => self.part(&mut course, difference, boot),
            Some(apart) if (difference - apart.difference).abs() > APART_NS => {
                apart.difference = difference;
                apart.steady_since = boot;
            }
            Some(apart) if boot - apart.steady_since >= STEADY_NS => {
                tracing::warn!("the wall clock has been steady for ten minutes: it is believed, mass expiry goes on");
                course.apart = None;
                self.follow(&mut course, difference);
            }
            Some(_) => {}
        }
        let paused = course.apart.is_some();
        drop(course);
        (!paused).then(|| timestamp(self.cluster_ns()))
    }

    /// An operator says that the wall clock is right. False: nothing was in doubt.
    pub fn confirm(&self) -> bool {
        let (wall, boot) = self.read();
        let mut course = self.course();
        let was_apart = course.apart.take().is_some();
        self.follow(&mut course, wall - boot);
        if was_apart {
            tracing::warn!("an operator confirmed the wall clock; mass expiry goes on");
        }
        was_apart
    }

    fn follow(&self, course: &mut Course, difference: i64) {
        course.believed = difference;
        self.offset.fetch_max(difference, Ordering::Relaxed);
    }

    fn part(&self, course: &mut Course, difference: i64, boot: i64) {
        let ahead = secs(difference - course.believed);
        tracing::error!(
            ahead_secs = ahead,
            "wall clock and time since the boot have parted: mass expiry is paused; put the clock right, or confirm it \
             at sys/clock/confirm; it is believed by itself when it was steady for ten minutes"
        );
        self.doubt(course, difference, boot);
    }

    fn doubt(&self, course: &mut Course, difference: i64, boot: i64) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        course.apart = Some(Apart { difference, steady_since: boot, since: timestamp(self.cluster_ns()) });
    }

    /// Both clocks at one moment: a process that was stopped between the two readings reads again.
    fn read(&self) -> (i64, i64) {
        let mut boot = self.clocks.boot();
        for _ in 0..100 {
            let wall = self.clocks.wall();
            let after = self.clocks.boot();
            if after.saturating_sub(boot) <= READ_WITHIN {
                return (of_timestamp(wall), nanos(boot));
            }
            boot = after;
        }
        (of_timestamp(self.clocks.wall()), nanos(boot))
    }

    /// Go on from the cluster time that a store holds.
    pub fn resume(&self, stored: Timestamp) {
        let (wall, boot) = self.read();
        let mut course = self.course();
        let is_first = !std::mem::replace(&mut course.resumed, true);
        if is_first && self.began_far_ahead_of(stored) {
            let heard = self.heard.load(Ordering::Relaxed);
            let kept = (of_timestamp(stored) - boot).max(heard);
            self.offset.store(kept, Ordering::Relaxed);
            course.believed = kept;
            self.doubt(&mut course, wall - boot, boot);
            tracing::warn!(
                wall_time = %timestamp(wall).rfc3339(),
                stored_time = %timestamp(kept.saturating_add(boot)).rfc3339(),
                "the wall clock is more than a day ahead of the time that the store knows: either nothing was written for so \
                 long, or this clock is wrong; mass expiry is paused; put the clock right, or confirm it at \
                 sys/clock/confirm; it is believed by itself when it was steady for ten minutes"
            );
            return;
        }
        let kept = of_timestamp(stored) - boot;
        self.offset.fetch_max(kept, Ordering::Relaxed);
        if kept - (wall - boot) > APART_NS && course.apart.is_none() {
            // The wall clock is behind what was committed already.
            course.believed = kept;
            self.part(&mut course, wall - boot, boot);
        }
    }

    /// Whether the wall clock was far ahead, when this process began, of all that is known of cluster time.
    fn began_far_ahead_of(&self, stored: Timestamp) -> bool {
        let (wall, boot) = self.began;
        let known = of_timestamp(stored).max(self.heard.load(Ordering::Relaxed).saturating_add(boot));
        wall.saturating_sub(known) > AWAY_NS
    }

    /// The active node's cluster time was this: here it is no earlier.
    pub fn follow_cluster(&self, time: Timestamp) {
        let offset = of_timestamp(time) - nanos(self.clocks.boot());
        self.heard.fetch_max(offset, Ordering::Relaxed);
        self.offset.fetch_max(offset, Ordering::Relaxed);
    }

    /// The cluster time to store with a commit, if the last one is a second old.
    pub fn stamp(&self) -> Option<Timestamp> {
        let now = self.cluster_ns();
        let last = self.stamped.load(Ordering::Relaxed);
        if now.saturating_sub(last) < STAMP_EVERY_NS {
            return None;
        }
        let mine = self.stamped.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        mine.is_ok().then(|| timestamp(now))
    }

    pub fn shown(&self) -> Shown {
        let (wall, boot) = self.read();
        let course = self.course();
        let apart = course.apart.map(|a| {
            let steady = Duration::from_nanos((boot - a.steady_since).max(0).unsigned_abs());
            (secs(wall - boot - course.believed), a.since, steady)
        });
        Shown { cluster: timestamp(self.cluster_ns()), wall: timestamp(wall), boot: self.clocks.boot(), apart }
    }

    /// While mass expiry is paused: how many seconds the wall clock is ahead, or behind.
    pub fn apart_secs(&self) -> Option<i64> {
        self.shown().apart.map(|(ahead, _, _)| ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct ByHand {
        wall: AtomicU64,
        boot: AtomicU64,
    }

    const SECOND: u64 = 1_000_000_000;

    impl Clocks for ByHand {
        fn wall(&self) -> Timestamp {
            Timestamp(self.wall.load(Ordering::SeqCst))
        }
        fn boot(&self) -> Duration {
            Duration::from_nanos(self.boot.load(Ordering::SeqCst))
        }
    }

    impl ByHand {
        fn pass(&self, secs: u64) {
            self.wall.fetch_add(secs * SECOND, Ordering::SeqCst);
            self.boot.fetch_add(secs * SECOND, Ordering::SeqCst);
        }
        fn set_wall(&self, secs: u64) {
            self.wall.store(secs * SECOND, Ordering::SeqCst);
        }
    }

    fn clock() -> (Arc<ByHand>, Clock) {
        let clocks = Arc::new(ByHand::default());
        clocks.set_wall(1_000_000);
        clocks.boot.store(50 * SECOND, Ordering::SeqCst);
        (clocks.clone(), Clock::new(clocks))
    }

    #[test]
    fn small_steps_are_followed_and_time_never_goes_back() {
        let (clocks, clock) = clock();
        clocks.set_wall(1_000_004);
        assert_eq!(clock.observe().unwrap().secs(), 1_000_004);
        clocks.set_wall(1_000_001);
        assert_eq!(clock.observe().unwrap().secs(), 1_000_004, "the step back is not followed");
        clocks.pass(10);
        assert_eq!(clock.observe().unwrap().secs(), 1_000_014);
        assert_eq!(clock.pauses.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_jump_ahead_pauses_expiry_and_ends_are_judged_by_the_later_time() {
        let (clocks, clock) = clock();
        clocks.set_wall(1_086_400);
        assert!(clock.observe().is_none());
        assert_eq!(clock.now().secs(), 1_086_400);
        assert_eq!(clock.shown().cluster.secs(), 1_000_000, "cluster time does not follow it");
        assert_eq!(clock.apart_secs(), Some(86_400));
        clocks.set_wall(1_000_000);
        clocks.pass(7);
        assert_eq!(clock.observe().unwrap().secs(), 1_000_007, "the clock was put right");
        assert_eq!(clock.now().secs(), 1_000_007);
    }

    #[test]
    fn a_jump_back_pauses_expiry_and_time_goes_on_with_the_boot() {
        let (clocks, clock) = clock();
        clocks.set_wall(900_000);
        assert!(clock.observe().is_none());
        clocks.pass(60);
        assert!(clock.observe().is_none());
        assert_eq!(clock.now().secs(), 1_000_060);
        assert!(clock.confirm());
        assert_eq!(clock.observe().unwrap().secs(), 1_000_060, "it is not set back");
        assert!(!clock.confirm());
    }

    #[test]
    fn a_clock_that_is_steady_for_ten_minutes_is_believed_and_one_that_jumps_again_is_not() {
        let (clocks, clock) = clock();
        clocks.set_wall(2_000_000);
        assert!(clock.observe().is_none());
        clocks.pass(599);
        assert!(clock.observe().is_none());
        clocks.set_wall(3_000_000);
        assert!(clock.observe().is_none());
        clocks.pass(599);
        assert!(clock.observe().is_none(), "it jumped since");
        clocks.pass(1);
        assert_eq!(clock.observe().unwrap().secs(), 3_000_600);
    }

    #[test]
    fn a_clock_that_was_set_back_while_the_server_was_down_is_noticed() {
        let (clocks, clock) = clock();
        clock.resume(Timestamp::from_secs(1_000_003));
        assert!(clock.observe().is_some(), "within what clocks may differ");
        clock.resume(Timestamp::from_secs(1_500_000));
        assert!(clock.observe().is_none());
        assert_eq!(clock.now().secs(), 1_500_000);
        clocks.pass(600);
        assert_eq!(clock.observe().unwrap().secs(), 1_500_600);
    }

    #[test]
    fn a_clock_that_is_far_ahead_at_the_start_is_in_doubt_once() {
        const DAY: u64 = 24 * 3600;
        let (clocks, clock) = clock();
        clock.resume(Timestamp::from_secs(1_000_000 - DAY));
        assert_eq!(clock.observe().unwrap().secs(), 1_000_000, "it was off for a day");

        clocks.set_wall(1_000_000 + 3 * DAY);
        let started = Clock::new(clocks.clone());
        started.resume(Timestamp::from_secs(1_000_000));
        assert!(started.observe().is_none());
        assert_eq!((started.cluster().secs(), started.now().secs()), (1_000_000, 1_000_000 + 3 * DAY));
        assert_eq!(started.apart_secs(), Some(3 * DAY as i64));
        clocks.pass(600);
        assert_eq!(started.observe().unwrap().secs(), 1_000_600 + 3 * DAY, "it was off for three days");
        started.resume(Timestamp::from_secs(1_000_000));
        assert!(started.observe().is_some(), "it is asked once");

        // One that has waited for its keys for days is not what is meant, nor one to which the active node said the time.
        let waits = Clock::new(clocks.clone());
        clocks.pass(5 * DAY);
        waits.resume(Timestamp::from_secs(1_000_600 + 3 * DAY));
        assert!(waits.observe().is_some());
        let follows = Clock::new(clocks.clone());
        follows.follow_cluster(Timestamp::from_secs(1_000_500 + 8 * DAY));
        follows.resume(Timestamp::from_secs(1_000_000));
        assert!(follows.observe().is_some());
    }

    #[test]
    fn what_the_active_node_said_is_known_to_one_that_starts_far_ahead() {
        let (clocks, _) = clock();
        clocks.set_wall(900_000_000);
        let ahead = Clock::new(clocks.clone());
        ahead.follow_cluster(Timestamp::from_secs(1_000_500));
        ahead.resume(Timestamp::from_secs(1_000_000));
        assert!(ahead.observe().is_none());
        assert_eq!(ahead.cluster().secs(), 1_000_500, "it does not go back behind what others have said");
    }

    #[test]
    fn cluster_time_is_stored_once_a_second() {
        let (clocks, clock) = clock();
        assert_eq!(clock.stamp(), Some(Timestamp::from_secs(1_000_000)));
        assert_eq!(clock.stamp(), None);
        clocks.pass(1);
        assert_eq!(clock.stamp(), Some(Timestamp::from_secs(1_000_001)));
    }
}
