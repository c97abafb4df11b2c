//! `~/.vault-token`: the token of the last login, for the commands that follow.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::environment::Environment;

/// A token. It has no `Debug` and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    pub fn new(text: impl Into<String>) -> Token {
        Token(Zeroizing::new(text.into()))
    }

    /// Shows the token: to the server, in a file of its own, or to the user who asked for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The token that a command uses: the environment's, else the file's, else none.
pub fn current(environment: &Environment) -> io::Result<Option<Token>> {
    match environment.text("TOKEN") {
        Some(text) => Ok(Some(Token::new(text))),
        None => load(environment),
    }
}

/// The stored token. Blanks around it do not count.
pub fn load(environment: &Environment) -> io::Result<Option<Token>> {
    let Some(path) = path(environment) else {
        return Ok(None);
    };
    match fs::read_to_string(path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            Ok(Some(text.trim()).filter(|t| !t.is_empty()).map(Token::new))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Stores the token, readable by its owner only; the file is replaced whole.
pub fn store(environment: &Environment, token: &Token) -> io::Result<()> {
    let path = path(environment).ok_or_else(|| io::Error::other("HOME is not set"))?;
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(token.reveal().as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

fn path(environment: &Environment) -> Option<PathBuf> {
    environment.home().map(|home| PathBuf::from(home).join(".vault-token"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_stored_token_comes_back_and_only_its_owner_can_read_it() {
        let folder = std::env::temp_dir().join(format!("holdfast-token-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let environment = Environment::of(&[("HOME", folder.to_str().unwrap())]);
        assert!(load(&environment).unwrap().is_none());
        store(&environment, &Token::new("hvs.abc")).unwrap();
        store(&environment, &Token::new("hvs.def")).unwrap();
        let file = folder.join(".vault-token");
        assert_eq!(fs::read(&file).unwrap(), b"hvs.def");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, " hvs.blanks \n").unwrap();
        assert!(load(&environment).unwrap().unwrap().reveal() == "hvs.blanks");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let environment = Environment::of(&[("HOME", "/nonexistent"), ("VAULT_TOKEN", "t")]);
        assert!(current(&environment).unwrap().unwrap().reveal() == "t");
    }
}
