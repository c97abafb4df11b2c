"""The servers of the race, on loopback over real TLS: holdfast, the reference, and the bare handler."""
import glob
import http.client
import json
import secrets
import socket
import ssl
import subprocess
import time

from process import Broken, Process

AUDIT = """audit "file" "file" {{
  options {{
    file_path = "{folder}/audit.log"
  }}
}}
"""
LISTENER = """listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "{tls.cert}"
  tls_key_file    = "{tls.key}"
}}
api_addr     = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
"""
# An application's rights on a kv mount, as an administrator would write them.
POLICY = """path "secret/data/*"     { capabilities = ["create", "read", "update", "patch", "delete"] }
path "secret/metadata/*" { capabilities = ["read", "list"] }
"""
# 1,024 characters of chance.
SECRET = {"data": {"value": secrets.token_hex(512)}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Tls:
    """A CA and one EC P-256 certificate for 127.0.0.1."""

    def __init__(self, folder):
        folder.mkdir()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        ec = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        for line in (f"req -x509 {ec} -keyout ca.key -out ca.pem -days 30 -subj /CN=bench-ca",
                     f"req {ec} -keyout key.pem -out csr -subj /CN=127.0.0.1",
                     "x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out cert.pem"):
            subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)
        self.context = ssl.create_default_context(cafile=str(folder / "ca.pem"))


