//! Commands that the program's help names but this crate does not answer: the server's own, which
//! `main` runs before it asks here, and those that are not built. Their tables of flags stand here,
//! so that help and checks of a command line are complete.

use super::{Command, Prints};
use crate::call::Call;
use crate::completion::Values;
use crate::failure::{Failure, Outcome};
use crate::flags::{Flag, Kind};

const CONFIG: Flag =
    Flag::list("config", "A configuration file or a folder of them. May be given several times.").values(Values::File);
pub const LOG_LEVEL: Flag =
    Flag::text("log-level", "The least level of what is logged: trace, debug, info, warn or error.")
        .words(&["trace", "debug", "info", "warn", "error"])
        .default("info");
pub const LOG_FORMAT: Flag =
    Flag::text("log-format", "How it is logged: standard or json.").words(&["standard", "json"]).default("standard");
const MOUNT_TYPE: Flag = Flag::text("type", "Whether the key is made there: internal, existing or kms.");
const ISSUER: Flag = Flag::text("issuer_name", "The name of the new issuer.");

static DAEMON: [Flag; 8] = [
    CONFIG,
    Flag::bool("exit-after-auth", "End after the first login."),
    Flag::text("log-file", "Where to log.").values(Values::File),
    LOG_FORMAT,
    LOG_LEVEL,
    Flag::int("log-rotate-bytes", "Begin a new file after so many bytes."),
    Flag::duration("log-rotate-duration", "Begin a new file after so long."),
    Flag::int("log-rotate-max-files", "How many old files are kept."),
];
static GENERATE: [Flag; 3] = [
    Flag::text("type", "What to make a configuration for: env-template."),
    Flag::list("path", "A secret to take values from. May be given several times."),
    Flag::text("exec", "The program to start with the values."),
];
static HEALTH_CHECK: [Flag; 4] = [
    Flag::text("health-config", "A file (JSON) that sets the checks."),
    Flag::text("return-indicator", "What the exit code says: default, informational, warning, critical or permission."),
    Flag::bool("default-disabled", "Only checks that the file turns on."),
    Flag::bool("list", "List the checks."),
];
static ISSUE: [Flag; 2] = [ISSUER, MOUNT_TYPE];
static INTERMEDIATES: [Flag; 6] = [
    Flag::bool("direct_sign", "Those that the issuer signed itself."),
    Flag::bool("indirect_sign", "Those that it signed through others."),
    Flag::bool("key_id_match", "Those whose key ids fit."),
    Flag::bool("path_match", "Those whose chain has it."),
    Flag::bool("subject_match", "Those whose issuer's name fits."),
    Flag::bool("use_names", "Names of issuers instead of ids."),
];
static SERVER: [Flag; 16] = [
    CONFIG,
    Flag::bool("exit-on-core-shutdown", "End when the core does."),
    Flag::bool("recovery", "Start in recovery mode."),
    Flag::text("log-file", "Where to log."),
    LOG_FORMAT,
    LOG_LEVEL,
    Flag::int("log-rotate-bytes", "Begin a new file after so many bytes."),
    Flag::duration("log-rotate-duration", "Begin a new file after so long."),
    Flag::int("log-rotate-max-files", "How many old files are kept."),
    Flag::bool("dev", "A server in memory, unsealed, to try things out. Nothing is kept, nothing is safe."),
    Flag::bool("dev-tls", "As -dev, with TLS."),
    Flag::text("dev-tls-cert-dir", "Where its certificates are put."),
    Flag::text("dev-root-token-id", "Its root token.").setting("DEV_ROOT_TOKEN_ID"),
    Flag::text("dev-listen-address", "Where it listens.").default("127.0.0.1:8200").setting("DEV_LISTEN_ADDRESS"),
    Flag::bool("dev-no-store-token", "Do not keep the root token for client commands."),
    Flag::text("dev-cluster-json", "A file that the cluster is described in."),
];
static DIAGNOSE: [Flag; 5] = [
    CONFIG,
    Flag::list("skip", "A check to leave out: listener, storage, autounseal or device. May be given several times.")
        .words(&["listener", "storage", "autounseal", "device"]),
    Flag::bool(
        "login",
        "Log in to the devices of seals and of device stanzas too, look for their keys, and let seals wrap and unwrap. A PIN is tried once, and none on a token that has seen a wrong one.",
    ),
    Flag::bool("debug", "Tell everything that was seen."),
    Flag::text("format", "table or json.").default("table"),
];
static VALIDATE: [Flag; 2] = [CONFIG, Flag::text("format", "table, json or yaml.").default("table")];
static RECOVER: [Flag; 6] = [
    CONFIG,
    Flag::text("path", "The node's folder, instead of a configuration.").values(Values::File),
    Flag::bool("alone", "Go on without all other members: they are lost for good."),
    Flag::bool("rejoin", "Set what is stored aside, so that the node joins anew at its next start."),
    Flag::list("address", "Where another member is now: NODE-ID=HOST:PORT. May be given several times."),
    Flag::bool("yes", "Do it. Without this flag it is only said what would be done, and what may be lost."),
];
static INSPECT: [Flag; 1] = [Flag::text("format", "table or json.").default("table")];
static MIGRATE: [Flag; 5] = [
    Flag::text("config", "A file that says from where to where."),
    Flag::text("start", "The entry to begin at."),
    Flag::bool("reset", "Take a lock away that an earlier run left."),
    Flag::new("max-parallel", Kind::Int, "How many entries are copied at a time.").default("10"),
    LOG_LEVEL,
];

