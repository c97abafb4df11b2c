//! `kv list` and `kv scan`.

use super::Key;
use crate::call::Call;
use crate::commands::list::finished;
use crate::failure::{Failure, Outcome};

pub fn list(call: &Call) -> Outcome {
    names(call, "listing")
}

pub fn scan(call: &Call) -> Outcome {
    names(call, "scanning")
}

fn names(call: &Call, doing: &str) -> Outcome {
    let least = usize::from(!call.flags.is_set("mount"));
    call.between(least, 1, "1")?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    let path = key.route("metadata");
    let answer = if doing == "listing" { client.list(&path, &[]) } else { client.scan(&path, &[]) };
    if doing == "scanning" && matches!(answer, Ok(None)) && call.format == crate::output::Format::Table {
        return Err(Failure::refused(format!("No entries found at {path}")));
    }
    finished(call, &path, doing, answer)
}
