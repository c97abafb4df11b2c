"""What is measured. Each part is a function that takes the site and gives its rows."""
import random
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cluster
import leases
import load
import users
from load import Request
from process import Broken, Process
from servers import (POLICY, SECRET, Bare, Bao, Client, Holdfast, HoldfastWithDevice, HoldfastWithDevices, SimulatedYubiHsm,
                     SwTpm, free_port, softhsm)

READ = Request("GET", "secret/data/read")
WARM_UP_S = 2
STARTS = 3
DEV_STARTS = 5
NAMES = 10_000
POLICIES = 50


class Site:
    """Where the race is run, and its settings."""

    def __init__(self, options, folder, tls):
        self.options, self.folder, self.tls = options, folder, tls
        self.rounds, self.seconds, self.secrets = options.rounds, options.seconds, options.secrets
        self.leases = options.leases
        self.made, self.details = 0, {}

    def place(self, name):
        self.made += 1
        return self.folder / f"{self.made}-{name}"

    def holdfast(self, audit=True):
        return Holdfast(self.options.binary, self.place("holdfast"), self.tls, audit)

    def bao(self):
        return Bao(self.options.bao, self.place("bao"), self.tls)

    def bare(self, body):
        return Bare(self.options.bare, self.place("bare"), self.tls, body)


class Row:
    """A figure: what it is, its value with unit, the limit and whether that is met (None: none is set)."""

    def __init__(self, figure, value, unit="", at_least=None, at_most=None, note=""):
        self.figure, self.value, self.unit, self.at_least, self.at_most = figure, value, unit, at_least, at_most
        self.met, self.note = None, note
        if at_least is not None:
            self.met = value >= at_least
        if at_most is not None:
            self.met = value <= at_most

    def limit(self):
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    def as_dict(self):
        return {k: v for k, v in vars(self).items() if v is not None and v != ""}


def ratio(name, a, b, at_least=None, note=""):
    """The ratio of two medians; the note has the two, and the smallest and largest ratio of a round."""
    each = [x / y for x, y in zip(a, b)]
    text = f"{statistics.median(a):,.0f} / {statistics.median(b):,.0f}; rounds {min(each):.2f}–{max(each):.2f}"
    return Row(name, statistics.median(a) / statistics.median(b), "", at_least=at_least,
               note="; ".join(filter(None, (text, note))))


def race(site, part, lanes, failures_allowed=False):
    """Rounds in which the lanes take turns: name → (server, request), or a function that makes a run. Returns the
    rates of each lane; they are worth nothing if an answer failed, unless the caller looks after that."""
    served = {name: lane for name, lane in lanes.items() if not callable(lane)}
    runs = site.details[part] = {name: [] for name in lanes}
    for server, request in served.values():
        load.run(server, request, WARM_UP_S)
        server.process.settle()
    for _ in range(site.rounds):
        for name, lane in lanes.items():
            if name not in served:
                runs[name].append(lane())
                continue
            runs[name].append(load.run(*lane, site.seconds))
            lane[0].process.settle()
    for name in served:
        if (bad := failed(runs[name])) and not failures_allowed:
            raise Broken(f"{name}: {bad} of {sum(r['requests'] for r in runs[name])} requests failed")
    return {name: [r["rate"] for r in lane] for name, lane in runs.items()}


def failed(runs):
    return sum(r["not_2xx"] + r["socket_errors"] for r in runs)


def cost(site, part):
    """What a request costs holdfast; no limit is set."""
    def middle(lane, key):
        return statistics.median(r[key] for r in site.details[part][lane])
    return Row(f"kv v2 {part}, CPU time of a request", middle("holdfast", "cpu_us"), "µs",
               note=f"p50 {middle('holdfast', 'p50_ms'):.1f} ms, p99 {middle('holdfast', 'p99_ms'):.1f} ms; "
                    f"bare handler {middle('bare', 'cpu_us'):.1f} µs, bao {middle('bao', 'cpu_us'):.0f} µs")


