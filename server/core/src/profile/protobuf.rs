//! pprof's `profile.proto` (github.com/google/pprof/proto), written by hand: the few messages that a CPU profile needs.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_sdk::{Error, Result};

/// Bytes of a message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// A field that is a number; 0 is left out.
    fn number(&mut self, field: u64, n: u64) -> &mut Message {
        if n != 0 {
            self.varint(field << 3);
            self.varint(n);
        }
        self
    }

    /// A field that has a length: a text, a message, or packed numbers.
    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Message {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn packed(&mut self, field: u64, numbers: impl IntoIterator<Item = u64>) -> &mut Message {
        let mut inner = Message::default();
        numbers.into_iter().for_each(|n| inner.varint(n));
        self.bytes(field, &inner.0)
    }
}

/// Texts by their place in the table; the first is empty.
struct Texts {
    places: HashMap<String, u64>,
    all: Vec<String>,
}

impl Texts {
    fn new() -> Texts {
        Texts { places: HashMap::from([(String::new(), 0)]), all: vec![String::new()] }
    }

    fn place(&mut self, text: &str) -> u64 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.all.len() as u64;
        self.places.insert(text.to_owned(), place);
        self.all.push(text.to_owned());
        place
    }
}

fn value_type(texts: &mut Texts, what: &str, unit: &str) -> Vec<u8> {
    let mut m = Message::default();
    m.number(1, texts.place(what)).number(2, texts.place(unit));
    m.0
}

/// A report as a message `Profile`.
pub fn encoded(report: &pprof::Report, begun: SystemTime, took: Duration, hertz: i32) -> Vec<u8> {
    let period = 1_000_000_000 / u64::try_from(hertz).unwrap_or(1);
    let (mut texts, mut profile) = (Texts::new(), Message::default());
    profile.bytes(1, &value_type(&mut texts, "samples", "count"));
    profile.bytes(1, &value_type(&mut texts, "cpu", "nanoseconds"));
    let thread = texts.place("thread");
    // A function has one location, with the line that was seen first.
    let mut functions: HashMap<(String, String), u64> = HashMap::new();
    let (mut locations, mut named) = (Message::default(), Message::default());
    for (frames, count) in &report.data {
        let mut places = Vec::new();
        for symbol in frames.frames.iter().flatten() {
            let (name, file) = (symbol.name(), symbol.filename().into_owned());
            let next = functions.len() as u64 + 1;
            let id = *functions.entry((name.clone(), file.clone())).or_insert_with(|| {
                let mut function = Message::default();
                let name = texts.place(&name);
                function.number(1, next).number(2, name).number(3, name).number(4, texts.place(&file));
                named.bytes(5, &function.0);
                let (mut line, mut location) = (Message::default(), Message::default());
                line.number(1, next).number(2, u64::from(symbol.lineno()));
                location.number(1, next).bytes(4, &line.0);
                locations.bytes(4, &location.0);
                next
            });
            places.push(id);
        }
        let count = u64::try_from(*count).unwrap_or(0);
        let (mut label, mut sample) = (Message::default(), Message::default());
        label.number(1, thread).number(2, texts.place(&frames.thread_name_or_id()));
        sample.packed(1, places).packed(2, [count, count * period]).bytes(3, &label.0);
        profile.bytes(2, &sample.0);
    }
    profile.0.extend(locations.0);
    profile.0.extend(named.0);
    let since = begun.duration_since(UNIX_EPOCH).unwrap_or_default();
    profile.number(9, u64::try_from(since.as_nanos()).unwrap_or(0));
    profile.number(10, u64::try_from(took.as_nanos()).unwrap_or(0));
    profile.bytes(11, &value_type(&mut texts, "cpu", "nanoseconds")).number(12, period);
    for text in &texts.all {
        profile.bytes(6, text.as_bytes());
    }
    profile.0
}

pub fn gzipped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(bytes).map_err(Error::internal)?;
    out.finish().map_err(Error::internal)
}
