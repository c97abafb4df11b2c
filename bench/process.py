"""Processes that the benchmark started: their memory and CPU time, with those of their helpers."""
import os
import subprocess
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Broken(Exception):
    """Something did not do what a benchmark needs; there is no figure."""


class Process:
    """A child process, and those that it starts. Ended by its own id only."""

    def __init__(self, argv, folder, environment=None):
        self.log = folder / "log"
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})}
        with open(self.log, "ab") as out:
            self.child = subprocess.Popen(
                [str(a) for a in argv], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def running(self):
        return self.child.poll() is None

    def stop(self, limit_s=30):
        self.child.terminate()
        try:
            self.child.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self.child.kill()
        self.child.wait()

    def tree(self):
        """Process ids: the child's first, then those of its descendants."""
        found = [self.child.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found += map(int, task.read_text().split())
                except OSError:
                    pass                      # a thread that ended meanwhile
        return found

    def cpu_s(self):
        ticks = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_SECOND

    def memory_mib(self, name="VmRSS"):
        """A line of /proc/PID/status, summed over server and helpers."""
        total_kib = 0
        for pid in self.tree():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(name + ":"):
                    total_kib += int(line.split()[1])
        return total_kib / 1024

    def last_words(self):
        return " ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]

    def settle(self, limit_s=20):
        """Wait until server and helpers use under 5 % of a core for a second, and nothing waits for the disk."""
        os.sync()
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            before = self.cpu_s()
            time.sleep(1)
            if self.cpu_s() - before < 0.05:
                return
