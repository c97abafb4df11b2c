//! The reader's side: whether a log is what was written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, BufRead, Read};

use crate::{Checkpoint, Line, NOTHING, PublicKeys, hash};

/// A line is not longer; what is, is no line.
const LONGEST_LINE: u64 = 256 << 20;
/// Lines that wait for a checkpoint, of which the hash is kept. A device that signs may be away for a while.
const WAITING: usize = 1 << 22;

/// What was found in an intact log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines of the chain.
    pub lines: u64,
    /// Those before the chain begins; nothing is known of them.
    pub before: u64,
    /// Lines behind the last checkpoint: whether they were changed is not known yet.
    pub unsealed: u64,
    /// Where the first of them is: a file and its line.
    pub unsealed_from: Option<(String, u64)>,
    /// Whose log it is, as its last checkpoint says: node and device.
    pub log: Option<String>,
    pub checkpoints: u64,
    /// Numbers of the first line and the last.
    pub first: u64,
    pub last: u64,
    /// Places where a crash or a full disk has cut a line.
    pub torn: u64,
}

/// The first place where the log is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Fault {
    pub file: String,
    /// From 1; 0: the file as a whole.
    pub line: u64,
    pub what: String,
}

/// Where a line is.
#[derive(Debug, Clone, Default)]
struct At {
    file: String,
    line: u64,
}

impl At {
    fn fault(&self, what: impl Into<String>) -> Fault {
        Fault { file: self.file.clone(), line: self.line, what: what.into() }
    }
}

/// Read the files of one log, the oldest first. `exported` are checkpoints that were kept elsewhere: with them it shows
/// where a log was cut.
pub fn verify<'f>(
    files: impl IntoIterator<Item = (&'f str, &'f mut dyn BufRead)>,
    keys: &PublicKeys,
    exported: &[Checkpoint],
) -> Result<Report, Fault> {
    let mut reader = Reader {
        keys,
        wanted: exported.iter().map(|c| c.seq).collect(),
        report: Report::default(),
        before: None,
        last: None,
        sealed: 0,
        waiting: VecDeque::new(),
        unsealed: 0,
        unsealed_from: None,
        files: Vec::new(),
        id: None,
        ids: BTreeSet::new(),
        log: None,
        seen: BTreeMap::new(),
        torn: None,
    };
    let mut at = At::default();
    for (name, file) in files {
        at = At { file: name.to_owned(), line: 0 };
        reader.files.push(name.to_owned());
        reader.file(&mut at, file)?;
    }
    reader.finish(&at, exported)
}

/// A line of the chain that was read.
struct Last {
    seq: u64,
    hash: String,
    at: At,
}

/// A line that no checkpoint seals yet.
struct Waiting {
    seq: u64,
    hash: String,
    is_checkpoint: bool,
    place: Place,
}

/// The number of a file, and a line in it.
type Place = (usize, u64);

/// Bytes that are no line of the chain.
struct Torn {
    bytes: u64,
    at: At,
}

struct Reader<'v> {
    keys: &'v PublicKeys,
    /// Lines that exported checkpoints seal.
    wanted: BTreeSet<u64>,
    report: Report,
    /// Where the first line is that is none of the chain, which has not begun.
    before: Option<At>,
    last: Option<Last>,
    /// The last line that a checkpoint seals.
    sealed: u64,
    /// Lines behind it, each next to the one before.
    waiting: VecDeque<Waiting>,
    /// Those of them, and of lines before them, that are no checkpoints.
    unsealed: u64,
    unsealed_from: Option<Place>,
    /// The names of those that were begun.
    files: Vec<String>,
    /// The incarnation, as far as it is known.
    id: Option<String>,
    ids: BTreeSet<String>,
    log: Option<String>,
    seen: BTreeMap<u64, (String, At)>,
    torn: Option<Torn>,
}

