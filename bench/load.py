"""Load by wrk on the same cores: 64 keep-alive TLS connections that repeat one kind of request."""
import json
import os
import re
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from process import TICKS_PER_SECOND, Broken

CONNECTIONS = 64
THREADS = 2             # load.lua shares the keys among them
HERE = Path(__file__).parent


@dataclass
class Request:
    method: str
    path: str
    body: dict | None = None
    keys: int = 0        # spread over this many paths below `path`
    token: str = ""      # instead of the application's
    nobody: bool = False  # without a token
    wrap_ttl: str = ""   # the answer is wrapped, and lasts so long
    plain: bool = False  # the path is not changed: `keys` is how many are sent
    step: int = 1        # every so many of the keys, which stand for @KEY@ in the body, if that is there
    ends: int = 0        # Unix time: @TTL@ in the body is the number of seconds until then


def command(server, request, seconds, once=False, connections=CONNECTIONS):
    """wrk's arguments and environment."""
    body = ""
    if request.body is not None:
        body = str(server.folder / "body.json")
        Path(body).write_text(json.dumps(request.body))
    env = {"PATH": os.environ["PATH"],
           "BENCH_METHOD": request.method, "BENCH_TOKEN": "" if request.nobody else request.token or server.token, "BENCH_BODY": body,
           "BENCH_WRAP_TTL": request.wrap_ttl,
           "BENCH_PLAIN": "1" if request.plain else "0", "BENCH_END": str(request.ends or ""),
           "BENCH_STEP": str(request.step),
           "BENCH_KEYS": str(request.keys), "BENCH_ONCE": "1" if once else "0",
           "BENCH_THREADS": str(THREADS), "BENCH_CONNECTIONS": str(connections)}
    argv = ["wrk", f"-t{THREADS}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s",
            "-s", str(HERE / "load.lua"), f"https://127.0.0.1:{server.port}/v1/{request.path}"]
    return argv, env


def figures(output, error):
    found = re.search(r"^BENCH (.*)$", output, re.M)
    if not found:
        raise Broken(f"wrk failed: {(error or output)[-300:]}")
    run = json.loads(found[1])
    return {**run, "rate": (run["requests"] - run["not_2xx"]) / run["seconds"]}


def run(server, request, seconds, connections=CONNECTIONS):
    """One run: the rate of good answers a second, latency, the server's CPU time for each, and how much of the
    machine other programs used meanwhile (0 to 1)."""
    argv, env = command(server, request, seconds, connections=connections)
    used, watch = server.process.cpu_s(), Watch()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=seconds + 90)
    used = server.process.cpu_s() - used
    result = figures(done.stdout, done.stderr)
    return {**result, "cpu_us": used / max(result["requests"], 1) * 1e6, "others": watch.others(used)}


def once(server, request, limit_s=1800):
    """Each of the request's keys once. wrk has no such mode: its threads say when they are through."""
    argv, env = command(server, request, limit_s, once=True)
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        lines, filled = [], 0
        try:
            for line in wrk.stdout:
                lines.append(line)
                filled += line == "FILLED\n"
                if line == "FILLED\n" and filled == THREADS:
                    wrk.send_signal(signal.SIGINT)
        finally:
            wrk.kill()
    result = figures("".join(lines), "")
    if filled < THREADS or result["not_2xx"]:
        raise Broken(f"{request.path}: not filled; {result['not_2xx']} answers not 2xx")
    return result


def background(server, request, seconds):
    """wrk, running; the caller ends it."""
    argv, env = command(server, request, seconds)
    return subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def fdatasync(binary, folder, seconds=1.0):
    """One run of 4 KiB appends, each followed by fdatasync, of one thread on the file system of the servers' data."""
    watch = Watch()
    done = subprocess.run([binary, str(folder), str(seconds)], check=True, capture_output=True, text=True)
    return {"rate": float(done.stdout), "others": watch.others(0)}


class Watch:
    """How much of the machine other programs use from now on."""

    def __init__(self):
        self.begin, self.busy_s, self.own_s = time.monotonic(), machine_busy_s(), children_s()

    def others(self, server_s):
        """A share, 0 to 1: of what was not idle, less the server's time and that of the children that ended."""
        busy_s = machine_busy_s() - self.busy_s - (children_s() - self.own_s) - server_s
        return max(0.0, busy_s) / (time.monotonic() - self.begin) / os.cpu_count()


def machine_busy_s():
    """CPU time that was not idle so far: /proc/stat's columns without idle, iowait, and guests (which user time has
    already). What the hypervisor gave to other machines (steal) is in it."""
    ticks = [int(t) for t in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / TICKS_PER_SECOND


def children_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
