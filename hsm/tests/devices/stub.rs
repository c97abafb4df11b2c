//! PKCS#11 modules that misbehave, made from a few lines of C.

use super::softhsm::run;
use std::fs;
use std::path::Path;

/// Ends the process that loads it.
pub const ABORTS: &str = "#include <stdlib.h>
unsigned long C_GetFunctionList(void **list) { abort(); }";

/// Never answers.
pub const HANGS: &str = "#include <unistd.h>
unsigned long C_GetFunctionList(void **list) { for (;;) sleep(1000); }";

/// One token that needs no login (and refuses every one), whose sessions and device go
/// away now and then. A random byte tells how often it was initialised, the next how
/// many sessions were opened.
pub const NO_LOGIN: &str = r#"
#include <string.h>
typedef unsigned long UL;
struct token { char label[32], maker[32], model[16], serial[16]; UL flags, counts[10]; char versions[4], time[16]; };
static int initialised, sessions, randoms;
static UL initialise(void *a) { initialised++; return 0; }
static UL finalise(void *a) { return 0; }
static UL library(char *info) { memset(info, 0, 88); return 0; } /* CK_INFO */
static UL mechanisms(UL slot, UL *list, UL *n) { *n = 0; return 0; }
static UL slots(char p, UL *list, UL *n) { if (list) list[0] = 7; *n = 1; return 0; }
static UL token(UL slot, struct token *t) {
    memset(t, ' ', sizeof *t); memset(t->counts, 0, sizeof t->counts); memset(t->versions, 0, 4);
    memcpy(t->label, "stub", 4); memcpy(t->serial, "42", 2);
    t->flags = 0x1 | 0x400; /* RNG, TOKEN_INITIALIZED; no LOGIN_REQUIRED */
    return 0;
}
static UL open_session(UL slot, UL flags, void *a, void *b, UL *s) { *s = ++sessions; return 0; }
static UL close_session(UL s) { return 0; }
static UL login(UL s, UL user, char *pin, UL n) { return 0xA0; /* PIN_INCORRECT */ }
static UL random_bytes(UL s, unsigned char *out, UL n) {
    randoms++;
    if (randoms == 2) return 0xB3; /* SESSION_HANDLE_INVALID */
    if (randoms == 4) return 0x32; /* DEVICE_REMOVED */
    memset(out, 0, n); out[0] = initialised; out[1] = sessions;
    return 0;
}
static struct { unsigned char version[2]; void *functions[68]; } list = { { 2, 40 } };
UL C_GetFunctionList(void **out) {
    void **f = list.functions;
    f[0] = initialise; f[1] = finalise; f[2] = library; f[4] = slots; f[6] = token; f[7] = mechanisms; f[12] = open_session;
    f[13] = close_session; f[18] = login; f[64] = random_bytes;
    *out = &list;
    return 0;
}"#;

/// Compiles a module into `directory`.
pub fn build(directory: &Path, name: &str, code: &str) -> String {
    let source = directory.join(format!("{name}.c"));
    let module = directory.join(format!("{name}.so"));
    fs::write(&source, code).expect("the source is written");
    let (source, module) = (source.display().to_string(), module.display().to_string());
    run("cc", &["-shared", "-fPIC", "-w", "-o", &module, &source]);
    module
}
