//! `operator key-status` and `operator rotate`: the key that storage is encrypted by.

use serde_json::{Map, Value};

use super::{picked, text, unwrapped};
use crate::call::Call;
use crate::client::{Client, Request};
use crate::failure::{Explain, Failure, Outcome};
use crate::output::{self, Format, table};

pub fn status(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    let key = key(&client)?;
    if call.format != Format::Table {
        return as_object(call, &key);
    }
    call.console.say(rows(&key));
    Ok(0)
}

pub fn rotate(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    client.send(&Request::new("POST", "sys/rotate/keyring")).explain("Error rotating key")?;
    let key = key(&client)?;
    if call.format != Format::Table {
        return as_object(call, &key);
    }
    call.success("Rotated key\n")?;
    call.console.say(rows(&key));
    Ok(0)
}

fn key(client: &Client) -> Result<Map<String, Value>, Failure> {
    let answer = client.send(&Request::new("GET", "sys/key-status")).explain("Error reading key status")?;
    Ok(unwrapped(answer.object().bare()?))
}

fn as_object(call: &Call, key: &Map<String, Value>) -> Outcome {
    output::value(call, &picked(key, &[("term", 0.into()), ("install_time", "".into()), ("encryptions", 0.into())]))
}

fn rows(key: &Map<String, Value>) -> String {
    let time = text(key, "install_time");
    table::pairs(&[
        ("Key Term", text(key, "term")),
        ("Install Time", day_and_minute(&time).unwrap_or(time)),
        ("Encryption Count", text(key, "encryptions")),
    ])
}

/// `2026-11-29T00:16:23Z` as `29 Nov 26 00:16 UTC`.
fn day_and_minute(rfc3339: &str) -> Option<String> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if !rfc3339.ends_with('Z') {
        return None;
    }
    let month = MONTHS.get(rfc3339.get(5..7)?.parse::<usize>().ok()?.checked_sub(1)?)?;
    Some(format!("{} {month} {} {} UTC", rfc3339.get(8..10)?, rfc3339.get(2..4)?, rfc3339.get(11..16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_to_the_minute() {
        assert_eq!(day_and_minute("2026-11-29T00:16:23.18Z").as_deref(), Some("29 Nov 26 00:16 UTC"));
        assert_eq!(day_and_minute("x"), None);
        assert_eq!(day_and_minute("2026-13-29T00:16:23Z"), None);
    }
}