def read(site):
    """Reads of one secret of 1 KiB, against the bare handler that returns the same bytes, and the reference."""
    with ExitStack() as stack:
        holdfast, bao = stack.enter_context(site.holdfast()), stack.enter_context(site.bao())
        answer = holdfast.answer(READ.path)
        bare = stack.enter_context(site.bare(answer))
        rates = race(site, "read", {"holdfast": (holdfast, READ), "bare": (bare, READ), "bao": (bao, READ)})
        yield ratio("kv v2 read / bare handler", rates["holdfast"], rates["bare"], 0.5, f"{len(answer)} bytes")
        yield ratio("kv v2 read / bao", rates["holdfast"], rates["bao"], 8)
        yield cost(site, "read")
        yield Row("memory after the reads", holdfast.process.memory_mib(), "MiB")


# What `operator device bench` calls it, and what the raw driver does.
DEVICE_OPERATIONS = {"sign-p256": ("P-256", "sign"), "sign-rsa2048": ("RSA-2048", "sign"),
                     "decrypt-rsa2048": ("RSA-2048", "decrypt"), "decrypt-aes256": ("AES-256", "decrypt")}
DRIVER_OPERATIONS = {"sign-p256": ("P-256", "sign"), "sign-rsa2048": ("RSA-2048", "sign"), "unwrap": ("root key", "unwrap")}
DEVICE_USERS = (1, 8)
# Measurements at a time that keep a device busy: of one and of eight users each. They do not begin together: SoftHSM does not
# make several keys at a time well.
BUSY = 2


def devices(site):
    """What a token does for the server, through its helper process, against a tight loop around the same library on the
    same token; and reads of kv while a device has more to do than it can."""
    server = HoldfastWithDevices(site.options.binary, site.place("devices"), site.tls)
    runs = {}
    with server:
        root = server.root()
        for _ in range(site.rounds):
            for operation in DEVICE_OPERATIONS:
                for users in DEVICE_USERS:
                    raw = [site.options.raw, softhsm(), "bench", server.folder / "pin", operation, users, 1]
                    done = subprocess.run([str(a) for a in raw], env=server.environment, check=True,
                                          capture_output=True, text=True)
                    runs.setdefault((operation, users), ([], []))[1].append(float(done.stdout))
            measured = root.ok("POST", "sys/devices/main/bench", {"seconds": 1})["data"]["measured"]
            for operation, (kind, verb) in DEVICE_OPERATIONS.items():
                for users in DEVICE_USERS:
                    found = [m["per_second"] for m in measured
                             if m["users"] == users and kind in m["what"] and verb in m["what"]]
                    if len(found) != 1:
                        raise Broken(f"{operation} by {users}: {measured}")
                    runs[operation, users][0].append(float(found[0]))
        for (operation, users), (ours, raw) in runs.items():
            yield ratio(f"{operation} by {users} / the library alone", ours, raw, 0.9)
        site.details["devices"] = {f"{operation} by {users}": [{"rate": a, "raw": b} for a, b in zip(*run)]
                                   for (operation, users), run in runs.items()}
        calm, busy = [], []
        # A measurement of the device lasts for eight seconds.
        seconds = min(site.seconds, 4)
        load.run(server, READ, WARM_UP_S)
        for _ in range(site.rounds):
            calm.append(load.run(server, READ, seconds)["p99_ms"])
            with ThreadPoolExecutor(BUSY) as pool:
                waiting = []
                for _ in range(BUSY):
                    waiting.append(pool.submit(server.root().ok, "POST", "sys/devices/slow/bench", {"seconds": 1}))
                    time.sleep(0.5)
                busy.append(load.run(server, READ, seconds)["p99_ms"])
                if any(w.done() for w in waiting):
                    raise Broken("the device was not busy for as long as the reads went on")
                for w in waiting:
                    w.result()
            server.process.settle()
        yield Row("p99 of kv reads while a device is busy / while it is not",
                  statistics.median(busy) / statistics.median(calm), at_most=1.5,
                  note=f"{statistics.median(busy):.1f} / {statistics.median(calm):.1f} ms")


