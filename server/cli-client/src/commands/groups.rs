//! Groups of commands: words that lead to others and do nothing alone.

/// A group.
pub struct Group {
    pub words: &'static str,
    pub summary: &'static str,
    pub about: &'static str,
}

const fn group(words: &'static str, summary: &'static str, about: &'static str) -> Group {
    Group { words, summary, about }
}

pub static GROUPS: [Group; 19] = [
    group(
        "audit",
        "Audit devices",
        "Turn audit devices on and off and list them. A server with devices answers only what one of them has written down.",
    ),
    group(
        "auth",
        "Methods to log in by",
        "Turn methods to log in by on and off, tune and move them. To log in, use \"holdfast login\".",
    ),
    group(
        "kv",
        "Key-value secrets",
        "Read and write secrets of the key-value engine. With -mount=M the argument is a key of the mount M; without it, M/key is understood too.",
    ),
    group(
        "kv metadata",
        "Metadata of versioned key-value secrets",
        "Read and write what is kept about a key of the versioned key-value engine: limits, custom metadata, its versions.",
    ),
    group("lease", "Leases", "Look leases up, renew and revoke them."),
    group("namespace", "Namespaces", "Create, list, change, lock and delete namespaces."),
    group(
        "operator",
        "The server's own tasks",
        "What operators do with a server: initialise, unseal, seal, rotate keys, look after its storage.",
    ),
    group(
        "operator custodians",
        "People who have to sign before a TPM opens the store",
        "Unseal a server whose TPM asks custodians to sign its nonce.",
    ),
    group(
        "operator device",
        "Devices that hold keys",
        "See, try and measure the devices of the configuration in which managed keys are.",
    ),
    group("operator raft", "Integrated storage", "Members, snapshots and automatic care of the integrated storage."),
    group(
        "operator raft autopilot",
        "Automatic care of the integrated storage",
        "Show and set how the integrated storage looks after its members by itself.",
    ),
    group(
        "operator raft snapshot",
        "Snapshots of the integrated storage",
        "Save the whole storage to a file and bring it back.",
    ),
    group("plugin", "Plugins and their catalogue", "List, register, remove and reload plugins."),
    group(
        "pki",
        "Certificates",
        "Work with the PKI engine: check its health, issue from one mount into another, compare certificates.",
    ),
    group("policy", "Policies", "Read, write, list, format and delete policies."),
    group("print", "What the client would use", "Print settings that the client works with."),
    group("secrets", "Secrets engines", "Turn secrets engines on and off, tune and move them."),
    group("token", "Tokens", "Create tokens, look them up, renew and revoke them, and ask what they may do."),
    group("transit", "Keys of the transit engine", "Bring keys of one's own into the transit engine."),
];
