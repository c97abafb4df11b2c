"""hvac and two nodes, of which one is active: health, leader, members, handing over."""
import os
import sys
import time

import hvac

root = os.environ["VAULT_TOKEN"]
clients = {address: hvac.Client(url=address, token=root) for address in sys.argv[1:]}


def until(what, text):
    end = time.monotonic() + 240
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {text}")


def active():
    """The active node's address and the other's, when both say so."""
    health = {}
    for address, client in clients.items():
        answer = client.sys.read_health_status(method="GET")
        health[address] = answer if isinstance(answer, dict) else answer.json()
    leading = [a for a, h in health.items() if not h["sealed"] and not h["standby"]]
    standing_by = [a for a, h in health.items() if not h["sealed"] and h["standby"]]
    return (leading[0], standing_by[0]) if len(leading) == 1 and len(standing_by) == 1 else None


leader, standby = until(active, "one active node and one that stands by")
assert clients[leader].sys.read_health_status(method="HEAD").status_code == 200
assert clients[standby].sys.read_health_status(method="HEAD").status_code == 429
# hvac sends what is asked for with GET alone, and gives the JSON of an answer that is a good one.
assert clients[standby].sys.read_health_status(method="GET", standby_ok=True)["standby"] is True
for address, client in clients.items():
    status = client.sys.read_leader_status()
    assert status["ha_enabled"] and status["is_self"] is (address == leader), status
    assert status["leader_address"] == leader, status
    servers = client.sys.read_raft_config()["data"]["config"]["servers"]
    assert sorted(s["node_id"] for s in servers) == ["n0", "n1"] and sum(s["leader"] for s in servers) == 1, servers

# Both are one service.
clients[standby].secrets.kv.v2.create_or_update_secret("app", secret={"user": "alice"}, mount_point="secret")
for client in clients.values():
    assert client.secrets.kv.v2.read_secret_version("app", mount_point="secret", raise_on_deleted_version=True)[
        "data"]["data"] == {"user": "alice"}
with clients[standby].sys.take_raft_snapshot() as snapshot:
    assert snapshot.status_code == 200 and snapshot.content[:2] == b"\x1f\x8b"


# Snapshots that are made by themselves, as hvac asks for them.
sys_ = clients[standby].sys
sys_.create_or_update_raft_auto_snapshot_config(
    name="daily", interval="24h", storage_type="local", retain=3, path_prefix="/nowhere", local_max_space=1000000)
assert sys_.list_raft_auto_snapshot_configs()["data"]["keys"] == ["daily"]
plan = sys_.read_raft_auto_snapshot_config("daily")["data"]
assert (plan["interval"], plan["retain"], plan["storage_type"]) == (86400, 3, "local"), plan
assert sys_.read_raft_auto_snapshot_status("daily")["data"]["consecutive_errors"] == 0
sys_.delete_raft_auto_snapshot_config("daily")

clients[leader].sys.step_down()
until(lambda: active() == (standby, leader), "the other node to take over")
assert clients[leader].sys.read_health_status(method="HEAD").status_code == 429
print("every step as expected")