def families(site):
    """What a TPM and a YubiHSM (in software, both) do for the server, through the helper process, against a tight loop around
    our driver in one process, on the same device. A TPM has one connection, so that the driver is measured first."""
    driver, seconds = site.options.driver, 2
    for name, device in (("TPM", SwTpm(site.place("tpm"))),
                         ("YubiHSM", SimulatedYubiHsm(driver, site.place("yubihsm")))):
        with device:
            alone, ours = {}, {}
            for _ in range(site.rounds):
                for operation in DRIVER_OPERATIONS:
                    for users in DEVICE_USERS:
                        command = [driver, *device.driver(), operation, users, seconds]
                        done = subprocess.run([str(a) for a in command], check=True, capture_output=True, text=True)
                        alone.setdefault((operation, users), []).append(float(done.stdout))
            with HoldfastWithDevice(site.options.binary, site.place("holdfast"), site.tls, device) as server:
                for _ in range(site.rounds):
                    path, body = f"sys/devices/{name.lower()}/bench", {"seconds": seconds}
                    measured = server.root().ok("POST", path, body)["data"]["measured"]
                    for operation, (kind, verb) in DRIVER_OPERATIONS.items():
                        for users in DEVICE_USERS:
                            found = [m["per_second"] for m in measured
                                     if m["users"] == users and kind in m["what"] and verb in m["what"]]
                            if len(found) != 1:
                                raise Broken(f"{operation} by {users}: {measured}")
                            ours.setdefault((operation, users), []).append(float(found[0]))
            for (operation, users), rates in ours.items():
                yield ratio(f"{name}: {operation} by {users} / the driver alone", rates, alone[operation, users], 0.9)
            site.details[f"families-{name}"] = {
                f"{operation} by {users}": [{"rate": a, "alone": b} for a, b in zip(rates, alone[operation, users])]
                for (operation, users), rates in ours.items()}


def write(site):
    """Writes of 1 KiB over 10,000 keys, committed to disk, against the disk, the bare handler, and the reference."""
    request = Request("POST", "secret/data/write", SECRET, keys=10_000)
    with ExitStack() as stack:
        holdfast, bao = stack.enter_context(site.holdfast()), stack.enter_context(site.bao())
        bare = stack.enter_context(site.bare(holdfast.answer(READ.path)))
        rates = race(site, "write", {
            "fdatasync": lambda: load.fdatasync(site.options.fsync, site.folder),
            "holdfast": (holdfast, request), "bare": (bare, READ), "bao": (bao, request)})
        disk, bare_rate = statistics.median(rates["fdatasync"]), statistics.median(rates["bare"])
        goals = {f"2.0 × fdatasync ({disk:,.0f})": [2.0 * r for r in rates["fdatasync"]],
                 f"0.3 × bare ({bare_rate:,.0f})": [0.3 * r for r in rates["bare"]]}
        goal = min(goals, key=lambda g: statistics.median(goals[g]))
        yield ratio("kv v2 write / min(2.0 × fdatasync, 0.3 × bare)", rates["holdfast"], goals[goal], 1, goal)
        yield ratio("kv v2 write / fdatasync", rates["holdfast"], rates["fdatasync"])
        yield ratio("kv v2 write / bare handler", rates["holdfast"], rates["bare"])
        yield ratio("kv v2 write / bao", rates["holdfast"], rates["bao"], 5)
        yield cost(site, "write")
        yield Row("memory after the writes", holdfast.process.memory_mib(), "MiB")


def audit(site):
    """Reads of one secret of 1 KiB with a file audit device, as everywhere here, against the same without any device."""
    with ExitStack() as stack:
        lanes = {name: (stack.enter_context(site.holdfast(audit=name == "with")), READ) for name in ("with", "without")}
        rates = race(site, "audit", lanes)
        yield ratio("kv v2 read with a file audit device / without", rates["with"], rates["without"], 0.85)
        with_it, without = (statistics.median(r["cpu_us"] for r in site.details["audit"][name]) for name in lanes)
        yield Row("what its audit lines cost a read, CPU time", with_it - without, "µs",
                  note=f"{with_it:.1f} - {without:.1f} µs")


