//! `operator generate-root`: a new root token by key shares.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::{Map, Value, json};

use super::{is, pgp, picked, text, unwrapped};
use crate::PROGRAM;
use crate::call::Call;
use crate::client::{Client, Request};
use crate::commands::{Command, Prints};
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, table};

static FLAGS: [Flag; 9] = [
    Flag::bool("init", "Begin."),
    Flag::bool("cancel", "Give up what was begun."),
    Flag::bool("status", "Say how far it is."),
    Flag::text("decode", "Decode the token that came out, with -otp."),
    Flag::bool("generate-otp", "Make a one-time password and print it."),
    Flag::bool("recovery-token", "Make a recovery token, on a server in recovery mode."),
    Flag::text("otp", "The one-time password that the token is covered by."),
    Flag::text("pgp-key", "A file of a public PGP key that the token is encrypted to, instead of a password.")
        .values(Values::File),
    Flag::text("nonce", "The number of the attempt that the share is for."),
];

pub static COMMANDS: &[Command] = &[Command::new("operator generate-root", "Make a new root token by key shares", run)
    .takes("[options] [KEY]")
    .about("Makes a new root token when enough key shares agree: -init begins and prints a number and a one-time password; each holder gives a share; -decode uncovers the token with the password.")
    .prints(Prints::Answer)
    .flags(&FLAGS)];

/// Which kind of token: where its routes are. Who has no token asks where none is needed: on the socket of the
/// server's own user.
fn routes(call: &Call, client: &Client) -> &'static str {
    match (call.flags.bool("recovery-token"), client.token()) {
        (true, _) => "sys/generate-recovery-token",
        (false, None) => "sys/generate-root",
        (false, Some(_)) => "sys/generate-root-token",
    }
}

fn run(call: &Call) -> Outcome {
    call.between(0, 1, "0-1")?;
    let pgp_key = pgp::keys(call, "pgp-key")?.map(|k| k.concat()).unwrap_or_default();
    if let Some(covered) = call.flags.text("decode") {
        return decode(call, covered);
    }
    let client = call.client()?.in_root_namespace();
    match () {
        _ if call.flags.bool("generate-otp") => print_password(call, &client),
        _ if call.flags.bool("cancel") => cancel(call, &client),
        _ if call.flags.bool("init") => begin(call, &client, &pgp_key),
        _ if call.flags.bool("status") => print(call, &state(call, &client)?),
        _ => give_share(call, &client),
    }
}

fn decode(call: &Call, covered: &str) -> Outcome {
    let Some(password) = call.flags.text("otp").filter(|o| !o.is_empty()) else {
        return Err(Failure::usage("Missing otp: use -otp to supply it"));
    };
    let failed = |why: &str| Failure::usage(format!("Error decoding root token: {why}"));
    let covered = STANDARD_NO_PAD.decode(covered.trim_end_matches('=')).map_err(|_| failed("it is not base64"))?;
    if covered.len() != password.len() {
        return Err(failed("the password is of another length"));
    }
    let token: Vec<u8> = covered.iter().zip(password.bytes()).map(|(a, b)| a ^ b).collect();
    let token = String::from_utf8(token).map_err(|_| failed("the password is another one"))?;
    match call.format {
        Format::Table => call.console.say(token),
        _ => return output::value(call, &json!({ "token": token })),
    }
    Ok(0)
}

fn state(call: &Call, client: &Client) -> Result<Map<String, Value>, Failure> {
    let path = format!("{}/attempt", routes(call, client));
    let answer = client.send(&Request::new("GET", path)).explain("Error getting root generation status")?;
    Ok(unwrapped(answer.object().bare()?))
}

fn print_password(call: &Call, client: &Client) -> Outcome {
    let (password, length) = new_password(call, client)?;
    match call.format {
        Format::Table => call.console.say(password),
        _ => return output::value(call, &json!({ "otp": password, "otp_length": length })),
    }
    Ok(0)
}

