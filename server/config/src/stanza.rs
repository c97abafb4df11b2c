//! Reading one stanza: each key is taken by name and type, and what nobody
//! took is warned of.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_hcl::{Block, Item, Node, Object, Position, Value};

use crate::size::size;
use crate::{ConfigError, ConfigErrorKind, Place, Warning};

/// A stanza that is being read.
pub(crate) struct Stanza<'a> {
    /// Its name for messages, as in `listener "tcp"`; empty at the top.
    pub name: String,
    pub file: &'a Path,
    pub object: &'a Object,
    pub position: Position,
    known: Vec<&'static str>,
}

impl<'a> Stanza<'a> {
    /// The document of a file.
    pub(crate) fn top(file: &'a Path, object: &'a Object) -> Stanza<'a> {
        Stanza { name: String::new(), file, object, position: object.position, known: Vec::new() }
    }

    /// A block in this one. Labels become part of its name.
    pub(crate) fn inner(&self, name: &str, block: &Block<'a>) -> Stanza<'a> {
        let mut name = name.to_owned();
        for label in &block.labels {
            name += &format!(" {:?}", label.text);
        }
        Stanza { name, file: self.file, object: block.body, position: block.position, known: Vec::new() }
    }

    /// All blocks of that name with so many labels.
    pub(crate) fn blocks(&mut self, name: &'static str, labels: usize) -> Result<Vec<Block<'a>>, ConfigError> {
        self.known.push(name);
        self.object
            .blocks(name, labels)
            .map_err(|error| self.error(error.position, ConfigErrorKind::Syntax(error.kind)))
    }

    /// The same where a second label may be left out. In JSON labels are objects: there the fewer are meant.
    pub(crate) fn blocks_of(
        &mut self,
        name: &'static str,
        labels: RangeInclusive<usize>,
    ) -> Result<Vec<Block<'a>>, ConfigError> {
        self.known.push(name);
        self.object
            .blocks_of(name, labels)
            .map_err(|error| self.error(error.position, ConfigErrorKind::Syntax(error.kind)))
    }

    /// The block of that name without labels, if there is one. Given twice,
    /// it is an error.
    pub(crate) fn block(&mut self, name: &'static str) -> Result<Option<Stanza<'a>>, ConfigError> {
        let blocks = self.blocks(name, 0)?;
        if let Some(second) = blocks.get(1) {
            let kind = ConfigErrorKind::Twice(format!("{name} in {}", self.name));
            return Err(self.error(second.position, kind));
        }
        Ok(blocks.first().map(|block| self.inner(name, block)))
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.taken(key, "a string", |node| match &node.value {
            Value::String(text) => Some(text.clone()),
            // `pin = 1234`: a number is taken as it is written.
            Value::Number(number) => Some(number.as_text().to_owned()),
            _ => None,
        })
    }

    /// A string that is not empty; an empty one counts as none.
    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        Ok(self.string(key)?.filter(|text| !text.is_empty()))
    }

    pub(crate) fn path(&mut self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text(key)?.map(PathBuf::from))
    }

    /// `true` or `false`, also in quotes.
    pub(crate) fn bool(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.taken(key, "true or false", |node| match &node.value {
            Value::Bool(value) => Some(*value),
            Value::String(text) => boolean(text),
            Value::Number(number) => boolean(number.as_text()),
            _ => None,
        })
    }

    /// A whole number of at least zero, also in quotes.
    pub(crate) fn number(&mut self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        self.taken(key, "a whole number", |node| match &node.value {
            Value::Number(number) => u64::try_from(number.as_i64()?).ok(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        })
    }

    pub(crate) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        const EXPECTED: &str = "a duration, as in 90, \"90s\" or \"1h30m\"";
        self.taken(key, EXPECTED, Node::as_duration)
    }

    /// A size of at least one byte.
    pub(crate) fn size(&mut self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        const EXPECTED: &str = "a size of at least 1, as in 33554432 or \"32MiB\" (the bound cannot be turned off)";
        let size = |node: &Node| match &node.value {
            Value::Number(number) => u64::try_from(number.as_i64()?).ok(),
            Value::String(text) => size(text),
            _ => None,
        };
        self.taken(key, EXPECTED, |node| size(node).filter(|size| *size > 0))
    }

    /// Strings in a list, or separated by commas in one string.
    pub(crate) fn strings(&mut self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        let list = |node: &Node| match &node.value {
            Value::String(text) => Some(comma_separated(text)),
            Value::List(nodes) => nodes.iter().map(|n| n.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        self.taken(key, "a list of strings", list)
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let Some(word) = self.text(key)? else {
            return Ok(None);
        };
        match choices.iter().find(|(name, _)| *name == word) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.wrong(key, &word, format!("one of {}", names.join(", "))))
            }
        }
    }

    /// The attribute as it stands, for what has a form of its own.
    pub(crate) fn item(&mut self, key: &'static str) -> Option<&'a Item> {
        self.known.push(key);
        self.object.attribute(key)
    }

    /// Names keys that are read and have no effect here; each that is there
    /// gives a warning.
    pub(crate) fn ignored(&mut self, keys: &[&'static str], why: &str, warnings: &mut Vec<Warning>) {
        for item in &self.object.items {
            if keys.contains(&item.name()) {
                let text = format!("{} has no effect: {why}", self.key(item.name()));
                warnings.push(self.warning(item.position(), text));
            }
        }
        self.known.extend(keys);
    }

    /// Warns of every key that was not asked for.
    pub(crate) fn finish(self, warnings: &mut Vec<Warning>) {
        for item in &self.object.items {
            if !self.known.contains(&item.name()) {
                let mut text = format!("unknown key {}, which has no effect", self.key(item.name()));
                if let Some(known) = nearest(item.name(), &self.known) {
                    text += &format!("; is {known} meant?");
                }
                warnings.push(self.warning(item.position(), text));
            }
        }
    }

    /// The same where a key that was not asked for is no mere warning.
    pub(crate) fn finish_strictly(self) -> Result<(), ConfigError> {
        let mut unknown = Vec::new();
        self.finish(&mut unknown);
        match unknown.into_iter().next() {
            None => Ok(()),
            Some(Warning { place, text }) => {
                let text = text.replace(", which has no effect", "");
                Err(ConfigError { place, kind: ConfigErrorKind::Conflict(text) })
            }
        }
    }

    /// The place of a key, or of the stanza if it is not there.
    pub(crate) fn place(&self, key: &str) -> Place {
        let position = match self.object.attribute(key) {
            Some(item) => item.node.position,
            None => self.position,
        };
        self.place_at(position)
    }

    pub(crate) fn error(&self, position: Position, kind: ConfigErrorKind) -> ConfigError {
        ConfigError { place: Some(self.place_at(position)), kind }
    }

    /// An error at a key.
    pub(crate) fn at(&self, key: &str, kind: ConfigErrorKind) -> ConfigError {
        ConfigError { place: Some(self.place(key)), kind }
    }

    /// A value that cannot be used.
    pub(crate) fn wrong(&self, key: &str, value: &str, expected: impl Into<String>) -> ConfigError {
        let kind = ConfigErrorKind::Value { key: self.key(key), value: value.to_owned(), expected: expected.into() };
        self.at(key, kind)
    }

    pub(crate) fn missing(&self, key: &'static str, next: &'static str) -> ConfigError {
        let stanza = self.name.clone();
        self.error(self.position, ConfigErrorKind::Missing { stanza, key, next })
    }

    pub(crate) fn warning(&self, position: Position, text: String) -> Warning {
        Warning { place: Some(self.place_at(position)), text }
    }

    fn place_at(&self, position: Position) -> Place {
        Place { file: self.file.to_owned(), position }
    }

    /// A key with its stanza, for messages.
    pub(crate) fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{key} of {}", self.name) }
    }

    fn taken<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&Node) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(item) = self.item(key) else {
            return Ok(None);
        };
        if matches!(item.node.value, Value::Null) {
            return Ok(None);
        }
        if let Some(value) = read(&item.node) {
            return Ok(Some(value));
        }
        let kind = match &item.node.value {
            Value::String(text) => {
                ConfigErrorKind::Value { key: self.key(key), value: text.clone(), expected: expected.to_owned() }
            }
            Value::Number(number) => ConfigErrorKind::Value {
                key: self.key(key),
                value: number.as_text().to_owned(),
                expected: expected.to_owned(),
            },
            _ => ConfigErrorKind::Type { key: self.key(key), expected, found: item.node.kind() },
        };
        Err(self.error(item.node.position, kind))
    }
}

/// The words for a boolean that Go's `strconv.ParseBool` knows.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

pub(crate) fn comma_separated(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The known key that differs from a word in at most two letters.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|key| (distance(word, key), *key))
        .filter(|(distance, key)| *distance <= 2 && *distance * 3 < key.len())
        .min()
        .map(|(_, key)| key)
}

/// How many letters must be changed, added or dropped.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().take(80).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let changed = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