pub static COMMANDS: &[Command] = &[
    Command::new("agent", "Start a local agent", not_built).flags(&DAEMON),
    Command::new("agent generate-config", "Make a configuration for the agent", not_built).flags(&GENERATE),
    Command::new("proxy", "Start a local proxy", not_built).flags(&DAEMON),
    Command::new("server", "Start a server", of_main).flags(&SERVER),
    Command::new("operator diagnose", "Look for trouble in a configuration", of_main)
        .about(
            "Looks for what would keep a server with this configuration from starting, or from staying up: the configuration, limits, disks and clock of the machine, permissions of files, the store's folder, Landlock, the devices of seals and others (without a PIN, unless -login is there), certificates, addresses and audit files. It changes nothing, and may run while the server does. The exit code is 0 where all is well, 1 where something fails, 2 where there are warnings alone, 3 where no configuration is named, 4 where it cannot be read.",
        )
        .flags(&DIAGNOSE)
        .without_server(),
    Command::new("operator validate-config", "Check a configuration", of_main)
        .about(
            "Reads a configuration as a server would at its start, and says what is wrong with it and what has no effect. The exit code is 0 where a server would start with it, 1 where it would not, 3 where none is named.",
        )
        .flags(&VALIDATE)
        .without_server(),
    Command::new("operator raft recover", "Set a stopped member right", of_main)
        .about(
            "For a member that is stopped and cannot come back by itself. With -alone it becomes the only member of its cluster, where the others are lost for good. With -address it finds the others, where all nodes have new addresses. With -rejoin it forgets what it has stored and joins anew. It says first what may be lost; the exit code is 3 where nothing was done yet.",
        )
        .flags(&RECOVER)
        .without_server(),
    Command::new("operator raft snapshot inspect", "What a saved storage is of", of_main)
        .takes("[options] FILE")
        .about("Reads a snapshot on this machine, without a server and without keys: what it is of, what opens it, and whether it is whole and its checksums are right.")
        .flags(&INSPECT)
        .without_server(),
    Command::new("operator migrate", "Copy one storage to another", of_main)
        .about(
            "Copies what one storage holds into another, while no server has either open: its configuration names a storage_source and a storage_destination, and for \"raft\" cluster_addr. Everything stays encrypted, no keys are asked for, and the source stays as it is. The destination is there whole or not at all. Of a cluster, the source is its only member.",
        )
        .flags(&MIGRATE)
        .without_server(),
    Command::new("pki health-check", "Check a PKI mount", not_built)
        .takes("[options] MOUNT")
        .prints(Prints::Answer)
        .flags(&HEALTH_CHECK),
    Command::new("pki issue", "Issue from one mount into another", not_built)
        .takes("[options] PARENT-ISSUER CHILD-MOUNT [K=V...]")
        .prints(Prints::Answer)
        .flags(&ISSUE),
    Command::new("pki reissue", "Issue again, as a certificate is", not_built)
        .takes("[options] PARENT-ISSUER TEMPLATE-ISSUER CHILD-MOUNT [K=V...]")
        .prints(Prints::Answer)
        .flags(&ISSUE),
    Command::new("pki list-intermediates", "Which issuers come from one", not_built)
        .takes("[options] PARENT-ISSUER [ISSUER...]")
        .prints(Prints::Answer)
        .flags(&INTERMEDIATES),
    Command::new("pki verify-sign", "Whether one issuer signed another", not_built)
        .takes("[options] POSSIBLE-ISSUER POSSIBLE-ISSUED")
        .prints(Prints::Answer),
];

/// Said of commands that have their place but not their work yet.
pub fn not_built(call: &Call) -> Outcome {
    Err(Failure::usage(format!("\"{}\" is not part of this version.", call.command.words)))
}

/// Commands that `main` answers; who comes here has called the client alone.
fn of_main(call: &Call) -> Outcome {
    Err(Failure::usage(format!("\"{}\" is answered by the server's program.", call.command.words)))
}
