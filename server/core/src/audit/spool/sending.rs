//! The task that sends what is in a spool.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::folder::{Frame, SegmentReader, keep_sent};
use super::{Cursor, Shared};
use crate::audit::Figures;
use crate::audit::remote::{Peer, Unsent};

/// Waits between two tries to send a line.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A line that was written to a connection which is open still after this is taken to have arrived.
const SETTLED: Duration = Duration::from_secs(10);
/// How often what has arrived is kept.
const KEEP: Duration = Duration::from_secs(1);
/// Lines that are read at a time, and about their bytes.
const LINES: usize = 256;
const BYTES: usize = 256 << 10;

pub struct Sending {
    peer: Peer,
    figures: Arc<Figures>,
    shared: Arc<Shared>,
    /// The next line.
    cursor: Cursor,
    /// Lines that were handed to the peer and may not have arrived.
    unsettled: VecDeque<Handed>,
    /// The first line that may not have arrived.
    first_unsettled: Cursor,
    kept: Instant,
}

struct Handed {
    number: u64,
    bytes: u64,
    at: Instant,
    /// Where the next one is.
    behind: Cursor,
}

/// What is sent next.
struct Next {
    frame: Frame,
    behind: Cursor,
}

impl Sending {
    pub fn new(peer: Peer, figures: Arc<Figures>, shared: Arc<Shared>, first: Cursor) -> Sending {
        let (unsettled, kept) = (VecDeque::new(), Instant::now());
        Sending { peer, figures, shared, cursor: first, unsettled, first_unsettled: first, kept }
    }

    /// Send until no more will come.
    pub async fn run(mut self) {
        let shared = self.shared.clone();
        let mut closed = shared.closed.subscribe();
        tokio::select! {
            _closed = closed.wait_for(|closed| *closed) => {}
            () = self.send_all() => {}
        }
        // Lines that were sent just now may be sent again by whoever is next.
        self.keep(true).await;
    }

    async fn send_all(&mut self) {
        let mut wait = BACK_OFF.0;
        let mut ready = VecDeque::new();
        loop {
            self.settle();
            self.keep(false).await;
            if ready.is_empty() {
                match self.read().await {
                    Ok(read) => ready = read,
                    Err(e) => {
                        self.figures.peer_is_away(&format_args!("its spool cannot be read: {e}"));
                        sleep(BACK_OFF.1).await;
                        continue;
                    }
                }
            }
            let Some(next) = ready.front() else {
                let _or_later = timeout(KEEP, self.shared.changed.notified()).await;
                continue;
            };
            let Next { frame, behind } = next;
            let (number, bytes, behind) = (frame.number, frame.bytes, *behind);
            match self.peer.send_in_order(&frame.line).await {
                Ok(true) => {
                    wait = BACK_OFF.0;
                    self.figures.peer_is_there();
                    self.unsettled.push_back(Handed { number, bytes, at: Instant::now(), behind });
                    self.cursor = behind;
                    ready.pop_front();
                    self.shared.state().oldest_ms = ready.front().map(|next| next.frame.written_ms);
                }
                // What an old connection had may be lost.
                Ok(false) => {
                    self.unsettled.clear();
                    self.cursor = self.first_unsettled;
                    ready.clear();
                }
                Err(Unsent { text, .. }) => {
                    self.figures.peer_is_away(&text);
                    sleep(wait).await;
                    wait = (wait * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    /// What the disk has behind the cursor.
    async fn read(&mut self) -> io::Result<VecDeque<Next>> {
        let segments: Vec<(u64, u64)> = self.shared.state().segments.iter().copied().collect();
        let (path, cursor) = (self.shared.path.clone(), self.cursor);
        let read = tokio::task::spawn_blocking(move || {
            let (mut found, mut bytes) = (VecDeque::new(), 0);
            let mut at = cursor;
            for (first, end) in segments.into_iter().filter(|(first, _)| *first >= cursor.segment) {
                if first != at.segment {
                    at = Cursor { segment: first, offset: 0 };
                }
                let mut reader = SegmentReader::at(&path, at)?;
                while let Some(frame) = reader.next(end)? {
                    at.offset = reader.offset;
                    bytes += frame.line.len();
                    found.push_back(Next { frame, behind: at });
                    if found.len() >= LINES || bytes >= BYTES {
                        return Ok(found);
                    }
                }
            }
            Ok::<_, io::Error>(found)
        });
        let found = read.await.map_err(io::Error::other)??;
        let mut state = self.shared.state();
        state.oldest_ms = match found.front() {
            Some(next) => Some(next.frame.written_ms),
            // One that was written meanwhile is read next.
            None => state.oldest_ms.filter(|_| self.cursor_is_behind(&state)),
        };
        drop(state);
        Ok(found)
    }

    fn cursor_is_behind(&self, state: &super::State) -> bool {
        state.segments.back().is_some_and(|(first, end)| (*first, *end) != (self.cursor.segment, self.cursor.offset))
    }

    /// Take lines for arrived whose time is over.
    fn settle(&mut self) {
        let settles = if self.peer.proves() { Duration::ZERO } else { SETTLED };
        let mut settled = None;
        if self.peer.is_open() {
            while let Some(handed) = self.unsettled.pop_front_if(|handed| handed.at.elapsed() >= settles) {
                self.shared.state().waiting_bytes -= handed.bytes;
                self.first_unsettled = handed.behind;
                settled = Some(handed.number);
            }
        }
        if let Some(number) = settled {
            self.shared.state().sent = number;
        }
    }

    async fn keep(&mut self, at_once: bool) {
        if !at_once && self.kept.elapsed() < KEEP {
            return;
        }
        self.kept = Instant::now();
        let (sent, segments) = {
            let mut state = self.shared.state();
            if state.sent == state.kept_sent {
                return;
            }
            state.kept_sent = state.sent;
            (state.sent, state.forget_sent())
        };
        let path = self.shared.path.clone();
        let kept = tokio::task::spawn_blocking(move || keep_sent(&path, sent, &segments));
        let _told_by_itself = kept.await;
    }
}
