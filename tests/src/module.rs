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

/// SoftHSM behind a shim that writes the name of each call that opens, closes, logs in, searches, signs or makes to a log,
/// and misbehaves as files of a folder say ([`Shim::disturb`], [`Shim::answer`], [`Shim::flags`]).
pub fn shim(folder: &Path) -> Shim {
    let log = folder.join("calls");
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

    /// Where its log and marks are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The calls so far, of all processes, by name.
    pub fn calls(&self) -> Vec<String> {
        fs::read_to_string(&self.log).expect("the log").lines().map(str::to_owned).collect()
    }

    /// How often a function was called.
    pub fn count(&self, function: &str) -> usize {
        self.calls().iter().filter(|call| *call == function).count()
    }

    /// How often `C_Login` was called, by all processes so far.
    pub fn logins(&self) -> usize {
        self.count("C_Login")
    }

    /// Misbehave once: `abort` or `hang` at the next decryption; `garbage-sign` and `garbage-decrypt` change a bit of the next
    /// answer; `garbage-length` says that the next signature has a TiB, `garbage-longer` that it is longer than its place;
    /// `garbage-list` that 2^40 objects were found, `garbage-mechanisms` that there are as many mechanisms.
    pub fn disturb(&self, how: &str) {
        fs::write(self.folder.join(how), "").expect("a mark");
    }

    /// Let a function fail once with a number of the standard (CKR_…), before it does anything.
    pub fn answer(&self, function: &str, with: u64) {
        fs::write(self.folder.join(function), with.to_string()).expect("a mark");
    }

    /// Let a function fail once, after it has done what it does.
    pub fn answer_after(&self, function: &str, with: u64) {
        self.answer(&format!("after-{function}"), with);
    }

    /// What the token says of itself beside the truth (CKF_…), from now on.
    pub fn flags(&self, flags: u64) {
        fs::write(self.folder.join("flags"), flags.to_string()).expect("a mark");
    }

    /// Misbehave at each signature until [`behave`](Self::behave): `aborts`, `hangs`, or `lies` (a bit of each is changed); or
    /// `spoils` what is decrypted, by a bit too.
    pub fn misbehave(&self, how: &str) {
        fs::write(self.folder.join(how), "").expect("a mark");
    }

    pub fn behave(&self, how: &str) {
        fs::remove_file(self.folder.join(how)).expect("it misbehaves");
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long UL;
static struct { unsigned char version[2]; void *functions[68]; } own;
static void note(const char *call) {
    int f = open("@LOG@", O_WRONLY | O_APPEND);
    write(f, call, strlen(call));
    close(f);
}
/* The number that a file holds, or 1; 0 without the file. */
static UL told(const char *name, int once) {
    char path[4096], text[32] = { 0 };
    snprintf(path, sizeof path, "@FOLDER@/%s", name);
    int f = open(path, O_RDONLY);
    if (f < 0) return 0;
    read(f, text, sizeof text - 1);
    close(f);
    if (once && unlink(path)) return 0;
    UL number = strtoul(text, 0, 0);
    return number ? number : 1;
}
#define WATCHED(NAME, PARAMETERS, ARGUMENTS) \
    static UL (*real_##NAME) PARAMETERS; \
    static UL own_##NAME PARAMETERS { \
        note("C_" #NAME "\n"); \
        UL refused = told("C_" #NAME, 1); \
        if (refused) return refused; \
        UL result = real_##NAME ARGUMENTS; \
        UL after = told("after-C_" #NAME, 1); \
        return after ? after : result; \
    }
WATCHED(Initialize, (void *a), (a))
WATCHED(Finalize, (void *a), (a))
WATCHED(OpenSession, (UL slot, UL flags, void *a, void *b, UL *s), (slot, flags, a, b, s))
WATCHED(CloseSession, (UL s), (s))
WATCHED(Login, (UL s, UL user, char *pin, UL n), (s, user, pin, n))
WATCHED(FindObjectsInit, (UL s, void *t, UL n), (s, t, n))
WATCHED(EncryptInit, (UL s, void *m, UL key), (s, m, key))
WATCHED(Encrypt, (UL s, void *d, UL n, void *out, UL *m), (s, d, n, out, m))
WATCHED(GenerateRandom, (UL s, void *out, UL n), (s, out, n))
WATCHED(SignInit, (UL s, void *m, UL key), (s, m, key))
WATCHED(GenerateKey, (UL s, void *m, void *t, UL n, UL *key), (s, m, t, n, key))
WATCHED(GenerateKeyPair, (UL s, void *m, void *t, UL n, void *u, UL k, UL *a, UL *b), (s, m, t, n, u, k, a, b))
static UL (*real_GetTokenInfo)(UL, char *);
static UL own_GetTokenInfo(UL slot, char *info) {
    UL result = real_GetTokenInfo(slot, info);
    UL more = told("flags", 0);
    UL *flags = (UL *)(info + 96); /* after label, maker, model and serial number */
    if (!result && more) *flags |= more;
    return result;
}
static UL (*real_GetMechanismList)(UL, UL *, UL *);
static UL own_GetMechanismList(UL slot, UL *list, UL *n) {
    UL result = real_GetMechanismList(slot, list, n);
    if (!result && told("garbage-mechanisms", 1)) *n = 1UL << 40;
    return result;
}
static UL (*real_FindObjects)(UL, UL *, UL, UL *);
static UL own_FindObjects(UL s, UL *found, UL most, UL *n) {
    UL result = real_FindObjects(s, found, most, n);
    if (!result && told("garbage-list", 1)) *n = 1UL << 40;
    return result;
}
static UL (*real_Sign)(UL, void *, UL, unsigned char *, UL *);
static UL own_Sign(UL s, void *data, UL bytes, unsigned char *signature, UL *n) {
    note("C_Sign\n");
    UL refused = told("C_Sign", 1);
    if (refused) return refused;
    if (told("aborts", 0)) abort();
    if (told("hangs", 0)) for (;;) sleep(1000);
    UL result = real_Sign(s, data, bytes, signature, n);
    if (result) return result;
    if (!signature && told("garbage-length", 1)) *n = 1UL << 40;
    if (signature && told("garbage-longer", 1)) *n = 1UL << 40;
    if (signature && (told("garbage-sign", 1) || told("lies", 0))) signature[*n - 1] ^= 1;
    return 0;
}
static UL (*real_DecryptInit)(UL, void *, UL);
static UL own_DecryptInit(UL s, void *mechanism, UL key) {
    UL refused = told("C_DecryptInit", 1);
    if (refused) return refused;
    if (told("abort", 1)) abort();
    if (told("hang", 1)) for (;;) sleep(1000);
    return real_DecryptInit(s, mechanism, key);
}
static UL (*real_Decrypt)(UL, void *, UL, unsigned char *, UL *);
static UL own_Decrypt(UL s, void *data, UL bytes, unsigned char *plain, UL *n) {
    UL refused = told("C_Decrypt", 1);
    if (refused) return refused;
    UL result = real_Decrypt(s, data, bytes, plain, n);
    if (!result && plain && *n && (told("garbage-decrypt", 1) || told("spoils", 0))) plain[0] ^= 1;
    return result;
}
#define TAKE(NAME, PLACE) (real_##NAME = own.functions[PLACE], own.functions[PLACE] = own_##NAME)
UL C_GetFunctionList(void **out) {
    void *list;
    void *softhsm = dlopen("@SOFTHSM@", RTLD_NOW | RTLD_LOCAL);
    if (!softhsm) return 5;
    UL (*get)(void **) = dlsym(softhsm, "C_GetFunctionList");
    UL result = get(&list);
    if (result) return result;
    memcpy(&own, list, sizeof own);
    TAKE(Initialize, 0);
    TAKE(Finalize, 1);
    TAKE(GetTokenInfo, 6);
    TAKE(GetMechanismList, 7);
    TAKE(OpenSession, 12);
    TAKE(CloseSession, 13);
    TAKE(Login, 18);
    TAKE(FindObjectsInit, 26);
    TAKE(FindObjects, 27);
    TAKE(EncryptInit, 29);
    TAKE(Encrypt, 30);
    TAKE(DecryptInit, 33);
    TAKE(Decrypt, 34);
    TAKE(SignInit, 42);
    TAKE(Sign, 43);
    TAKE(GenerateKey, 58);
    TAKE(GenerateKeyPair, 59);
    TAKE(GenerateRandom, 64);
    *out = &own;
    return 0;
}"#;
