//! Flags that every client command takes, and those of the commands that print something.

use super::Flag;
use crate::completion::Values;

/// How the server is reached and the request is made.
pub static HTTP: [Flag; 18] = [
    Flag::text("address", "Where the server listens: http://, https:// or unix:// and a path.")
        .default("https://127.0.0.1:8200")
        .setting("ADDR"),
    Flag::text("agent-address", "Where a local agent listens. The request goes there instead.").setting("AGENT_ADDR"),
    Flag::text(
        "ca-cert",
        "A file of certificates (PEM) that the server's certificate must lead to. Counts before -ca-path.",
    )
    .setting("CACERT")
    .values(Values::File),
    Flag::text("ca-path", "A folder of such files.").setting("CAPATH").values(Values::File),
    Flag::text("client-cert", "A certificate (PEM) to show to the server. Needs -client-key.")
        .setting("CLIENT_CERT")
        .values(Values::File),
    Flag::text("client-key", "The private key (PEM) of -client-cert.").setting("CLIENT_KEY").values(Values::File),
    Flag::bool("disable-redirects", "Do not follow a redirect; without this, one is followed.")
        .setting("DISABLE_REDIRECTS"),
    Flag::pairs(
        "header",
        "A header, as name=value, to send with every request. Names that begin with X-Vault- are reserved. May be given several times.",
    ),
    Flag::list("mfa", "A factor, as method:code, sent as X-Vault-MFA.").setting("MFA"),
    Flag::text("namespace", "The namespace that paths are relative to. -ns is short for it.")
        .also(&["ns"])
        .setting("NAMESPACE"),
    Flag::bool("non-interactive", "Never ask anything on the terminal."),
    Flag::bool("output-curl-string", "Print the curl command that would send the request, and send nothing."),
    Flag::bool("output-policy", "Print the policy that the request needs, and send nothing."),
    Flag::bool("policy-override", "Ask to pass a policy that may be overridden."),
    Flag::text("tls-server-name", "The name that the server's certificate must carry, if it is not the address's.")
        .setting("TLS_SERVER_NAME"),
    Flag::bool("tls-skip-verify", "Take any certificate. Anybody in between can then read and change everything.")
        .setting("SKIP_VERIFY"),
    Flag::text("unlock-key", "The key that unlocks a namespace's API."),
    Flag::duration(
        "wrap-ttl",
        "Have the answer wrapped in a token of its own that lasts so long, for \"holdfast unwrap\".",
    )
    .setting("WRAP_TTL"),
];

/// For commands that print an answer.
pub static FORMAT: [Flag; 1] = [Flag::text(
    "format",
    "How to print the answer: table, json, yaml or pretty; for \"holdfast read\" also raw, as it came.",
)
.default("table")
.setting("FORMAT")
.words(&["table", "json", "yaml", "pretty", "raw"])];

/// For commands whose answer is one object.
pub static FIELD: [Flag; 1] =
    [Flag::text("field", "Print this field's value alone, without a line end unless on a terminal.")];