/// A password as long as the server's tokens, of letters and digits.
fn new_password(call: &Call, client: &Client) -> Result<(String, u64), Failure> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const MAX_LENGTH: u64 = 1024;
    let length = state(call, client)?.get("otp_length").and_then(Value::as_u64).unwrap_or(0);
    if length == 0 || length > MAX_LENGTH {
        return Err(Failure::refused("Error generating OTP: the server does not say how long it must be"));
    }
    let mut password = String::new();
    while (password.len() as u64) < length {
        let mut byte = [0u8; 1];
        getrandom::fill(&mut byte).map_err(|e| Failure::refused(format!("Error generating OTP: {e}")))?;
        // Bytes past the last whole turn of the alphabet would favour its first letters.
        if byte[0] < 62 * 4 {
            password.push(char::from(LETTERS[usize::from(byte[0] % 62)]));
        }
    }
    Ok((password, length))
}

fn cancel(call: &Call, client: &Client) -> Outcome {
    client
        .send(&Request::new("DELETE", format!("{}/attempt", routes(call, client))))
        .explain("Error canceling root token generation")?;
    call.success("Root token generation canceled (if it was started)")
}

fn begin(call: &Call, client: &Client, pgp_key: &str) -> Outcome {
    let given = call.flags.text("otp").unwrap_or_default();
    let (password, made) = match (given, pgp_key) {
        ("", "") => (new_password(call, client)?.0, true),
        (given, _) => (given.to_string(), false),
    };
    let body = json!({ "otp": password, "pgp_key": pgp_key });
    let path = format!("{}/attempt", routes(call, client));
    let request = Request::new("PUT", path).json(&body);
    let answer = client.send(&request).explain("Error initializing root generation")?;
    let mut answer = unwrapped(answer.object().bare()?);
    if made {
        answer.insert("otp".into(), password.into());
        if call.format == Format::Table {
            call.console.warn("A one-time password was made and is shown below. It is needed to decode the token;\nit cannot be had again.");
        }
    }
    print(call, &answer)
}

fn give_share(call: &Call, client: &Client) -> Outcome {
    let state = state(call, client)?;
    if !is(&state, "started") {
        return Err(Failure::usage(format!(
            "No root generation is in progress. \"{PROGRAM} operator generate-root -init\" begins one."
        )));
    }
    let (share, nonce) = match call.args.first() {
        Some(share) => {
            let nonce = call.flags.text("nonce").filter(|n| !n.is_empty());
            let nonce = nonce.ok_or_else(|| Failure::usage("Missing nonce value: specify it via the -nonce flag"))?;
            (share.trim().to_string(), nonce.to_string())
        }
        None => {
            let nonce = text(&state, "nonce");
            call.console.say(format_args!("Operation nonce: {nonce}"));
            let share = call.console.ask_hidden_on_stdout("Unseal Key (will be hidden): ").map_err(Failure::usage)?;
            (share.trim().to_string(), nonce)
        }
    };
    let body = json!({ "key": share, "nonce": nonce });
    let path = format!("{}/update", routes(call, client));
    let request = Request::new("PUT", path).json(&body);
    let answer = client.send(&request).explain("Error posting unseal key")?;
    print(call, &unwrapped(answer.object().bare()?))
}

fn print(call: &Call, state: &Map<String, Value>) -> Outcome {
    if call.format != Format::Table {
        let empty = |name: &str| match name {
            "started" | "complete" => Value::from(false),
            "progress" | "required" | "otp_length" => 0.into(),
            _ => "".into(),
        };
        const FIELDS: [&str; 10] = [
            "nonce",
            "started",
            "progress",
            "required",
            "complete",
            "encoded_token",
            "encoded_root_token",
            "pgp_fingerprint",
            "otp",
            "otp_length",
        ];
        let fields = FIELDS.map(|f| (f, empty(f)));
        return output::value(call, &picked(state, &fields));
    }
    let mut rows = vec![
        ("Nonce", text(state, "nonce")),
        ("Started", text(state, "started")),
        ("Progress", format!("{}/{}", text(state, "progress"), text(state, "required"))),
        ("Complete", text(state, "complete")),
    ];
    for (title, name) in [
        ("PGP Fingerprint", "pgp_fingerprint"),
        ("Encoded Token", "encoded_token"),
        ("Encoded Root Token", "encoded_root_token"),
        ("OTP", "otp"),
    ] {
        if !text(state, name).is_empty() {
            rows.push((title, text(state, name)));
        }
    }
    if !matches!(text(state, "otp_length").as_str(), "" | "0") {
        rows.push(("OTP Length", text(state, "otp_length")));
    }
    call.console.say(table::pairs(&rows));
    Ok(0)
}
