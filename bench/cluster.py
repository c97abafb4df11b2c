"""A cluster of one and of three nodes on this machine, against the disk and the reference: what writes cost, what nodes
that stand by add to reads, and how long nothing is written when the one that leads is killed."""
import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import load
from load import Request
from process import Broken
from servers import SECRET, Server, free_port

KEYS = 10_000
WRITE = Request("POST", "secret/data/write", SECRET, keys=KEYS)
READ = Request("GET", "secret/data/read")
NODES = 3
# A client that is not answered asks the next node.
PATIENCE_S = 2
WRITERS = 3
ENOUGH_WRITES = 20
STEADY_S = 120


class Node(Server):
    """A member on raft, opened by one Shamir share."""

    INIT = {"secret_shares": 1, "secret_threshold": 1}

    def __init__(self, binary, folder, tls, ports, number, more):
        self.ports, self.number, self.more = ports, number, more
        super().__init__(binary, folder, tls)

    def configuration(self):
        self.port = self.ports[self.number]
        joins = "".join(f"""  retry_join {{
    leader_api_addr     = "https://127.0.0.1:{port}"
    leader_ca_cert_file = "{self.tls.cert.parent}/ca.pem"
  }}
""" for port in self.ports if port != self.port)
        # The reference wants devices of the configuration to be the same on all nodes: each has its own folder to be in.
        return f"""{self.listener_and_audit().replace(f"{self.folder}/audit.log", "audit.log")}
storage "raft" {{
  path    = "{self.folder}/data"
  node_id = "n{self.number}"
  {self.more}
{joins}}}
"""

    def join(self, first):
        """Start, or start again, as a member of the cluster of another one that was initialised."""
        self.keys, self.root_token, self.token = first.keys, first.root_token, first.token
        self.launch()
        client = self.client()
        client.wait(self.process, "sys/seal-status", lambda status: status["initialized"] is True)
        end = time.monotonic() + STEADY_S
        # It takes the share when it has heard of the others.
        while not self.is_unsealed():
            if time.monotonic() > end:
                raise Broken(f"a node is not unsealed; its last words: {self.process.last_words()}")
            for key in self.keys:
                self.quietly("PUT", "sys/unseal", {"key": key})
            time.sleep(0.1)

    def quietly(self, method, path, body=None):
        """An answer's status and JSON; (0, None) if there is none soon."""
        client = self.root()
        client.connection.timeout = PATIENCE_S
        try:
            status, text = client.raw(method, path, body)
            return status, json.loads(text or b"null")
        except (OSError, ValueError):
            return 0, None
        finally:
            client.connection.close()

    def is_unsealed(self):
        status, answer = self.quietly("GET", "sys/seal-status")
        return status == 200 and answer["sealed"] is False

    def leads(self):
        status, answer = self.quietly("GET", "sys/leader")
        return status == 200 and answer["is_self"]


class BaoNode(Node):
    def configuration(self):
        return super().configuration() + "unsafe_allow_api_audit_creation = true\n"


class Together:
    """The processes of all members."""

    def __init__(self, nodes):
        self.nodes = nodes

    def cpu_s(self):
        return sum(node.process.cpu_s() for node in self.nodes if node.process.running())

    def settle(self):
        for node in self.nodes:
            node.process.settle()


class Cluster:
    """So many nodes as one server: its port is that of the one that is active."""

    def __init__(self, site, kind, count, more=""):
        binary, name = (site.options.binary, "holdfast") if kind is Node else (site.options.bao, "bao")
        ports = [free_port() for _ in range(count)]
        self.nodes = [kind(binary, site.place(f"{name}-n{n}"), site.tls, ports, n, more) for n in range(count)]
        self.process, self.folder = Together(self.nodes), self.nodes[0].folder

    def __enter__(self):
        try:
            first = self.nodes[0]
            first.start()
            for node in self.nodes[1:]:
                node.join(first)
            self.until_all_vote()
            first.prepare()
            for node in self.nodes[1:]:
                node.token = first.token
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process:
                node.process.kill()

    @property
    def token(self):
        return self.nodes[0].token

    @property
    def port(self):
        return self.active().port

    def active(self):
        return until("a node that leads", lambda: next((n for n in self.nodes if n.process.running() and n.leads()), None))

    def until_all_vote(self):
        def all_vote():
            status, answer = self.active().quietly("GET", "sys/storage/raft/configuration")
            servers = answer["data"]["config"]["servers"] if status == 200 else []
            return len(servers) == len(self.nodes) and all(s["voter"] for s in servers)
        until("votes for all", all_vote)


def until(what, is_so, seconds=STEADY_S):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := is_so():
            return found
        time.sleep(0.02)
    raise Broken(f"{what}: not within {seconds} s")


def measure(site):
    yield from writes(site)
    yield from reads(site)
    yield from failovers(site)


