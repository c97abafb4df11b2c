//! PKCS#11 modules made from a few lines of C.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{command, run};
use crate::token;

/// Ends the process that loads it.
pub const ABORTS: &str = "#include <stdlib.h>
unsigned long C_GetFunctionList(void **list) { abort(); }";

/// Never answers.
pub const HANGS: &str = "#include <unistd.h>
unsigned long C_GetFunctionList(void **list) { for (;;) sleep(1000); }";

/// Compile a module into a folder.
pub fn build(folder: &Path, name: &str, code: &str) -> PathBuf {
    let (source, module) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    fs::write(&source, code).expect("the source is written");
    run(command("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&module).arg(&source).arg("-ldl")).good();
    module
}

/// SoftHSM behind a shim that writes a line to `log` for every login, and misbehaves as files of a
/// folder say: `abort` and `hang` do so in the next `C_Decrypt`, once (the file is removed).
pub fn shim(folder: &Path) -> Shim {
    let log = folder.join("logins");
    fs::write(&log, "").expect("a log");
    let code = SHIM
        .replace("@SOFTHSM@", &token::library().display().to_string())
        .replace("@LOG@", &log.display().to_string())
        .replace("@FOLDER@", &folder.display().to_string());
    Shim { module: build(folder, "shim", &code), log, folder: folder.to_owned() }
}

/// A module that watches and disturbs SoftHSM.
pub struct Shim {
    pub module: PathBuf,
    log: PathBuf,
    folder: PathBuf,
}

impl Shim {
    /// The keys of a seal that name it, and let its helper write where it writes.
    pub fn keys(&self) -> String {
        format!("lib = \"{}\"\nhelper_write_paths = [\"{}\"]", self.module.display(), self.folder.display())
    }

    /// How often `C_Login` was called, by all processes so far.
    pub fn logins(&self) -> usize {
        fs::read_to_string(&self.log).expect("the log").lines().count()
    }

    /// Misbehave at the next decryption: `abort` or `hang`.
    pub fn disturb(&self, how: &str) {
        fs::write(self.folder.join(how), "").expect("a mark");
    }

    /// Whether a disturbance is still to come.
    pub fn is_to_disturb(&self, how: &str) -> bool {
        self.folder.join(how).exists()
    }
}

// Positions in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h), counted from C_Initialize.
const SHIM: &str = r#"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long UL;
enum { LOGIN = 18, DECRYPT_INIT = 33 };
static struct { unsigned char version[2]; void *functions[68]; } own;
static UL (*login)(UL, UL, char *, UL);
static UL (*decrypt_init)(UL, void *, UL);
static UL count_login(UL session, UL user, char *pin, UL n) {
    int f = open("@LOG@", O_WRONLY | O_APPEND);
    write(f, "login\n", 6);
    close(f);
    return login(session, user, pin, n);
}
static UL disturbed_decrypt_init(UL session, void *mechanism, UL key) {
    if (!unlink("@FOLDER@/abort")) abort();
    if (!unlink("@FOLDER@/hang")) for (;;) sleep(1000);
    return decrypt_init(session, mechanism, key);
}
UL C_GetFunctionList(void **out) {
    void *list;
    void *softhsm = dlopen("@SOFTHSM@", RTLD_NOW | RTLD_LOCAL);
    if (!softhsm) return 5;
    UL (*get)(void **) = dlsym(softhsm, "C_GetFunctionList");
    UL result = get(&list);
    if (result) return result;
    memcpy(&own, list, sizeof own);
    login = own.functions[LOGIN];
    own.functions[LOGIN] = count_login;
    decrypt_init = own.functions[DECRYPT_INIT];
    own.functions[DECRYPT_INIT] = disturbed_decrypt_init;
    *out = &own;
    return 0;
}"#;