def one_key(site):
    """64 writers of one key, against 64 writers of 64 keys of the same server."""
    one, many = Request("POST", "secret/data/one", SECRET), Request("POST", "secret/data/many", SECRET, keys=64)
    with site.holdfast() as holdfast:
        rates = race(site, "one-key", {"one": (holdfast, one), "many": (holdfast, many)}, failures_allowed=True)
        for name, of in (("one", "one key"), ("many", "64 keys")):
            yield Row(f"64 writers on {of}, failed", failed(site.details["one-key"][name]), "answers", at_most=0)
        yield ratio("64 writers on one key / on 64 keys", rates["one"], rates["many"], 0.5)


def against_bao(site, part, figure, request, at_least):
    """A request of both servers: `request` makes it for one of them."""
    with ExitStack() as stack:
        lanes = {}
        for name, server in (("holdfast", site.holdfast()), ("bao", site.bao())):
            stack.enter_context(server)
            lanes[name] = (server, request(server))
        rates = race(site, part, lanes)
        yield ratio(f"{figure} / bao", rates["holdfast"], rates["bao"], at_least)
        runs = {name: site.details[part][name] for name in lanes}
        cpu = {name: statistics.median(r["cpu_us"] for r in runs[name]) for name in lanes}
        yield Row(f"{figure}, CPU time of a request", cpu["holdfast"], "µs", note=f"bao {cpu['bao']:.0f} µs")


def token_create(site):
    """New service tokens, children of the application's."""
    policy = {"maker": 'path "auth/token/create" { capabilities = ["update"] }'}
    body = {"policies": ["maker"], "ttl": "1h"}
    yield from against_bao(site, "token-create", "token create", lambda server: Request(
        "POST", "auth/token/create", body, token=server.token_under(policy)), 8)


def lookup(site):
    """A token asks about itself."""
    yield from against_bao(site, "lookup", "lookup-self", lambda _: Request("GET", "auth/token/lookup-self"), 8)