def writes(site):
    """The same client at the active node of each; the clusters of three share the cores with it."""
    # Here, so that neither module needs the other to be loaded first.
    from parts import Row, race, ratio
    with ExitStack() as stack:
        lanes = {"fdatasync": lambda: load.fdatasync(site.options.fsync, site.folder)}
        for count in (1, NODES):
            for name, kind in (("holdfast", Node), ("bao", BaoNode)):
                lanes[f"{name} {count}"] = stack.enter_context(Cluster(site, kind, count)), WRITE
        rates = race(site, "cluster-writes", lanes)
        runs = site.details["cluster-writes"]

        def p99(lane):
            return [r["p99_ms"] for r in runs[lane]]
        for count in (1, NODES):
            nodes = "1 node" if count == 1 else f"{count} nodes"
            ours, theirs = f"holdfast {count}", f"bao {count}"
            yield ratio(f"kv v2 write, {nodes} / fdatasync", rates[ours], rates["fdatasync"])
            yield ratio(f"kv v2 write, {nodes} / bao, {nodes}", rates[ours], rates[theirs], 5 if count == 1 else 2)
            mine, other = statistics.median(p99(ours)), statistics.median(p99(theirs))
            yield Row(f"p99 of a kv v2 write, {nodes} / bao, {nodes}", mine / other, at_most=1,
                      note=f"{mine:.1f} / {other:.1f} ms at {load.CONNECTIONS} connections")
        yield ratio(f"kv v2 write, {NODES} nodes / 1 node", rates[f"holdfast {NODES}"], rates["holdfast 1"])


def reads(site):
    """As many clients as ever, spread over all nodes; and the same where nodes that stand by may be two seconds behind."""
    from parts import ratio
    with ExitStack() as stack:
        one = stack.enter_context(Cluster(site, Node, 1))
        three = stack.enter_context(Cluster(site, Node, NODES))
        stale = stack.enter_context(Cluster(site, Node, NODES, 'stale_reads = "2s"'))
        lanes = {"one": (one, one.nodes * NODES), "active": (three, [three.active()] * NODES),
                 "three": (three, three.nodes), "stale": (stale, stale.nodes)}
        runs = site.details["cluster-reads"] = {name: [] for name in lanes}
        for cluster, nodes in lanes.values():
            everywhere(cluster, nodes, 1)
        for _ in range(site.rounds):
            for name, (cluster, nodes) in lanes.items():
                cluster.process.settle()
                runs[name].append(everywhere(cluster, nodes, site.seconds))
        rates = {name: [r["rate"] for r in lane] for name, lane in runs.items()}
        where = f"{NODES} nodes, all asked"
        yield ratio(f"kv v2 read, {where} / 1 node", rates["three"], rates["one"])
        yield ratio(f"kv v2 read, {where} / the active one asked alone", rates["three"], rates["active"])
        yield ratio(f"kv v2 read, {where}, stale_reads = 2s / 1 node", rates["stale"], rates["one"])
        yield ratio(f"kv v2 read, {where}, stale_reads = 2s / without", rates["stale"], rates["three"])


def everywhere(cluster, nodes, seconds):
    """One wrk at each of these, at the same time."""
    used, watch = cluster.process.cpu_s(), load.Watch()
    with ThreadPoolExecutor(len(nodes)) as pool:
        each = list(pool.map(lambda node: load.run(node, READ, seconds, load.CONNECTIONS // len(nodes)), nodes))
    if failed := sum(r["not_2xx"] + r["socket_errors"] for r in each):
        raise Broken(f"{failed} of {sum(r['requests'] for r in each)} reads failed")
    used = cluster.process.cpu_s() - used
    return {"rate": sum(r["rate"] for r in each), "p99_ms": max(r["p99_ms"] for r in each),
            "cpu_us": used / max(sum(r["requests"] for r in each), 1) * 1e6, "others": watch.others(used)}


def failovers(site):
    """From the leader's kill -9 to the first accepted write that was begun behind it."""
    from parts import Row
    for name, kind, kills, most in (("holdfast", Node, site.options.kills, (2000, 5000)),
                                    ("bao", BaoNode, max(site.options.kills // 3, 1), (None, None))):
        with Cluster(site, kind, NODES) as cluster:
            gaps = killed(cluster, kills)
        # Under a name of its own: these are no runs of requests.
        site.details.setdefault("failovers", {})[name] = [{"ms": gap} for gap in gaps]
        for what, value, at_most in (("median", statistics.median(gaps), most[0]), ("worst", max(gaps), most[1])):
            yield Row(f"{name}: next accepted write after the leader's kill -9, {what}", value, "ms", at_most=at_most,
                      note=f"{len(gaps)} kills, default timers")


def killed(cluster, kills):
    """Kill the leader so many times while clients write through all nodes; the milliseconds of each gap."""
    accepted, over = [], threading.Event()

    def write(lane):
        n = lane
        while not over.is_set():
            n += WRITERS
            begun = time.monotonic()
            node = cluster.nodes[n // WRITERS % len(cluster.nodes)]
            status, _ = node.quietly("POST", f"secret/data/gap/{n}", SECRET)
            if status == 200:
                accepted.append((begun, time.monotonic()))
            else:
                time.sleep(0.005)
    writers = [threading.Thread(target=write, args=(lane,)) for lane in range(WRITERS)]
    for writer in writers:
        writer.start()
    gaps = []
    try:
        for _ in range(kills):
            before = len(accepted)
            until("writes", lambda: len(accepted) > before + ENOUGH_WRITES)
            leader = cluster.active()
            leader.process.kill()
            at = time.monotonic()
            first = until("a write", lambda: min((end for begun, end in accepted[before:] if begun > at), default=None))
            gaps.append((first - at) * 1e3)
            leader.join(next(node for node in cluster.nodes if node is not leader))
            cluster.until_all_vote()
    finally:
        over.set()
        for writer in writers:
            writer.join()
    return gaps
