//! `confinement`: the files that the server's own process may use.

use std::path::PathBuf;

use crate::ConfigError;
use crate::seal::absolute;
use crate::stanza::Stanza;

/// `confinement`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// What is said of Landlock; `None`: nothing.
    pub landlock: Option<Landlock>,
    /// Files and folders that it may read beside those that the configuration names elsewhere.
    pub read_paths: Vec<PathBuf>,
    /// Files and folders that it may write too.
    pub write_paths: Vec<PathBuf>,
}

/// Whether the kernel keeps the server to its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// Where the kernel has it.
    On,
    /// The server does not serve without.
    Require,
    /// No.
    Off,
}

/// A word that is passed over may be the one that asks for more, so that every one has to be known.
pub(crate) fn read(mut s: Stanza<'_>) -> Result<Confinement, ConfigError> {
    let words = [("on", Landlock::On), ("require", Landlock::Require), ("off", Landlock::Off)];
    let confinement = Confinement {
        landlock: s.choice("landlock", &words)?,
        read_paths: absolute(&mut s, "read_paths")?,
        write_paths: absolute(&mut s, "write_paths")?,
    };
    s.finish_strictly()?;
    Ok(confinement)
}