class Client:
    """One keep-alive connection that verifies the server's certificate (or, without `tls`, plain HTTP)."""

    def __init__(self, port, tls, token=None):
        self.token = token
        self.connection = (http.client.HTTPSConnection("127.0.0.1", port, context=tls.context, timeout=120) if tls
                           else http.client.HTTPConnection("127.0.0.1", port, timeout=120))

    def raw(self, method, path, body=None):
        """Status and bytes of an answer; OSError if there is none."""
        headers = {"X-Vault-Token": self.token} if self.token else {}
        try:
            self.connection.request(method, "/v1/" + path, body and json.dumps(body), headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as e:
            self.connection.close()
            raise OSError(f"{method} {path}: {e!r}") from e

    def ok(self, method, path, body=None, patience_s=0.0):
        """The answer's JSON; Broken if it is not 2xx within `patience_s`."""
        end = time.monotonic() + patience_s
        while True:
            status, text = self.raw(method, path, body)
            if 200 <= status < 300:
                return json.loads(text or b"{}")
            if time.monotonic() > end:
                raise Broken(f"{method} {path}: status {status}: {text[:200].decode(errors='replace')}")
            time.sleep(0.05)

    def wait(self, process, path, good, limit_s=120):
        """Ask until `good(answer)`; a new connection each time that there was none."""
        end = time.monotonic() + limit_s
        while True:
            try:
                status, text = self.raw("GET", path)
                if status == 200 and good(json.loads(text)):
                    return
            except OSError:
                pass
            if not process.running() or time.monotonic() > end:
                raise Broken(f"{path} never came good; the server's last words: {process.last_words()}")
            time.sleep(0.001)


class Server:
    """A server with data of its own in `folder`."""

    def __init__(self, binary, folder, tls, audit=True):
        folder.mkdir()
        (folder / "data").mkdir()
        self.audited = audit
        self.binary, self.folder, self.tls, self.port = binary, folder, tls, free_port()
        self.process, self.root_token, self.token, self.keys, self.environment = None, None, None, [], {}
        (folder / "server.hcl").write_text(self.configuration())

    def listener_and_audit(self):
        text = LISTENER.format(port=self.port, cluster_port=free_port(), tls=self.tls)
        return text + AUDIT.format(folder=self.folder) if self.audited else text

    def __enter__(self):
        try:
            self.start()
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.stop()

    def client(self, token=None):
        return Client(self.port, self.tls, token)

    def root(self):
        return self.client(self.root_token)

    def answer(self, path):
        """The bytes of an answer that the application's token reads."""
        status, text = self.client(self.token).raw("GET", path)
        if status != 200:
            raise Broken(f"GET {path}: status {status}")
        return text

    def token_under(self, policies):
        """A service token under these policies, name → text."""
        root = self.root()
        for name, text in policies.items():
            root.ok("PUT", f"sys/policies/acl/{name}", {"policy": text})
        return root.ok("POST", "auth/token/create", {"policies": list(policies), "ttl": "24h"})["auth"]["client_token"]

    def launch(self):
        self.process = Process([self.binary, "server", f"-config={self.folder}/server.hcl"], self.folder,
                               self.environment)

    def start(self):
        """Start; initialise the first time. The milliseconds from the start of the process to unsealed."""
        begin = time.monotonic()
        self.launch()
        client = self.client()
        client.wait(self.process, "sys/seal-status", lambda _: True)
        if self.root_token is None:
            answer = client.ok("PUT", "sys/init", self.INIT)
            self.keys, self.root_token = answer.get("keys") or [], answer["root_token"]
        for key in self.keys:
            client.ok("PUT", "sys/unseal", {"key": key})
        client.wait(self.process, "sys/seal-status", lambda status: status["sealed"] is False)
        unsealed_ms = (time.monotonic() - begin) * 1e3
        client.wait(self.process, "sys/health", lambda _: True)
        return unsealed_ms

    def prepare(self):
        """A kv v2 mount at `secret`, one secret of 1 KiB, and a service token under a policy of its own."""
        root = self.root()
        root.ok("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, patience_s=15)
        self.token = self.token_under({"application": POLICY})
        self.client(self.token).ok("POST", "secret/data/read", SECRET, patience_s=15)
        log = self.folder / "audit.log"
        if self.audited != (log.exists() and log.stat().st_size > 0):
            raise Broken(f"{self.folder.name} {'writes no' if self.audited else 'writes an'} audit log")


def softhsm():
    libraries = glob.glob("/usr/lib/softhsm/libsofthsm2.so") + glob.glob("/usr/lib/*/softhsm/libsofthsm2.so")
    if not libraries:
        raise Broken("libsofthsm2.so is not installed: make setup")
    return libraries[0]


class Holdfast(Server):
    """File storage, the root key in a SoftHSM token: what scripts/run starts."""

    INIT = {"recovery_shares": 1, "recovery_threshold": 1}

    def configuration(self):
        folder, pin = self.folder, secrets.token_hex(8)
        (folder / "token").mkdir()
        (folder / "softhsm2.conf").write_text(
            f"directories.tokendir = {folder}/token\nobjectstore.backend = file\nlog.level = ERROR\n")
        (folder / "pin").write_text(pin)
        (folder / "pin").chmod(0o600)
        self.environment = {"SOFTHSM2_CONF": f"{folder}/softhsm2.conf"}
        self.make_token("holdfast", pin)
        return f"""{self.listener_and_audit()}
storage "file" {{
  path = "{folder}/data"
}}
seal "pkcs11" {{
  lib          = "{softhsm()}"
  token_label  = "holdfast"
  pin_file     = "{folder}/pin"
  key_label    = "holdfast-root"
  generate_key = true
}}
"""

    def make_token(self, label, pin):
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", pin]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)


# SoftHSM behind a wait of two milliseconds for each signature and decryption, as of a device that is on the network: it is
# busy while the machine is not. Positions in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h) are counted from C_Initialize.
SLOW = r"""
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long UL;
typedef UL (*Call)(UL, void *, UL, void *, void *);
enum { DECRYPT = 34, SIGN = 43, FUNCTIONS = 68 };
static struct { unsigned char version[2]; void *functions[FUNCTIONS]; } own;
static Call sign, decrypt;
static UL slow_sign(UL session, void *data, UL n, void *out, void *length) {
    if (out) usleep(2000);
    return sign(session, data, n, out, length);
}
static UL slow_decrypt(UL session, void *data, UL n, void *out, void *length) {
    if (out) usleep(2000);
    return decrypt(session, data, n, out, length);
}
UL C_GetFunctionList(void **list) {
    UL (*get)(void **) = dlsym(dlopen("@SOFTHSM@", RTLD_NOW), "C_GetFunctionList");
    void *real;
    UL result = get(&real);
    if (result) return result;
    memcpy(&own, real, sizeof own);
    sign = own.functions[SIGN];
    decrypt = own.functions[DECRYPT];
    own.functions[SIGN] = slow_sign;
    own.functions[DECRYPT] = slow_decrypt;
    *list = &own;
    return 0;
}
"""


class HoldfastWithDevices(Holdfast):
    """The same with two named devices on a token of their own: SoftHSM as it is, and one that takes its time."""

    def configuration(self):
        text = super().configuration()
        self.make_token("bench", (self.folder / "pin").read_text())
        (self.folder / "slow.c").write_text(SLOW.replace("@SOFTHSM@", softhsm()))
        build = ["cc", "-shared", "-fPIC", "-w", "-o", self.folder / "slow.so", self.folder / "slow.c", "-ldl"]
        subprocess.run(build, check=True, capture_output=True)
        for name, library in (("main", softhsm()), ("slow", self.folder / "slow.so")):
            text += f"""device "pkcs11" "{name}" {{
  lib         = "{library}"
  token_label = "bench"
  pin_file    = "{self.folder}/pin"
}}
"""
        return text


class SwTpm:
    """A TPM in software, whose one connection is whoever's asks first."""

    def __init__(self, folder):
        folder.mkdir()
        (folder / "state").mkdir()
        self.folder = folder

    def __enter__(self):
        # TSS looks for the control channel at the port behind.
        ports = iter(lambda: free_port(), None)
        self.port = next(port for port in ports if is_free(port + 1))
        place = "type=tcp,bindaddr=127.0.0.1,port={}"
        self.process = Process(
            ["swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate", f"dir={self.folder}/state",
             "--server", place.format(self.port), "--ctrl", place.format(self.port + 1)], self.folder)
        until_it_listens(self.process, self.port + 1)
        return self

    def __exit__(self, *_):
        self.process.stop()

    @property
    def tcti(self):
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def stanza(self):
        (self.folder / "keys").mkdir(mode=0o700)
        return f"""device "tpm" "tpm" {{
  tcti = "{self.tcti}"
  keys = "{self.folder}/keys"
}}
"""

    def driver(self):
        return ["tpm", self.tcti]


class SimulatedYubiHsm:
    """The simulator of the tests, in a process of its own."""

    AUTH_KEY = 2

    def __init__(self, driver, folder):
        folder.mkdir()
        self.driver_binary, self.folder, self.password = driver, folder, folder / "password"
        self.password.write_text(secrets.token_hex(8))
        self.password.chmod(0o600)

    def __enter__(self):
        self.process = Process([self.driver_binary, "simulate-yubihsm", self.password], self.folder)
        end = time.monotonic() + 20
        while not self.process.log.read_text().endswith("\n"):
            if not self.process.running() or time.monotonic() > end:
                raise Broken(f"no simulated YubiHSM: {self.process.last_words()}")
            time.sleep(0.05)
        self.connector = self.process.log.read_text().strip()
        return self

    def __exit__(self, *_):
        self.process.stop()

    def stanza(self):
        return f"""device "yubihsm" "yubihsm" {{
  connector     = "{self.connector}"
  auth_key      = {self.AUTH_KEY}
  password_file = "{self.password}"
}}
"""

    def driver(self):
        return ["yubihsm", self.connector, self.AUTH_KEY, self.password]


def is_free(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


def until_it_listens(process, port, limit_s=20):
    end = time.monotonic() + limit_s
    while is_free(port):
        if not process.running() or time.monotonic() > end:
            raise Broken(f"nothing listens at port {port}: {process.last_words()}")
        time.sleep(0.05)


class HoldfastWithDevice(Holdfast):
    """With one named device."""

    def __init__(self, binary, folder, tls, device):
        self.device = device
        super().__init__(binary, folder, tls)

    def configuration(self):
        return super().configuration() + self.device.stanza()


class Bao(Server):
    """The reference: OpenBao, raft on disk, one Shamir share."""

    INIT = {"secret_shares": 1, "secret_threshold": 1}

    def configuration(self):
        return f"""{self.listener_and_audit()}
storage "raft" {{
  path    = "{self.folder}/data"
  node_id = "bench"
}}
unsafe_allow_api_audit_creation = true
"""


class Bare:
    """axum on rustls, which answers `body` to any request."""

    def __init__(self, binary, folder, tls, body):
        folder.mkdir()
        (folder / "body").write_bytes(body)
        self.folder, self.port, self.token = folder, free_port(), "none"
        self.process = Process([binary, self.port, tls.cert, tls.key, folder / "body"], folder)

    def __enter__(self):
        end = time.monotonic() + 10
        while "ready" not in self.process.log.read_text():
            if not self.process.running() or time.monotonic() > end:
                raise Broken(f"the bare handler did not start: {self.process.last_words()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.process.stop()