impl Reader<'_> {
    fn file(&mut self, at: &mut At, file: &mut dyn BufRead) -> Result<(), Fault> {
        let mut line = Vec::new();
        loop {
            line.clear();
            at.line += 1;
            let read = (&mut *file).take(LONGEST_LINE).read_until(b'\n', &mut line);
            match read.map_err(|e: io::Error| at.fault(e.to_string()))? {
                0 => break,
                _ if line.last() == Some(&b'\n') => {
                    line.pop();
                    self.line(at, &line)?;
                }
                // The end of the file: a line that a crash has cut, or that is being written.
                _ => {
                    self.report.torn += 1;
                    self.torn = None;
                    return Ok(());
                }
            }
        }
        match self.torn.take() {
            Some(torn) => Err(torn.at.fault("this is no line of the chain")),
            None => Ok(()),
        }
    }

    fn line(&mut self, at: &At, bytes: &[u8]) -> Result<(), Fault> {
        let read = Line::read(bytes);
        let Some((link, checkpoint)) = read.as_ref().and_then(|l| Some((l.chain.as_ref()?, &l.checkpoint))) else {
            if self.last.is_none() && read.is_some() && self.torn.is_none() {
                self.report.before += 1;
                self.before.get_or_insert_with(|| at.clone());
                return Ok(());
            }
            match &mut self.torn {
                Some(torn) => torn.bytes += bytes.len() as u64 + 1,
                None => self.torn = Some(Torn { bytes: bytes.len() as u64, at: at.clone() }),
            }
            return Ok(());
        };
        match self.torn.take() {
            Some(torn) if torn.bytes != link.torn => return Err(torn.at.fault("this is no line of the chain")),
            Some(_) => self.report.torn += 1,
            None if link.torn > 0 => {
                return Err(at.fault(format!("{} bytes that were torn before it are gone", link.torn)));
            }
            None => {}
        }
        match &self.last {
            None if link.seq == 1 && link.prev != NOTHING => {
                return Err(at.fault("it is the first line and names one before it"));
            }
            None => match &self.before {
                // Lines of before the chain are before its first.
                Some(before) if link.seq != 1 => return Err(before.fault("this is no line of the chain")),
                _ => {
                    self.report.first = link.seq;
                    // The line before it is in a file that was not given; a checkpoint may seal it.
                    let (seq, hash) = (link.seq.saturating_sub(1), link.prev.clone());
                    if self.wanted.contains(&seq) {
                        self.seen.insert(seq, (hash.clone(), at.clone()));
                    }
                    self.waiting.push_back(Waiting { seq, hash, is_checkpoint: true, place: self.place(at) });
                }
            },
            Some(last) if link.seq == last.seq + 1 && link.prev == last.hash => {}
            Some(last) if link.seq == last.seq + 1 => {
                return Err(last
                    .at
                    .fault(format!("line {} of the chain was changed, or another one put in its place", last.seq)));
            }
            Some(last) if link.seq > last.seq + 1 => {
                let (from, to) = (last.seq + 1, link.seq - 1);
                return Err(at.fault(format!("lines {from} to {to} of the chain are missing before it")));
            }
            Some(last) => {
                return Err(at.fault(format!(
                    "line {} of the chain stands behind line {}: the order was changed, or it is there twice",
                    link.seq, last.seq
                )));
            }
        }
        if let Some(id) = &link.id {
            self.id = Some(id.clone());
            self.ids.insert(id.clone());
        }
        match checkpoint {
            Some(checkpoint) => self.checkpoint(at, checkpoint, link.seq)?,
            None => {
                self.unsealed += 1;
                let place = self.place(at);
                self.unsealed_from.get_or_insert(place);
            }
        }
        let hash = hash(bytes);
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
        }
        let (seq, place, is_checkpoint) = (link.seq, self.place(at), checkpoint.is_some());
        self.waiting.push_back(Waiting { seq, hash: hash.clone(), is_checkpoint, place });
        if self.wanted.contains(&link.seq) {
            self.seen.insert(link.seq, (hash.clone(), at.clone()));
        }
        self.report.lines += 1;
        self.report.last = link.seq;
        self.last = Some(Last { seq: link.seq, hash, at: at.clone() });
        Ok(())
    }

    fn checkpoint(&mut self, at: &At, checkpoint: &Checkpoint, seq: u64) -> Result<(), Fault> {
        if !self.keys.knows(&checkpoint.key) {
            return Err(
                at.fault(format!("the checkpoint is signed by the key {}, which was not given", checkpoint.key))
            );
        }
        if !checkpoint.is_signed_by(self.keys) {
            return Err(at.fault("the checkpoint's signature is wrong"));
        }
        let of_this = self.id.as_ref().is_none_or(|id| *id == checkpoint.id)
            && self.log.as_ref().is_none_or(|log| *log == checkpoint.log);
        if !of_this {
            return Err(at.fault(format!("the checkpoint is one of another log ({})", checkpoint.log)));
        }
        let (forged, sealed) =
            ("the checkpoint seals other lines than those before it: they were forged", checkpoint.seq);
        if sealed >= seq || sealed < self.sealed {
            return Err(at.fault(forged));
        }
        let first = self.waiting.front().map_or(seq, |line| line.seq);
        // One that is before the given files, or has waited for too long, cannot be looked at any more.
        if let Some(at_line) = sealed.checked_sub(first) {
            let line = usize::try_from(at_line).ok().and_then(|n| self.waiting.get(n));
            if line.is_none_or(|line| line.seq != sealed || line.hash != checkpoint.head) {
                return Err(at.fault(forged));
            }
        } else if self.report.first <= sealed {
            return Err(
                at.fault(format!("the checkpoint is more than {WAITING} lines behind line {sealed}, which it seals"))
            );
        }
        self.id = Some(checkpoint.id.clone());
        self.ids.insert(checkpoint.id.clone());
        self.log = Some(checkpoint.log.clone());
        self.seal_to(sealed);
        self.report.checkpoints += 1;
        Ok(())
    }

    fn place(&self, at: &At) -> Place {
        (self.files.len() - 1, at.line)
    }

    /// All lines up to this one are sealed.
    fn seal_to(&mut self, seq: u64) {
        self.sealed = self.sealed.max(seq);
        let sealed = self.waiting.iter().take_while(|line| line.seq <= seq).count();
        self.waiting.drain(..sealed);
        let mut unsealed = self.waiting.iter().filter(|line| !line.is_checkpoint);
        self.unsealed_from = unsealed.next().map(|line| line.place);
        self.unsealed = unsealed.count() as u64 + u64::from(self.unsealed_from.is_some());
    }

    fn finish(mut self, end: &At, exported: &[Checkpoint]) -> Result<Report, Fault> {
        let Some(last) = &self.last else {
            let whole = At { line: 0, ..end.clone() };
            return Err(self.before.unwrap_or(whole).fault("there is no line of a chain here"));
        };
        let (last, end) = (last.seq, last.at.clone());
        let kept = At { file: "checkpoints".into(), line: 0 };
        let mut of_this = false;
        for checkpoint in exported {
            let line = self.seen.get(&checkpoint.seq);
            let is_line = line.is_some_and(|(hash, _)| *hash == checkpoint.head);
            if !(is_line || self.ids.contains(&checkpoint.id) || self.log.as_ref() == Some(&checkpoint.log)) {
                continue;
            }
            of_this = true;
            if !checkpoint.is_signed_by(self.keys) {
                return Err(
                    kept.fault(format!("the checkpoint of line {} is not signed by a given key", checkpoint.seq))
                );
            }
            if checkpoint.seq > last {
                let what = format!(
                    "the log ends here, and a checkpoint seals line {} of the chain: it was cut",
                    checkpoint.seq
                );
                return Err(end.fault(what));
            }
            match line {
                Some((_, at)) if !is_line => return Err(at.fault("it is not the line that was sealed")),
                Some(_) => self.seal_to(checkpoint.seq),
                // It is in a file that was not given.
                None => {}
            }
        }
        // Lines that no checkpoint knows may be anybody's, though they name each other.
        if !of_this && !exported.is_empty() {
            return Err(end.fault(
                "none of the given checkpoints is of this log: it is another one, or lines behind these are gone; give the files behind it too, if there are any",
            ));
        }
        let files = &self.files;
        self.report.unsealed = self.unsealed;
        self.report.unsealed_from = self.unsealed_from.and_then(|(file, line)| Some((files.get(file)?.clone(), line)));
        self.report.log = self.log;
        Ok(self.report)
    }
}
