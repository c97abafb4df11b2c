//! What holds of every audit log that a test leaves behind: each line has the shape of its type (members and their types,
//! and none that the contract does not know), and no token, secret id, share, password, one-time password, PIN or stored
//! value that a client, a command or a person at a terminal of any test has seen or sent stands in it.
//!
//! Looked at are all files below a test's folder that hold audit lines, rotated and further ones too, those that a client
//! has made elsewhere by the API, and the lines that a peer of a test was sent ([`line`]).

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

use crate::Address;

pub mod secrets;
mod shape;

/// How deep below a test's folder files are looked for.
const DEPTH: usize = 6;
/// A line begins with these, behind the prefix of its device.
const START: &[u8] = b"{\"time\":\"";
const THEN: &[u8] = b",\"type\":\"";
/// The longest prefix of a device that a test has, and the longest time.
const LONGEST_START: usize = 160;

thread_local! {
    /// Files of audit devices that a client of this test has made by the API of a server that is not known.
    static MADE: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// What is known of all tests of this process.
#[derive(Default)]
struct Known {
    /// Where servers listen, and the folder of each: the last one that took an address.
    servers: Vec<(Address, PathBuf)>,
    /// Files that clients of any thread have made by the API, and their server's folder.
    made: Vec<(PathBuf, PathBuf)>,
    /// Files of devices that hash nothing.
    raw: HashSet<PathBuf>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> std::sync::MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server whose files are in `folder` listens there.
pub fn serves(address: &Address, folder: &Path) {
    let mut known = known();
    known.servers.retain(|(other, _)| other != address);
    known.servers.push((address.clone(), folder.to_owned()));
}

/// A client has asked this: what it sends is a secret, and a file that it has lines written to is one to look at.
pub fn asked(server: &Address, method: &str, path: &str, body: &[u8]) {
    let Some(path) = path.strip_prefix("/v1/").filter(|_| matches!(method, "POST" | "PUT" | "PATCH")) else { return };
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    secrets::asked(path, &body);
    if path.starts_with("sys/audit/") && body["type"] == "file" {
        let option = |name: &str| body["options"][name].as_str();
        let Some(file) = option("file_path").map(Path::new).filter(|file| file.is_absolute()) else { return };
        let mut known = known();
        if option("log_raw").is_some() {
            known.raw.insert(file.to_owned());
            return;
        }
        match known.servers.iter().find(|(address, _)| address == server) {
            Some((_, folder)) => {
                let folder = folder.clone();
                known.made.push((file.to_owned(), folder));
            }
            None => MADE.with_borrow_mut(|made| made.push(file.to_owned())),
        }
    }
}

/// A client was answered this.
pub fn answered(body: &[u8]) {
    secrets::answered(body);
}

/// What is wrong with the logs below a test's folder, or with a file that a device was made for by the API of a server
/// there, or of one that this thread alone knows.
pub fn fault_of(folder: &Path) -> Option<String> {
    let mut files = Vec::new();
    logs_below(folder, DEPTH, &mut files);
    files.extend(MADE.take());
    let mut known = known();
    known.made.retain(|(file, of)| {
        let is_its = of.starts_with(folder);
        if is_its && !files.contains(file) {
            files.push(file.clone());
        }
        !is_its
    });
    let raw = known.raw.clone();
    drop(known);
    files.iter().filter(|file| !raw.contains(*file)).find_map(|file| fault(file))
}

/// A file of a device that hashes nothing: what it holds is not looked for secrets.
pub fn is_raw(file: &Path) {
    known().raw.insert(file.to_owned());
}

/// Files that begin with an audit line, however they are named.
fn logs_below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        match () {
            () if kind.is_dir() && depth > 0 => logs_below(&path, depth - 1, found),
            () if kind.is_file() && is_log(&path) => found.push(path),
            () => {}
        }
    }
}

fn is_log(file: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(file).and_then(|f| f.take(LONGEST_START as u64).read_to_end(&mut start));
    read.is_ok() && at(&start, START).is_some_and(|begin| at(&start[begin..], THEN).is_some())
}

fn at(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A line that a peer of a test was sent is right, or the test fails.
#[track_caller]
pub fn line(text: &str) {
    if let Some(what) = fault_of_line(text.as_bytes()).map_or_else(|e| Some(e.to_owned()), |(_, fault)| fault) {
        panic!("{what}: {text}");
    }
}

/// The line without its prefix, parsed, and what is wrong with it. An error: it is none.
fn fault_of_line(line: &[u8]) -> Result<(Value, Option<String>), &'static str> {
    let begin = at(&line[..line.len().min(LONGEST_START)], START).ok_or("this is no line")?;
    let parsed: Value = serde_json::from_slice(&line[begin..]).map_err(|_| "this is no line")?;
    let secret = secrets::within(&parsed).map(|secret| format!("it has the secret {secret:?}"));
    let fault = secret.or_else(|| shape::fault(&parsed));
    Ok((parsed, fault))
}

/// What is wrong with an audit log; a file that is not there has nothing wrong.
///
/// What a kill has torn off is no line; the line behind it says how many bytes it had.
pub fn fault(file: &Path) -> Option<String> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        Err(e) => return Some(format!("{}: {e}", file.display())),
    };
    let mut torn: Option<(usize, String)> = None;
    let mut reader = BufReader::new(opened);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) if line.last() != Some(&b'\n') => break,
            Ok(_) => {}
            Err(e) => return Some(format!("{}: {e}", file.display())),
        }
        let here =
            |what: &str| Some(format!("{}:{number}: {what}: {}", file.display(), String::from_utf8_lossy(&line)));
        match fault_of_line(&line) {
            Ok((_, Some(what))) => return here(&what),
            Ok((parsed, None)) => {
                if let Some((number, text)) = torn.take()
                    && parsed["chain"]["torn"].as_u64().is_none()
                {
                    return Some(format!("{}:{number}: this is no line: {text}", file.display()));
                }
            }
            Err(_) if torn.is_none() => torn = Some((number, String::from_utf8_lossy(&line).into_owned())),
            Err(_) => return here("this and the one before it are no lines"),
        }
    }
    None
}
