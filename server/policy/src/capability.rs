//! What may be done: capabilities, sets of them, and the operations that ask
//! for them.

use std::fmt;

/// One capability. The order is that of their names, in which answers show
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Write where nothing is yet.
    Create,
    /// Delete.
    Delete,
    /// Nothing at all; beats all others of the same path.
    Deny,
    /// List one level.
    List,
    /// Change parts.
    Patch,
    /// Read.
    Read,
    /// Recover from a snapshot (Vault's; no operation asks for it yet).
    Recover,
    /// List all levels.
    Scan,
    /// Receive events (Vault's; no operation asks for it yet).
    Subscribe,
    /// Use root-protected paths.
    Sudo,
    /// Write where something is.
    Update,
}

/// How many capabilities there are.
pub(crate) const CAPABILITIES: usize = 11;

impl Capability {
    /// All of them in order.
    pub const ALL: [Capability; CAPABILITIES] = [
        Capability::Create,
        Capability::Delete,
        Capability::Deny,
        Capability::List,
        Capability::Patch,
        Capability::Read,
        Capability::Recover,
        Capability::Scan,
        Capability::Subscribe,
        Capability::Sudo,
        Capability::Update,
    ];

    /// The name in policies and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Create => "create",
            Capability::Delete => "delete",
            Capability::Deny => "deny",
            Capability::List => "list",
            Capability::Patch => "patch",
            Capability::Read => "read",
            Capability::Recover => "recover",
            Capability::Scan => "scan",
            Capability::Subscribe => "subscribe",
            Capability::Sudo => "sudo",
            Capability::Update => "update",
        }
    }

    /// The capability of that name; names are lower case.
    pub fn from_name(name: &str) -> Option<Capability> {
        Capability::ALL.into_iter().find(|c| c.as_str() == name)
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u16);

impl Capabilities {
    /// No capability.
    pub const NONE: Capabilities = Capabilities(0);

    /// This set with one more.
    #[must_use]
    pub fn with(self, capability: Capability) -> Capabilities {
        Capabilities(self.0 | 1 << capability as u8)
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// Whether the set has it.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u8 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The capabilities in order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |c| self.contains(*c))
    }

    /// The names as an answer shows them: `["deny"]` where there is none.
    pub fn names(self) -> Vec<&'static str> {
        if self.is_empty() || self.contains(Capability::Deny) {
            return vec![Capability::Deny.as_str()];
        }
        self.iter().map(Capability::as_str).collect()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Capabilities {
        capabilities.into_iter().fold(Capabilities::NONE, Capabilities::with)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Capability::as_str)).finish()
    }
}

/// What a request wants to do. Renewing and revoking are updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Write where nothing is yet.
    Create,
    /// Read.
    Read,
    /// Write where something is, or where the engine knows no difference.
    Update,
    /// Change parts.
    Patch,
    /// Delete.
    Delete,
    /// List one level.
    List,
    /// List all levels.
    Scan,
}

impl Operation {
    /// The capability that the operation needs.
    pub fn capability(self) -> Capability {
        match self {
            Operation::Create => Capability::Create,
            Operation::Read => Capability::Read,
            Operation::Update => Capability::Update,
            Operation::Patch => Capability::Patch,
            Operation::Delete => Capability::Delete,
            Operation::List => Capability::List,
            Operation::Scan => Capability::Scan,
        }
    }

    /// Whether a rule's parameters bind the operation. They do not bind what
    /// takes none.
    pub(crate) fn has_parameters(self) -> bool {
        match self {
            Operation::Create | Operation::Read | Operation::Update | Operation::Patch => true,
            Operation::Delete | Operation::List | Operation::Scan => false,
        }
    }

    /// Whether it is a kind of listing.
    pub fn lists(self) -> bool {
        matches!(self, Operation::List | Operation::Scan)
    }
}
