"""The part `users`: many users in a database, each with a lease, that are all revoked at once, while others read."""
import os
import subprocess
import time

import load
from leases import Reader
from load import Request
from process import Broken
from servers import free_port

USERS = 100_000
# Redis makes and drops a user faster than any other database: what is measured is the server.
CREATION = '["+@read", "~app:*"]'


class Redis:
    """One of its own, in memory, as whoever runs this."""

    def __init__(self, folder):
        folder.mkdir()
        self.port = free_port()
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(folder), "--requirepass", "bench"], stdout=subprocess.DEVNULL)

    def __enter__(self):
        end = time.monotonic() + 10
        while self.ask("PING") != "PONG":
            if time.monotonic() > end:
                raise Broken("redis-server does not answer")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, *words):
        env = {**os.environ, "REDISCLI_AUTH": "bench"}
        return subprocess.run(["redis-cli", "-p", str(self.port), *words], env=env, capture_output=True, text=True).stdout.strip()

    def users(self):
        return len(self.ask("ACL", "USERS").splitlines()) - 1


def measure(site):
    from parts import Row     # it lists this part
    with Redis(site.place("redis")) as redis, site.holdfast() as holdfast:
        root = holdfast.root()
        root.ok("POST", "sys/mounts/database", {"type": "database"})
        root.ok("POST", "database/config/redis", {
            "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": redis.port,
            "username": "default", "password": "bench", "allowed_roles": "*"})
        root.ok("POST", "database/roles/bench", {
            "db_name": "redis", "creation_statements": CREATION, "default_ttl": "24h", "max_ttl": "48h"})
        made = load.once(holdfast, Request("GET", "database/creds/bench", keys=USERS, plain=True, token=holdfast.root_token))
        # wrk asks for a few more until it is told to stop.
        if (there := redis.users()) < USERS:
            raise Broken(f"{there:,} users of {USERS:,} are there")
        yield Row("users made a second", USERS / made["seconds"], "users", note=f"{USERS:,} in Redis, 64 connections")
        reader, begin = Reader(holdfast), time.monotonic()
        reader.start()
        root.ok("POST", "sys/leases/revoke-prefix/database/creds/bench", {"sync": False})
        while redis.users():
            if time.monotonic() - begin > 1800:
                raise Broken(f"{redis.users():,} users are left")
            time.sleep(0.5)
        took = time.monotonic() - begin
        longest = reader.end()
        yield Row(f"revoke-prefix of {USERS:,} users, a second", there / took, "users", note=f"{took:.0f} s")
        yield Row("longest read meanwhile", longest, "ms", at_most=1000, note=f"{reader.reads:,} reads")
