//! `ssh`: a session with a key that the SSH engine signs, or a password that it gives for once.

mod arguments;
mod workplace;

use std::process::Command as Process;

use serde_json::{Value, json};

use super::{Command, Prints};
use crate::call::{Call, sanitized};
use crate::client::Client;
use crate::completion::Values;
use crate::data::opening;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, plain};
use crate::secret::Secret;
use arguments::Target;
use workplace::Workplace;

static FLAGS: [Flag; 12] = [
    Flag::text("mode", "ca: a signed key; otp: a password for once.").words(&["ca", "otp"]),
    Flag::text("role", "The role to use."),
    Flag::bool("no-exec", "Print what is needed and start nothing."),
    Flag::text("mount-point", "Where the engine is mounted.").values(Values::Mount).default("ssh/"),
    Flag::text("strict-host-key-checking", "ssh's option of the same name."),
    Flag::text("user-known-hosts-file", "ssh's option of the same name."),
    Flag::text("public-key-path", "The public key to have signed.").values(Values::File).default("~/.ssh/id_rsa.pub"),
    Flag::text("private-key-path", "Its private key.").values(Values::File).default("~/.ssh/id_rsa"),
    Flag::text(
        "host-key-mount-point",
        "Where the engine that signs host keys is mounted; hosts are then checked by it.",
    ),
    Flag::text("host-key-hostnames", "The hosts that are checked so.").default("*"),
    Flag::text("valid-principals", "Names that the key is signed for, if not only the user's."),
    Flag::text("ssh-executable", "The ssh program.").default("ssh"),
];

pub static COMMANDS: [Command; 1] = [Command::new("ssh", "Open an SSH session by the SSH engine", run)
    .takes("[options] USER@HOST [SSH OPTIONS] [COMMAND]")
    .about(
        "Has a key signed, or gets a password for once, and starts ssh with it. Options of ssh stand behind the host.",
    )
    .prints(Prints::Object)
    .flags(&FLAGS)];

fn run(call: &Call) -> Outcome {
    if call.args.is_empty() {
        return Err(Failure::usage("Not enough arguments, (expected 1-n, got 0)"));
    }
    let target = Target::of(&call.args, call.environment.user()).map_err(Failure::usage)?;
    let Some(role) = call.flags.text("role").filter(|r| !r.is_empty()) else {
        return Err(Failure::usage("No role is given: -role says which one of the engine's to use."));
    };
    match call.flags.text("mode").unwrap_or_default() {
        "" => Err(Failure::usage("No mode is given: -mode=ca or -mode=otp.")),
        "ca" => by_certificate(call, role, &target),
        "otp" => by_password(call, role, &target),
        "dynamic" => Err(Failure::refused("The mode \"dynamic\" is gone; there are ca and otp.")),
        other => Err(Failure::usage(format!("Unknown SSH mode: {other}"))),
    }
}

fn mount(call: &Call) -> String {
    sanitized(call.flags.text("mount-point").unwrap_or("ssh/"))
}

/// A path of a flag, with `~` for the home folder.
fn path_of(call: &Call, flag: &str, default: &str) -> String {
    let path = call.flags.text(flag).unwrap_or(default);
    match (path.strip_prefix("~/"), call.environment.home()) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => path.to_string(),
    }
}

