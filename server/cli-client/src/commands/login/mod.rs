//! `login`: from a proof of who one is to a token, kept for the next commands.

mod methods;
mod oidc;
mod second_factor;

use serde_json::Value;

use super::{Command, Prints};
use crate::PROGRAM;
use crate::call::{Call, sanitized};
use crate::client::{Client, Error, Request};
use crate::completion::Values;
use crate::data;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format};
use crate::secret::{Auth, Secret};
use crate::token_file::{self, Token};
use methods::{Config, Trouble};

pub use methods::{method, usage};

static FLAGS: [Flag; 5] = [
    Flag::text("method", "How to log in: token, userpass, ldap, radius, cert, oidc or github.")
        .words(&methods::NAMES)
        .default("token"),
    Flag::text("path", "Where the method is mounted below auth/, if not at its own name.").values(Values::AuthMount),
    Flag::bool("no-store", "Do not keep the token for the next commands."),
    Flag::bool("no-print", "Print nothing."),
    Flag::bool("token-only", "Print the token alone and do not keep it."),
];

pub static COMMANDS: [Command; 1] = [Command::new("login", "Log in and keep the token", run)
    .takes("[options] [AUTH K=V...]")
    .about("Logs in and keeps the token in ~/.vault-token for the commands that follow. With the method \"token\" the argument is the token itself; - reads it from stdin, none asks for it.")
    .prints(Prints::Object)
    .flags(&FLAGS)];

fn run(call: &Call) -> Outcome {
    let token_only = call.flags.bool("token-only");
    let stores = !(token_only || call.flags.bool("no-store"));
    let quiet = call.flags.bool("no-print");
    if quiet && !stores {
        return Err(Failure::usage("-no-store and -no-print cannot be used together"));
    }
    let name = call.flags.text("method").unwrap_or("token").trim().to_lowercase();
    let Some(method) = method(&name) else {
        return Err(Failure::usage(format!(
            "Unknown auth method: {name}. \"{PROGRAM} auth list\" shows what the server has; methods that this command\ndoes not know log in by \"{PROGRAM} write auth/PATH/login ...\"."
        )));
    };
    let mut config = config(call, &name)?;
    config.entry("mount".to_string()).or_insert_with(|| {
        call.flags.text("path").map(sanitized).filter(|p| !p.is_empty()).unwrap_or_else(|| name.clone())
    });
    let mut client = call.client()?;
    // Who logs in has no token, or one that is not asked about.
    client.set_token(None);
    let secret = (method.login)(call, &client, &mut config).map_err(|trouble| match trouble {
        Trouble::Client(Error::Rehearsed(text)) => Failure::Rehearsed(text),
        Trouble::Client(e) => Failure::refused(format!("Error authenticating: {e}")),
        Trouble::Said(why) => Failure::refused(format!("Error authenticating: {why}")),
    })?;
    client.without_wrapping();
    let secret = match secret {
        Some(secret) if secret.wrap_info.is_some() && !stores => {
            return wrapped(call, &secret, token_only);
        }
        Some(secret) if secret.wrap_info.is_some() => unwrapped(&mut client, &secret)?,
        other => other,
    };
    let secret = match secret {
        Some(secret) => second_factor::brought(call, &client, secret)?,
        None => None,
    };
    let Some((secret, auth)) = secret.as_ref().and_then(|s| Some((s, s.auth.as_ref()?))) else {
        return Err(Failure::refused(
            "The server's answer has no token in it. The path may be no login, or a second factor is asked for.",
        ));
    };
    if auth.mfa_requirement().is_none() {
        keep(call, auth, stores, token_only)?;
    }
    if quiet {
        return Ok(0);
    }
    match if token_only { Some("token") } else { call.field() } {
        Some(field) => output::secret_field(call, secret, field),
        None => {
            if call.format == Format::Table && auth.mfa_requirement().is_none() {
                call.console.say(greeting(stores));
            }
            output::secret(call, secret)
        }
    }
}

fn greeting(stores: bool) -> &'static str {
    if stores {
        "Success! You are logged in. The token below is kept for the commands that follow.\n"
    } else {
        "Success! You are logged in.\n"
    }
}

fn config(call: &Call, method: &str) -> Result<Config, Failure> {
    let mut args = call.args.clone();
    // The token method takes the token itself as its argument.
    if method == "token" && args.first().is_some_and(|a| a == "-" || !a.contains('=')) {
        args[0] = format!("token={}", args[0]);
    }
    let pairs = data::parse_texts(&args, call.console)
        .map_err(|why| Failure::usage(format!("Error parsing configuration: {why}")))?;
    let mut config: Config = pairs.into_iter().collect();
    if let Some(password) = config.get_mut("password").filter(|_| comes_from_outside(&args, "password")) {
        without_line_end(password, call);
    }
    Ok(config)
}

/// Whether a value was read from a file or from stdin.
fn comes_from_outside(args: &[String], key: &str) -> bool {
    let value = |arg: &String| arg.strip_prefix(key)?.strip_prefix('=').map(|v| v == "-" || v.starts_with('@'));
    args.iter().filter_map(value).next_back() == Some(true)
}

/// Editors and `echo` end a file with a line end that is no part of a password.
fn without_line_end(password: &mut String, call: &Call) {
    let bare = password.strip_suffix('\n').map(|p| p.strip_suffix('\r').unwrap_or(p).len());
    if let Some(length) = bare {
        password.truncate(length);
        call.console.warn("Note: the line end behind the password was left out.");
    }
}

fn keep(call: &Call, auth: &Auth, stores: bool, token_only: bool) -> Result<(), Failure> {
    let token = Token::new(auth.text("client_token"));
    if !stores {
        if !token_only {
            call.console.warn("The token was not kept. Put it into HOLDFAST_TOKEN, or give it with each request.\n");
        }
        return Ok(());
    }
    token_file::store(call.environment, &token).map_err(|e| {
        Failure::refused(format!("Error storing token: {e}. The login went well, but the token is not kept."))
    })?;
    if let Some(setting) = call.environment.setting("TOKEN").filter(|s| !s.value.is_empty()) {
        call.console.warn(format_args!(
            "WARNING! {} is set, and commands use its value instead of the token kept now.\n",
            setting.variable
        ));
    }
    Ok(())
}

fn wrapped(call: &Call, secret: &Secret, token_only: bool) -> Outcome {
    match token_only {
        true => output::secret_field(call, secret, "wrapping_token"),
        false => output::secret(call, secret),
    }
}

fn unwrapped(client: &mut Client, secret: &Secret) -> Result<Option<Secret>, Failure> {
    let info = secret.wrap_info.as_ref().and_then(|w| w.0.get("token")).and_then(Value::as_str);
    client.set_token(info.map(Token::new));
    client.secret(Request::new("PUT", "sys/wrapping/unwrap")).explain("Error extracting token")
}
