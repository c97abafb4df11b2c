//! Users and groups of the system, by name or number.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// A user as processes and files have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The number.
    pub id: u32,
    /// The group that it belongs to first; of a number that nobody has, the same number.
    pub group: u32,
}

/// There is no such user or group, or the system's list of them cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Nobody has this name.
    #[error("there is no {kind} {name:?}")]
    Unknown {
        /// "user" or "group".
        kind: &'static str,
        /// As asked for.
        name: String,
    },
    /// This process may not become that user.
    #[error("the process cannot become user {name:?}: {cause}; start the server as root, or without helper_user")]
    Become {
        /// As asked for.
        name: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The list cannot be read.
    #[error("the {kind} {name:?} cannot be looked up: {cause}")]
    System {
        /// "user" or "group".
        kind: &'static str,
        /// As asked for.
        name: String,
        /// What the system says.
        cause: io::Error,
    },
}

/// The strings of one entry fit into this; a group's members count.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// A user by name, or by number.
///
/// # Errors
/// [`AccountError::Unknown`] for a name that nobody has.
pub fn user(name: &str) -> Result<User, AccountError> {
    if let Ok(id) = name.parse::<u32>() {
        let group = lookup("user", name, |entry: *mut libc::passwd, buffer, length, found| {
            // SAFETY: `entry` and `found` are live, and `buffer` is as long as said.
            unsafe { libc::getpwuid_r(id, entry, buffer, length, found) }
        })
        .map_or(id, |entry| entry.pw_gid);
        return Ok(User { id, group });
    }
    let text = c_text("user", name)?;
    let entry = lookup("user", name, |entry: *mut libc::passwd, buffer, length, found| {
        // SAFETY: as above, and `text` outlives the call.
        unsafe { libc::getpwnam_r(text.as_ptr(), entry, buffer, length, found) }
    })?;
    Ok(User { id: entry.pw_uid, group: entry.pw_gid })
}

/// The number of a group by name, or by number.
///
/// # Errors
/// [`AccountError::Unknown`] for a name that nobody has.
pub fn group(name: &str) -> Result<u32, AccountError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = c_text("group", name)?;
    let entry = lookup("group", name, |entry: *mut libc::group, buffer, length, found| {
        // SAFETY: `entry` and `found` are live, `buffer` is as long as said, and `text` outlives the call.
        unsafe { libc::getgrnam_r(text.as_ptr(), entry, buffer, length, found) }
    })?;
    Ok(entry.gr_gid)
}

/// Makes this process one of another user, with that user's groups, for good. It has one thread.
///
/// # Errors
/// [`AccountError`]: nobody has this name, or this process may not (only root may).
pub fn become_user(name: &str) -> Result<(), AccountError> {
    let User { id, group } = user(name)?;
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => {
            let cause = io::Error::last_os_error();
            Err(AccountError::Become { name: name.to_owned(), cause })
        }
    };
    if name.parse::<u32>().is_ok() {
        // SAFETY: the list is one group long.
        done(unsafe { libc::setgroups(1, &group) })?;
    } else {
        let text = c_text("user", name)?;
        // SAFETY: `text` outlives the call.
        done(unsafe { libc::initgroups(text.as_ptr(), group) })?;
    }
    // SAFETY: takes numbers only.
    done(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: takes numbers only.
    done(unsafe { libc::setresuid(id, id, id) })
}

fn c_text(kind: &'static str, name: &str) -> Result<CString, AccountError> {
    CString::new(name).map_err(|_| AccountError::Unknown { kind, name: name.to_owned() })
}

/// Only the numbers of the entry may be used: its strings are gone.
fn lookup<T: Copy>(
    kind: &'static str,
    name: &str,
    ask: impl Fn(*mut T, *mut libc::c_char, usize, *mut *mut T) -> libc::c_int,
) -> Result<T, AccountError> {
    let mut buffer = vec![0; 4096];
    loop {
        let mut entry = MaybeUninit::<T>::uninit();
        let mut found = std::ptr::null_mut();
        match ask(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) {
            0 if found.is_null() => return Err(AccountError::Unknown { kind, name: name.to_owned() }),
            // SAFETY: a found entry is the one that was given to be filled.
            0 => return Ok(unsafe { entry.assume_init() }),
            libc::ERANGE if buffer.len() < MAX_ENTRY_BYTES => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            libc::ENOENT | libc::ESRCH => return Err(AccountError::Unknown { kind, name: name.to_owned() }),
            code => {
                let cause = io::Error::from_raw_os_error(code);
                return Err(AccountError::System { kind, name: name.to_owned(), cause });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_others_are_not() {
        assert_eq!(user("root").unwrap(), User { id: 0, group: 0 });
        assert_eq!(user("0").unwrap(), User { id: 0, group: 0 });
        assert_eq!(user("4000000").unwrap(), User { id: 4_000_000, group: 4_000_000 });
        assert_eq!(group("root").unwrap(), 0);
        assert_eq!(group("4000000").unwrap(), 4_000_000);
        assert_eq!(user("no such user").unwrap_err().to_string(), "there is no user \"no such user\"");
        assert!(group("no such group").is_err());
        assert!(user("a\0b").is_err());
    }
}