fn by_certificate(call: &Call, role: &str, target: &Target) -> Outcome {
    let public_path = path_of(call, "public-key-path", "~/.ssh/id_rsa.pub");
    let private_path = path_of(call, "private-key-path", "~/.ssh/id_rsa");
    let public_key = std::fs::read_to_string(&public_path).map_err(|e| {
        Failure::usage(format!("failed to read public key {public_path}: {}", opening(&public_path, &e)))
    })?;
    let body = json!({
        "public_key": public_key,
        "valid_principals": call.flags.text("valid-principals").unwrap_or(&target.user),
        "cert_type": "user",
        // What a terminal session needs; the role decides whether it may be had.
        "extensions": {
            "permit-X11-forwarding": "",
            "permit-agent-forwarding": "",
            "permit-port-forwarding": "",
            "permit-pty": "",
            "permit-user-rc": "",
        },
    });
    let client = call.client()?;
    let signed = client.write(&format!("{}/sign/{role}", mount(call)), &body);
    let signed = signed.explain(format!("failed to sign public key {public_path}"))?;
    let signed = signed.ok_or_else(|| Failure::refused("The server signed nothing."))?;
    if call.flags.bool("no-exec") {
        return printed(call, &signed);
    }
    let workplace = Workplace::new().map_err(Failure::refused)?;
    let certificate = signed.get("signed_key").map(plain).unwrap_or_default();
    let certificate = workplace.file("key-cert.pub", &certificate).map_err(Failure::refused)?;
    let mut ssh = ssh(call);
    ssh.args(["-o", &format!("CertificateFile={certificate}"), "-i", &private_path]);
    if let Some(engine) = call.flags.text("host-key-mount-point").map(sanitized).filter(|m| !m.is_empty()) {
        let line = host_authority(call, &client, &engine)?;
        let known_hosts = workplace.file("known_hosts", &line).map_err(Failure::refused)?;
        ssh.args(["-o", &format!("UserKnownHostsFile={known_hosts}"), "-o", "StrictHostKeyChecking=yes"]);
    }
    started(ssh.args(&call.args))
}

/// The line of a known hosts file by which the engine's signatures on host keys are taken.
fn host_authority(call: &Call, client: &Client, engine: &str) -> Result<String, Failure> {
    let what = "failed to get host signing key";
    let secret = client.read(&format!("{engine}/config/ca"), &[]).explain(what)?;
    let key = secret.as_ref().and_then(|s| s.get("public_key")).map(plain);
    let key = key.ok_or_else(|| Failure::refused(format!("{what}: there is none at {engine}")))?;
    let hosts = call.flags.text("host-key-hostnames").unwrap_or("*");
    Ok(format!("@cert-authority {hosts} {}\n", key.trim()))
}

fn by_password(call: &Call, role: &str, target: &Target) -> Outcome {
    let address = target.address().map_err(Failure::refused)?;
    let client = call.client()?;
    let body = json!({ "username": target.user, "ip": address });
    let given = client.write(&format!("{}/creds/{role}", mount(call)), &body);
    let given = given.explain("failed to generate credential: failed to get credentials")?;
    let mut given = given.ok_or_else(|| Failure::refused("The server gave no password."))?;
    // Clients of the reference read the port as a text here.
    if let Some(port) = given.data.as_mut().and_then(|d| d.get_mut("port")).filter(|p| p.is_number()) {
        *port = port.to_string().into();
    }
    if call.flags.bool("no-exec") {
        return printed(call, &given);
    }
    let password = given.get("key").and_then(Value::as_str).unwrap_or_default();
    let ssh = ssh(call);
    // The password goes through the environment: arguments are seen by everybody.
    let mut helped = Process::new("sshpass");
    helped.arg("-e").env("SSHPASS", password).arg(ssh.get_program()).args(ssh.get_args()).args(&call.args);
    match helped.status() {
        Ok(status) => Ok(status.code().unwrap_or(2)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            call.console.warn("sshpass is not installed, so the password must be typed. It is good for once:");
            call.console.say(password);
            call.console.flush();
            let mut ssh = ssh;
            started(ssh.args(&call.args))
        }
        Err(e) => Err(Failure::refused(format!("failed to start sshpass: {e}"))),
    }
}

fn printed(call: &Call, secret: &Secret) -> Outcome {
    match call.field() {
        Some(field) => output::secret_field(call, secret, field),
        None => output::secret(call, secret),
    }
}

/// The ssh program with the options that flags name.
fn ssh(call: &Call) -> Process {
    let mut ssh = Process::new(call.flags.text("ssh-executable").unwrap_or("ssh"));
    for (flag, option) in
        [("strict-host-key-checking", "StrictHostKeyChecking"), ("user-known-hosts-file", "UserKnownHostsFile")]
    {
        if let Some(value) = call.flags.text(flag) {
            ssh.args(["-o", &format!("{option}={value}")]);
        }
    }
    ssh
}

fn started(ssh: &mut Process) -> Outcome {
    match ssh.status() {
        Ok(status) => Ok(status.code().unwrap_or(2)),
        Err(e) => Err(Failure::refused(format!("failed to start ssh: {e}"))),
    }
}