def many_tokens(site):
    """Tokens of a store with very many are looked up as fast as those of one with a hundred."""
    few, body = 100, {"token": "bench-@KEY@"}

    def filled(server, count):
        made = {"id": "bench-@KEY@", "ttl": "24h", "no_default_policy": True, "policies": ["default"]}
        load.once(server, Request("POST", "auth/token/create-orphan", made, keys=count, token=server.root_token), 3600)

    def looked_up(server, keys, step=1):
        return server, Request("POST", "auth/token/lookup", body, keys=keys, step=step, token=server.root_token)

    with ExitStack() as stack:
        small, large = (stack.enter_context(site.holdfast()) for _ in range(2))
        filled(small, few)
        filled(large, site.leases)
        lanes = {"of few": looked_up(small, few), "of many": looked_up(large, few, site.leases // few),
                 "any of many": looked_up(large, site.leases)}
        rates = race(site, "many-tokens", lanes)
        name = f"token lookup, {site.leases:,} tokens / {few}"
        yield ratio(f"{name}, {few} of them over and over", rates["of many"], rates["of few"], 0.9)
        yield ratio(f"{name}, each once", rates["any of many"], rates["of few"])


def wrapped(site):
    """A read of one secret of 1 KiB whose answer is wrapped: it stores a token and the answer."""
    yield from against_bao(site, "wrapped", "wrapped read",
                           lambda _: Request(READ.method, READ.path, wrap_ttl="60s"), 5)


def listing(site):
    """A list of 10,000 names."""
    def filled(server):
        load.once(server, Request("POST", "secret/data/names", {"data": {"a": "b"}}, keys=NAMES))
        listed = server.client(server.token).ok("LIST", "secret/metadata/names")["data"]["keys"]
        if len(listed) != NAMES:
            raise Broken(f"{len(listed)} of {NAMES} names are listed")
        # wrk knows no verb LIST.
        return Request("GET", "secret/metadata/names?list=true")
    yield from against_bao(site, "list", f"list of {NAMES:,} names", filled, 5)


def policies(site):
    """A read of one secret of 1 KiB under a token with 50 policies, against bao and against the same under one."""
    rules = "".join(f'path "secret/data/team-%d/{n}/*" {{ capabilities = ["read"] }}\n' for n in range(4))
    many = {f"team-{n}": (rules % (n, n, n, n)) for n in range(POLICIES - 1)}

    def under_many(server):
        return Request(READ.method, READ.path, token=server.token_under({**many, "application": POLICY}))

    with ExitStack() as stack:
        holdfast, bao = stack.enter_context(site.holdfast()), stack.enter_context(site.bao())
        rates = race(site, "policies", {"one": (holdfast, READ), "holdfast": (holdfast, under_many(holdfast)),
                                        "bao": (bao, under_many(bao))})
        yield ratio(f"read under {POLICIES} policies / bao", rates["holdfast"], rates["bao"], 5)
        one, of_many = ([r["cpu_us"] for r in site.details["policies"][name]] for name in ("one", "holdfast"))
        yield Row(f"read under {POLICIES} policies / under one, CPU time",
                  statistics.median(of_many) / statistics.median(one), at_most=1.2,
                  note=f"{statistics.median(of_many):.1f} / {statistics.median(one):.1f} µs")
        yield ratio(f"read under one policy / under {POLICIES}, rate", rates["one"], rates["holdfast"])


def application(server):
    """What an application logs in with: a role id and a secret id."""
    root = server.root()
    root.ok("POST", "sys/auth/approle", {"type": "approle"})
    root.ok("POST", "auth/approle/role/bench", {"token_policies": ["application"], "token_ttl": "1h"})
    role_id = root.ok("GET", "auth/approle/role/bench/role-id")["data"]["role_id"]
    secret_id = root.ok("POST", "auth/approle/role/bench/secret-id", {})["data"]["secret_id"]
    return {"role_id": role_id, "secret_id": secret_id}


def approle(site):
    """Applications log in: each gets a token with a lease of its own."""
    yield from against_bao(site, "approle", "approle login", lambda server: Request(
        "POST", "auth/approle/login", application(server), nobody=True), 8)


def templated(site):
    """A read of one secret of 1 KiB that a group's policy allows, whose path is made from the group's metadata."""
    rule = 'path "secret/data/{{identity.groups.names.bench.metadata.of}}" { capabilities = ["read"] }'

    def under_group(server):
        root, login = server.root(), application(server)
        root.ok("PUT", "sys/policies/acl/templated", {"policy": rule})
        root.ok("POST", "auth/approle/role/bench", {"token_policies": ["default"]})
        auth = server.client().ok("POST", "auth/approle/login", login)["auth"]
        root.ok("POST", "identity/group", {"name": "bench", "policies": ["templated"], "metadata": {"of": "read"},
                                           "member_entity_ids": [auth["entity_id"]]})
        return Request(READ.method, READ.path, token=auth["client_token"])

    yield from against_bao(site, "templated", "read under a group's templated policy", under_group, 8)


def idle(site):
    """An empty server that has unsealed itself."""
    with site.holdfast() as holdfast:
        starts, idle_mib = [], []
        for _ in range(STARTS):
            holdfast.process.stop()
            starts.append(holdfast.start())
            holdfast.process.settle()
            idle_mib.append(holdfast.process.memory_mib())
        yield Row("memory idle after unseal", statistics.median(idle_mib), "MiB", at_most=40,
                  note=f"{STARTS} starts, {min(idle_mib):.1f}–{max(idle_mib):.1f}; {memory_note(holdfast)}")
        yield started("start to unsealed, empty", starts)


def secrets(site):
    """A server with many secrets of 1 KiB: its memory, and how fast it starts."""
    count = f"{site.secrets:,} secrets"
    with site.holdfast() as holdfast:
        filled = load.once(holdfast, Request("POST", "secret/data/fill", SECRET, keys=site.secrets))
        yield Row(f"{count} written in", filled["seconds"], "s")
        holdfast.process.settle()
        yield memory(f"memory after {count}", holdfast, 120)
        listed = holdfast.root().ok("LIST", "secret/metadata/fill")["data"]["keys"]
        if len(listed) != site.secrets:
            raise Broken(f"{len(listed)} of {site.secrets} secrets are listed")
        yield memory("memory after listing them", holdfast)
        stored = sum(f.stat().st_blocks * 512 for f in (holdfast.folder / "data").rglob("*") if f.is_file())
        yield Row("data folder", stored / 2**20, "MiB")

        clean = []
        for _ in range(STARTS):
            holdfast.process.stop()
            clean.append(holdfast.start())
        holdfast.process.settle()
        yield started(f"start to unsealed, {count}, after SIGTERM", clean, 1000)
        yield memory("memory idle after the start, after SIGTERM", holdfast, 120)

        killed = [killed_and_started(holdfast) for _ in range(STARTS)]
        yield started(f"start to unsealed, {count}, after kill -9 among writes", killed, 1000)
        still_there(holdfast, site.secrets)
        holdfast.process.settle()
        yield memory("memory idle after the start, after kill -9", holdfast, 120)


def killed_and_started(holdfast):
    """Kill while 64 connections write; the milliseconds of the start after that."""
    writers = load.background(holdfast, Request("POST", "secret/data/fill", SECRET, keys=10_000), 60)
    try:
        time.sleep(2)
        helpers = holdfast.process.tree()[1:]
        holdfast.process.kill()
    finally:
        writers.kill()
        writers.wait()
    end = time.monotonic() + 5
    while left := [pid for pid in helpers if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > end:
            raise Broken(f"helpers {left} outlived a server that was killed")
        time.sleep(0.01)
    return holdfast.start()


def still_there(holdfast, count):
    """A sample of the secrets is read; a loss would make the figures worthless."""
    client = holdfast.client(holdfast.token)
    for key in random.sample(range(1, count + 1), min(count, 500)):
        data = client.ok("GET", f"secret/data/fill/{key}")["data"]["data"]
        if data != SECRET["data"]:
            raise Broken(f"secret/data/fill/{key} is not what was written")


def dev(site):
    """The development server: in memory, HTTP."""
    times = []
    for _ in range(DEV_STARTS):
        folder, port = site.place("dev"), free_port()
        folder.mkdir()
        begin = time.monotonic()
        process = Process([site.options.binary, "server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token",
                           f"-dev-listen-address=127.0.0.1:{port}"], folder)
        try:
            Client(port, None).wait(process, "sys/health", lambda _: True)
            times.append((time.monotonic() - begin) * 1e3)
        finally:
            process.stop()
    yield started("start of -dev to ready", times, 100)


def memory(figure, server, at_most=None):
    return Row(figure, server.process.memory_mib(), "MiB", at_most=at_most, note=memory_note(server))


def memory_note(server):
    p = server.process
    return f"{len(p.tree())} processes; anonymous {p.memory_mib('RssAnon'):.1f}, peak {p.memory_mib('VmHWM'):.1f}"


def started(figure, times_ms, at_most=None):
    return Row(figure, statistics.median(times_ms), "ms", at_most=at_most,
               note=f"{len(times_ms)} starts, {min(times_ms):.0f}–{max(times_ms):.0f}")


PARTS = {"read": read, "audit": audit, "devices": devices, "families": families, "write": write, "one-key": one_key, "token-create": token_create,
         "lookup": lookup, "wrapped": wrapped, "list": listing, "policies": policies, "approle": approle, "templated": templated,
         "idle": idle, "secrets": secrets, "dev": dev, "leases": leases.measure,
         "cluster": cluster.measure, "users": users.measure, "many-tokens": many_tokens}
