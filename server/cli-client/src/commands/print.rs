//! `print token`: the token that commands would use.

use super::Command;
use crate::call::Call;
use crate::failure::{Failure, Outcome};
use crate::token_file;

pub static COMMANDS: [Command; 1] = [Command::new("print token", "The token in use", run)
    .takes("")
    .about(
        "Prints the token that commands send: the environment's, else the one of the last login, else an empty line.",
    )
    .without_server()];

fn run(call: &Call) -> Outcome {
    let token = token_file::current(call.environment).map_err(Failure::refused)?;
    call.console.say(token.as_ref().map_or("", |t| t.reveal()));
    Ok(0)
}
