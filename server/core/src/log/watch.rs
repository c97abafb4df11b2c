//! Reading along: each watch has a queue of its own, and a slow one loses lines, not the server its time.

use std::task::{Context, Poll};

use holdfast_sdk::Chunks;
use tokio::sync::mpsc;

use super::line::Line;
use super::{Format, Level};

/// Watches at a time.
const MOST: usize = 16;
/// Lines that wait for a slow reader.
const QUEUE: usize = 1024;

/// As many read along as may.
#[derive(Debug, thiserror::Error)]
#[error("{MOST} clients follow the log already")]
pub struct TooManyWatches;

/// Lines, as they are written.
pub struct Watch {
    lines: mpsc::Receiver<String>,
}

impl Chunks for Watch {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.lines.poll_recv(cx).map(|line| line.map(String::into_bytes))
    }
}

#[derive(Default)]
pub(super) struct Watches {
    watches: Vec<Sender>,
}

struct Sender {
    level: Level,
    format: Format,
    lines: mpsc::Sender<String>,
    /// Lines that found the queue full.
    lost: u64,
}

impl Watches {
    pub fn add(&mut self, level: Level, format: Format) -> Result<Watch, TooManyWatches> {
        self.watches.retain(|w| !w.lines.is_closed());
        if self.watches.len() >= MOST {
            return Err(TooManyWatches);
        }
        let (sender, lines) = mpsc::channel(QUEUE);
        self.watches.push(Sender { level, format, lines: sender, lost: 0 });
        Ok(Watch { lines })
    }

    pub fn clear(&mut self) {
        self.watches.clear();
    }

    /// The lowest level that a watch asks for.
    pub fn least(&self) -> Option<Level> {
        self.watches.iter().map(|w| w.level).min()
    }

    pub fn pass(&mut self, line: &Line) {
        self.watches.retain_mut(|w| w.pass(line));
    }
}

impl Sender {
    /// False: nobody reads any more.
    fn pass(&mut self, line: &Line) -> bool {
        if line.level < self.level {
            return !self.lines.is_closed();
        }
        if self.lost > 0 && self.lines.capacity() > 1 {
            let lost = format!("[... {} lines were lost: they came faster than they were read ...]\n", self.lost);
            self.lost = 0;
            let _checked_below = self.lines.try_send(lost);
        }
        match self.lines.try_send(line.text(self.format)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}
