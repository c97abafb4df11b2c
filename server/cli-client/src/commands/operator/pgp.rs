//! PGP keys given as files: binary or base64, as the API wants them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::call::Call;
use crate::data::opening;
use crate::failure::Failure;

/// The keys of a flag whose value is file names with commas between; `None` where it is not given.
pub fn keys(call: &Call, flag: &str) -> Result<Option<Vec<String>>, Failure> {
    let given = call.flags.list(flag);
    if given.is_empty() {
        return Ok(None);
    }
    let names = given.iter().flat_map(|g| g.split(',')).map(str::trim).filter(|n| !n.is_empty());
    names.map(|name| key(flag, name)).collect::<Result<Vec<_>, _>>().map(Some)
}

fn key(flag: &str, name: &str) -> Result<String, Failure> {
    let wrong = |why: String| Failure::usage(format!("invalid value {name:?} for flag -{flag}: {why}"));
    if name.starts_with("keybase:") {
        return Err(wrong("keys are not fetched from Keybase; give a file".to_string()));
    }
    let path = name.strip_prefix('@').unwrap_or(name);
    let bytes = std::fs::read(path).map_err(|e| wrong(opening(path, &e)))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match STANDARD.decode(text.trim()) {
        Ok(_) => text.trim().to_string(),
        Err(_) => STANDARD.encode(&bytes),
    })
}
