//! What openraft and the store say while a seed runs, with the world's time and the node that says it.
//!
//! `HOLDFAST_SIM_TELL=debug` beside `HOLDFAST_SIM_SEED` prints it: that is much, and shows why a run went as it did.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::World;

/// Prints what is said up to this level.
pub struct Told(pub Level);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _texts_take_all = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0
    }

    fn event(&self, event: &Event<'_>) {
        let Some((world, node)) = World::here() else { return };
        let mut line = Line(String::new());
        event.record(&mut line);
        let who = node.map_or("world".to_owned(), |n| format!("node {n}"));
        eprintln!("{:9.4} {who} {}:{}", world.now().as_secs_f64(), event.metadata().target(), line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
