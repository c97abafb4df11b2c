//! `unwrap`: the answer that a wrapping token holds.

use serde_json::json;

use super::{Command, Prints};
use crate::call::Call;
use crate::client::Request;
use crate::failure::{Explain, Failure, Outcome};
use crate::output;

pub static COMMANDS: [Command; 1] = [Command::new("unwrap", "Unwrap a wrapped answer", run)
    .takes("[options] [TOKEN]")
    .about("Prints the answer that a wrapping token holds, and spends the token. Without an argument the client's own token is the wrapping token.")
    .prints(Prints::Object)];

fn run(call: &Call) -> Outcome {
    call.between(0, 1, "0-1")?;
    let mut client = call.client()?;
    client.without_wrapping();
    let mut request = Request::new("PUT", "sys/wrapping/unwrap");
    if !call.args.is_empty() {
        let token = call.arg(0).trim();
        if client.token().is_none_or(|t| t.is_empty()) {
            client.set_token(Some(crate::token_file::Token::new(token)));
        } else {
            request = request.json(&json!({ "token": token }));
        }
    }
    let secret = client.secret(request).explain("Error unwrapping")?;
    match (secret, call.field()) {
        (None, _) => Err(Failure::refused("Could not find wrapped response")),
        (Some(secret), Some(field)) => output::secret_field(call, &secret, field),
        (Some(secret), None) => output::secret(call, &secret),
    }
}
