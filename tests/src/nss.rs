//! NSS's soft token: a database in a folder of the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{command, run};

pub const LABEL: &str = "holdfast";
pub const PIN: &str = "nss-4711-horse";

/// A database with a password, which is the PIN of its token.
#[derive(Debug)]
pub struct Database {
    folder: PathBuf,
}

/// The library of the token itself, below NSS.
pub fn library() -> PathBuf {
    let found = ["/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so"];
    let found = found.iter().map(Path::new).find(|p| p.is_file());
    found.expect("libsoftokn3.so is not installed: make setup").to_owned()
}

impl Database {
    /// A new one, in a folder below this one.
    pub fn make(folder: &Path) -> Database {
        let folder = folder.join("nss");
        fs::create_dir_all(&folder).expect("a folder for NSS");
        let file = folder.join("password");
        fs::write(&file, PIN).expect("a file with the password");
        let database = Database { folder };
        run(command("certutil").arg("-N").arg("-d").arg(database.place()).arg("-f").arg(&file)).good();
        fs::remove_file(&file).expect("the file with the password");
        database
    }

    /// A new one without a password: its token wants no PIN.
    pub fn make_open(folder: &Path) -> Database {
        let folder = folder.join("nss");
        fs::create_dir_all(&folder).expect("a folder for NSS");
        let database = Database { folder };
        run(command("certutil").args(["-N", "--empty-password", "-d"]).arg(database.place())).good();
        database
    }

    fn place(&self) -> String {
        format!("sql:{}", self.folder.display())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What C_Initialize is given.
    pub fn parameters(&self) -> String {
        format!("configDir='{}' certPrefix='' keyPrefix='' dbTokenDescription='{LABEL}'", self.place())
    }

    /// The keys of a stanza that name it.
    pub fn keys(&self) -> String {
        format!(
            "lib = \"{}\"\n lib_parameters = \"{}\"\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"",
            library().display(),
            self.parameters()
        )
    }
}
