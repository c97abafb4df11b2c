"""Race a server against the limits of the machine and the reference, and print ratios: see docs/performance.md.

Started by scripts/bench, which builds what it needs. The answer is a table, and bench-out/latest.json. The status is 0
when all chosen parts were measured, whatever the figures (with --check: and no limit is missed), and 1 otherwise."""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import CONNECTIONS
from parts import PARTS, Site
from process import Broken
from servers import Tls

OUT = Path(__file__).resolve().parent.parent / "bench-out"
# Beside this share of other work the figures are not worth keeping.
DISTURBED = 0.1
# A part that meets one of these has no figures; the next part is measured nevertheless.
FAILURES = (Broken, OSError, subprocess.SubprocessError, ValueError, KeyError)


def arguments():
    env = os.environ
    p = argparse.ArgumentParser(prog="scripts/bench BIN", description=__doc__)
    p.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)} (default: all)")
    p.add_argument("--check", action="store_true", help="status 1 if a limit is missed")
    p.add_argument("--rounds", type=int, default=env.get("HOLDFAST_BENCH_ROUNDS", "3"), metavar="N")
    p.add_argument("--seconds", type=int, default=env.get("HOLDFAST_BENCH_SECONDS", "4"), metavar="N",
                   help="length of one run of wrk")
    p.add_argument("--secrets", type=int, default=env.get("HOLDFAST_BENCH_SECRETS", "100000"), metavar="N",
                   help="size of the store of the part `secrets`")
    p.add_argument("--leases", type=int, default=env.get("HOLDFAST_BENCH_LEASES", "1000000"), metavar="N",
                   help="how many there are in the parts `leases` and `many-tokens`: at least 200,000")
    p.add_argument("--kills", type=int, default=env.get("HOLDFAST_BENCH_KILLS", "15"), metavar="N",
                   help="how often the leader is killed in the part `cluster`")
    p.add_argument("--dir", default=env.get("HOLDFAST_BENCH_DIR", "/var/tmp"),
                   help="where data lives while measuring: a disk, not tmpfs")
    for name in ("binary", "bare", "fsync", "raw", "driver", "bao"):
        p.add_argument(f"--{name}", required=True, type=lambda path: str(Path(path).absolute()), help=argparse.SUPPRESS)
    o = p.parse_args()
    if unknown := set(o.parts) - set(PARTS):
        p.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if o.rounds < 1 or o.seconds < 1 or o.secrets < 2 or o.secrets % 2:
        p.error("rounds and seconds are at least 1, secrets an even number")
    if o.kills < 1:
        p.error("the leader is killed once at least")
    if o.leases < 200_000:
        p.error("leases are at least 200,000")
    # A million of them take minutes to make, and so do clusters: only who names these parts waits for them.
    o.parts = o.parts or [name for name in PARTS if name not in ("leases", "users", "many-tokens", "cluster")]
    return o


def conditions(options):
    """What a reader must know to judge the figures."""
    def first_line(*argv):
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    cpu = next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines()
                if l.startswith("model name")), "unknown")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "uptime": first_line("uptime"),
        "machine": f"{os.cpu_count()} × {cpu}",
        "file_system": first_line("stat", "-f", "-c", "%T", options.dir),
        "holdfast": first_line(options.binary, "version"),
        "bao": first_line(options.bao, "version"),
        "rounds": options.rounds, "seconds": options.seconds, "connections": CONNECTIONS, "secrets": options.secrets,
    }


def table(rows):
    lines = ["| figure | value | limit | met | from |", "|---|---:|---:|---|---|"]
    for r in rows:
        value = f"{r.value:,.2f}" if not r.unit else f"{r.value:,.1f} {r.unit}".replace(".0 answers", " answers")
        met = {None: "", True: "yes", False: "**no**"}[r.met]
        lines.append(f"| {r.figure} | {value} | {r.limit()} | {met} | {r.note} |")
    return "\n".join(lines)


def others(details):
    """The largest share of the machine that other programs had during a run; None if there were no runs."""
    runs = (r for lanes in details.values() for lane in lanes.values() for r in lane)
    return max((r.get("others", 0) for r in runs), default=None)


def measure(site, parts):
    """Rows, and what was broken."""
    rows, broken = [], {}
    for name in parts:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        try:
            for row in PARTS[name](site):
                rows.append(row)
        except FAILURES as e:
            broken[name] = f"{type(e).__name__}: {e}"
            print(f"bench: {name} is broken: {broken[name]}", file=sys.stderr, flush=True)
    return rows, broken


def keep(report):
    OUT.mkdir(exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    name = report["date"].replace("-", "").replace(":", "").replace(" ", "T")
    for path in (OUT / f"{name}.json", OUT / "latest.json"):
        path.write_text(text)
    return OUT / f"{name}.json"


def main():
    o = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))    # so that the servers are stopped
    about = conditions(o)
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=o.dir))
    try:
        site = Site(o, folder, Tls(folder / "tls"))
        rows, broken = measure(site, o.parts)
    finally:
        shutil.rmtree(folder)
    noise = others(site.details)
    path = keep({**about, "others": noise, "rows": [r.as_dict() for r in rows], "broken": broken, "runs": site.details})
    print(f"{about['holdfast']}; {about['bao']}")
    print(f"{about['date']} on {about['machine']}, {about['file_system']}; {about['uptime']}")
    print(f"Medians of {o.rounds} alternating rounds of {o.seconds} s at {CONNECTIONS} connections; wrk runs on the "
          "same cores.")
    if noise is not None:
        print(f"Other programs used up to {100 * noise:.0f} % of the machine while it was measured.")
    if noise is not None and noise > DISTURBED:
        print("DISTURBED: read no limit off this run. The fdatasync rate suffers most, and with it the writes' limit.")
    print(f"\n{table(rows)}")
    print(f"\n{path}")
    for name, why in broken.items():
        print(f"broken: {name}: {why}")
    missed = any(r.met is False for r in rows)
    sys.exit(1 if broken or (o.check and missed) else 0)


if __name__ == "__main__":
    main()
