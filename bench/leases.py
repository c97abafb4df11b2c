"""The part `leases`: what a server does with many tokens that end. Memory and start do not grow with them, those that are
due end fast enough, and other requests do not notice."""
import re
import statistics
import threading
import time

import load
from load import Request
from process import Broken

FEW, BESIDE_BAO = 10_000, 100_000
ENDING = 40_000
STARTS = 3
PREFIX = "auth/token/create/bench"


def measure(site):
    from parts import Row, memory_note     # they list this part
    counts, found = (0, FEW, BESIDE_BAO, site.leases), {}
    with site.holdfast() as holdfast:
        there = 0
        for count in counts:
            fill(holdfast, count - there)
            there, found[count] = count, restarts(holdfast)
        none, few, many = found[0], found[FEW], found[site.leases]
        name = f"{site.leases:,} token leases"
        yield Row(f"start to unsealed, {name}, less with none", many.start_ms - none.start_ms, "ms", at_most=2000,
                  note=f"{many.start_ms:,.0f} and {none.start_ms:,.0f} ms, medians of {STARTS}")
        yield Row(f"start to unsealed, {name} / {FEW:,}", many.start_ms / few.start_ms)
        yield Row(f"memory after the start, {name}, less with none", many.mib - none.mib, "MiB", at_most=100,
                  note=f"{many.mib:.1f} and {none.mib:.1f} MiB")
        yield Row(f"memory after the start, {name} / {FEW:,}", many.mib / few.mib, note=memory_note(holdfast))
        yield from expiry(holdfast, Row)
        yield from prefix(holdfast, there, Row)
    with site.bao() as bao:
        fill(bao, BESIDE_BAO)
        theirs, ours = restarts(bao), found[BESIDE_BAO]
        yield Row(f"memory after the start, {BESIDE_BAO:,} token leases, / bao", ours.mib / theirs.mib,
                  note=f"{ours.mib:.0f} / {theirs.mib:.0f} MiB")
        yield Row(f"start to unsealed, {BESIDE_BAO:,} token leases, / bao", ours.start_ms / theirs.start_ms,
                  note=f"{ours.start_ms:.0f} / {theirs.start_ms:.0f} ms; bao reads its leases behind")


class Started:
    def __init__(self, start_ms, mib):
        self.start_ms, self.mib = start_ms, mib


def restarts(server):
    starts, mib = [], []
    for _ in range(STARTS):
        server.process.stop(limit_s=120)
        starts.append(server.start())
        server.process.settle()
        mib.append(server.process.memory_mib())
    return Started(statistics.median(starts), statistics.median(mib))


def fill(server, count):
    """So many tokens more."""
    if not count:
        return
    server.root().ok("POST", "auth/token/roles/bench", {"orphan": True}, patience_s=15)
    body = {"ttl": "24h", "no_default_policy": True, "policies": ["default"]}
    load.once(server, Request("POST", PREFIX, body, keys=count, plain=True, token=server.root_token), limit_s=3600)


def expired(server):
    """How many tokens have ended because their time was over."""
    status, text = server.root().raw("GET", "sys/metrics?format=prometheus")
    counted = re.search(r"^holdfast_tokens_expired (\d+)", text.decode(), re.M)
    if status != 200 or not counted:
        raise Broken("sys/metrics does not count what has ended")
    return int(counted[1])


class Reader(threading.Thread):
    """Reads one secret over and over; knows how long the longest read took."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.client, self.over, self.longest_ms, self.reads = server.client(server.token), threading.Event(), 0.0, 0

    def run(self):
        while not self.over.is_set():
            begin = time.monotonic()
            self.client.ok("GET", "secret/data/read")
            self.longest_ms, self.reads = max(self.longest_ms, (time.monotonic() - begin) * 1e3), self.reads + 1
            time.sleep(0.002)

    def end(self):
        self.over.set()
        self.join()
        if not self.reads:
            raise Broken("nothing was read")
        return self.longest_ms


def expiry(server, row):
    """Tokens that end at one moment."""
    before, end = expired(server), int(time.time()) + 60
    body = {"ttl": "@TTL@s", "no_default_policy": True, "policies": ["default"]}
    made = load.once(server, Request("POST", PREFIX, body, keys=ENDING, plain=True, ends=end, token=server.root_token))
    if time.time() > end - 1:
        raise Broken(f"{ENDING:,} tokens took {made['seconds']:.0f} s to make: they end meanwhile")
    time.sleep(max(0, end - 0.5 - time.time()))
    reader = Reader(server)
    reader.start()
    while (ended := expired(server) - before) < ENDING:
        if time.time() > end + 300:
            raise Broken(f"{ended:,} of {ENDING:,} tokens have ended")
        time.sleep(0.02)
    # A token ends within the second that its TTL names.
    took = time.time() - end
    longest = reader.end()
    yield row("ends a second", ended / took, "ends", at_least=2000, note=f"{ended:,} that ended at one moment, in {took:.1f} s")
    yield row("longest read meanwhile", longest, "ms")


def prefix(server, count, row):
    """All leases below a prefix are revoked at once."""
    listed = lambda: server.root().raw("LIST", f"sys/leases/lookup/{PREFIX}")[0]
    reader, begin = Reader(server), time.monotonic()
    reader.start()
    answered = server.root().raw("POST", f"sys/leases/revoke-prefix/{PREFIX}", {"sync": False})[0]
    if answered not in (202, 204):
        raise Broken(f"revoke-prefix: status {answered}")
    answered_ms = (time.monotonic() - begin) * 1e3
    jobs = lambda: server.root().ok("GET", "sys/jobs")["data"]["jobs"]
    while jobs():
        if time.monotonic() - begin > 3600:
            raise Broken("the job behind revoke-prefix does not end")
        time.sleep(0.5)
    took = time.monotonic() - begin
    longest = reader.end()
    if listed() != 404:
        raise Broken("leases are left below the prefix")
    yield row(f"revoke-prefix of {count:,} leases, a second", count / took, "ends", note=f"{took:.0f} s; answered in {answered_ms:.0f} ms")
    yield row("longest read meanwhile", longest, "ms", at_most=1000)
