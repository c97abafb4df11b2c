//! `listener "unix"`: a socket in the file system.

use std::path::PathBuf;

use crate::ConfigError;
use crate::stanza::Stanza;

/// `listener "unix"`
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UnixListener {
    /// Where the socket is.
    pub path: PathBuf,
    /// Its permissions; `None`: by the umask.
    pub socket_mode: Option<u32>,
    /// The name or id of its owner; `None`: the server's user.
    pub socket_user: Option<String>,
    /// The name or id of its group; `None`: the server's group.
    pub socket_group: Option<String>,
}

pub(crate) fn read(s: &mut Stanza<'_>) -> Result<UnixListener, ConfigError> {
    let path = s.path("address")?;
    let socket_mode = match s.text("socket_mode")? {
        None => None,
        Some(text) => Some(
            u32::from_str_radix(&text, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(|| s.wrong("socket_mode", &text, "permissions, as in \"0600\""))?,
        ),
    };
    Ok(UnixListener {
        path: path.ok_or_else(|| s.missing("address", "set it to the path of the socket"))?,
        socket_mode,
        socket_user: s.text("socket_user")?,
        socket_group: s.text("socket_group")?,
    })
}
