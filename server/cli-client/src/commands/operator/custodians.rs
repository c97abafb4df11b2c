//! `operator custodians challenge | status | give`: unsealing by the signatures of people, where a seal asks for them.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::{Command, Prints};
use super::{is, text, unwrapped};
use crate::call::Call;
use crate::client::Request;
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, table};

const ROUTE: &str = "sys/unseal/custodians";

static CHALLENGE: [Flag; 2] = [
    Flag::text("out", "A file that the message is written to, as it is to be signed.").values(Values::File),
    Flag::bool("reset", "Make a new challenge, although one waits; signatures over that one are lost."),
];
static GIVE: [Flag; 1] = [Flag::text("custodian", "Whose signature it is; without it that is found out.")];

pub static COMMANDS: &[Command] = &[
    Command::new("operator custodians challenge", "What custodians have to sign to unseal", challenge)
        .about("Asks the device of a sealed server for the message that its custodians have to sign, and shows who they are. While a challenge waits it is shown again. It ends after half an hour, when it is used, and when the server or its device is restarted.\n\nEach custodian signs the message with their key: openssl dgst -sha256 -sign KEY -out SIGNATURE MESSAGE, or pkcs11-tool --sign with a token (docs/tpm.md).")
        .prints(Prints::Answer)
        .flags(&CHALLENGE),
    Command::new("operator custodians status", "Which custodians have signed", status)
        .about("Shows the challenge that waits, and whose signatures were given.")
        .prints(Prints::Answer),
    Command::new("operator custodians give", "Give a custodian's signature", give)
        .takes("[options] FILE")
        .about("Gives the signature of one custodian over the message of the challenge, from a file, or from standard input where FILE is -. It may be in base64. When enough custodians have signed, the server is unsealed.")
        .prints(Prints::Answer)
        .flags(&GIVE),
];

fn challenge(call: &Call) -> Outcome {
    call.exactly(0)?;
    let body = json!({ "reset": call.flags.bool("reset") });
    let shown = ask(call, &Request::new("POST", ROUTE).json(&body), "Error asking for a challenge")?;
    if let Some(file) = call.flags.text("out")
        && is(&shown, "waiting")
    {
        let message = STANDARD.decode(text(&shown, "message"));
        let message = message.map_err(|_| Failure::refused("The server's message is no base64."))?;
        fs::write(file, message).map_err(|e| Failure::usage(format!("{file} cannot be written: {e}")))?;
    }
    print(call, shown)
}

fn status(call: &Call) -> Outcome {
    call.exactly(0)?;
    print(call, ask(call, &Request::new("GET", ROUTE), "Error reading who has signed")?)
}

fn give(call: &Call) -> Outcome {
    call.exactly(1)?;
    let signature = match call.arg(0) {
        "-" => call.console.read_stdin().map(|bytes| bytes.to_vec()),
        file => fs::read(file),
    };
    let signature = signature.map_err(|e| Failure::usage(format!("The signature cannot be read: {e}")))?;
    let is_text = str::from_utf8(&signature)
        .ok()
        .and_then(|text| STANDARD.decode(text.split_whitespace().collect::<String>()).ok());
    let signature = STANDARD.encode(is_text.filter(|bytes| !bytes.is_empty()).unwrap_or(signature));
    let custodian = call.flags.text("custodian").unwrap_or_default();
    let body = json!({ "signature": signature, "custodian": custodian });
    let request = Request::new("POST", format!("{ROUTE}/sign")).json(&body);
    print(call, ask(call, &request, "Error giving the signature")?)
}

fn ask(call: &Call, request: &Request, what: &str) -> Result<Map<String, Value>, Failure> {
    let client = call.client()?.in_root_namespace();
    let answer = client.send(request).explain(what)?;
    Ok(unwrapped(answer.object().bare()?))
}

fn print(call: &Call, shown: Map<String, Value>) -> Outcome {
    if call.format != Format::Table {
        return output::value(call, &Value::Object(shown));
    }
    if !is(&shown, "waiting") {
        let said = match is(&shown, "sealed") {
            true => "No custodian is asked at present.",
            false => "The server is unsealed.",
        };
        return call.success(said);
    }
    call.console.say(table::pairs(&[
        ("Seal", text(&shown, "seal")),
        ("Signatures", format!("{} of {}", text(&shown, "given"), text(&shown, "threshold"))),
        ("Expires", text(&shown, "expires")),
        ("Message", text(&shown, "message")),
        ("SHA-256", text(&shown, "message_sha256")),
    ]));
    let row = |of: &Value| {
        let of = of.as_object()?;
        Some(["name", "signed", "mechanism", "fingerprint"].map(|field| text(of, field)).to_vec())
    };
    let custodians = shown.get("custodians").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows = custodians.iter().filter_map(row).collect();
    call.console.say(format_args!("\n{}", table::titled(&["Custodian", "Signed", "Signs With", "Key"], rows)));
    Ok(0)
}
