//! What a listener does not answer: it may be there for metrics alone, or for all but metrics.

use holdfast_core::Answer;

use crate::path::{self, Checked};

/// Which routes a listener has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    pub metrics_only: bool,
    pub disallow_metrics: bool,
}

impl Scope {
    /// The answer for a path that this listener does not have.
    pub fn refusal(self, path: &str) -> Option<Answer> {
        if !self.metrics_only && !self.disallow_metrics {
            return None;
        }
        // However it is written.
        let metrics = matches!(path::check(path), Checked::Api(api) if api.trim_end_matches('/') == "sys/metrics");
        match metrics {
            true if self.disallow_metrics => Some(plain(403, "metrics endpoint is disabled for this listener\n")),
            false if self.metrics_only => Some(plain(404, "this listener only serves the metrics endpoint\n")),
            _ => None,
        }
    }
}

fn plain(status: u16, text: &str) -> Answer {
    Answer { content_type: "text/plain; charset=utf-8".into(), ..Answer::json(status, text.into()) }
}
