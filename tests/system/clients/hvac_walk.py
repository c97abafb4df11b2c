"""What an application does with hvac: each step is checked; the last line says that all were."""
import os

import hvac
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest

address, ca, root = os.environ["VAULT_ADDR"], os.environ["VAULT_CACERT"], os.environ["VAULT_TOKEN"]


def client(token=None):
    return hvac.Client(url=address, verify=ca, token=token)


def refused(kind, call, *texts, **arguments):
    """The call raises this kind of error, and every text is in it."""
    try:
        call(**arguments)
    except kind as error:
        for text in texts:
            assert text in str(error), f"{text!r} is not in {error}"
        return error
    raise AssertionError(f"{call} was not refused")


c = client(root)

# The state of the server.
assert c.sys.is_initialized() and not c.sys.is_sealed()
status = c.sys.read_seal_status()
assert status["type"] == "pkcs11" and status["recovery_seal"] and (status["t"], status["n"]) == (2, 3), status
assert status["storage_type"] in ("file", "raft") and status["cluster_name"] and status["cluster_id"], status
health = c.sys.read_health_status(method="GET")
assert health["initialized"] and not health["sealed"] and not health["standby"], health
assert c.sys.read_health_status(method="HEAD").status_code == 200
assert c.sys.read_leader_status()["ha_enabled"] is (status["storage_type"] == "raft")
assert c.is_authenticated() and not client("hvs.unknown").is_authenticated()
assert c.sys.read_key_status()["data"]["term"] >= 1 if hasattr(c.sys, "read_key_status") else True
assert c.key_status["term"] == 1 if hasattr(c, "key_status") else True

# kv v2: write, read, versions.
kv = c.secrets.kv.v2
first = kv.create_or_update_secret("app/db", {"user": "alice", "password": "pa55 wörd"}, mount_point="secret")
assert first["data"]["version"] == 1, first
kv.create_or_update_secret("app/db", {"user": "bob"}, mount_point="secret")
read = kv.read_secret_version("app/db", mount_point="secret", raise_on_deleted_version=True)
assert read["data"]["data"] == {"user": "bob"} and read["data"]["metadata"]["version"] == 2, read
read = kv.read_secret_version("app/db", version=1, mount_point="secret", raise_on_deleted_version=True)
assert read["data"]["data"] == {"user": "alice", "password": "pa55 wörd"}, read
metadata = kv.read_secret_metadata("app/db", mount_point="secret")["data"]
assert sorted(metadata["versions"]) == ["1", "2"] and metadata["current_version"] == 2, metadata

# Check-and-set.
assert kv.create_or_update_secret("app/new", {"a": 1}, cas=0, mount_point="secret")["data"]["version"] == 1
refused(InvalidRequest, kv.create_or_update_secret, "check-and-set parameter did not match the current version",
        path="app/new", secret={"a": 2}, cas=0, mount_point="secret")
assert kv.create_or_update_secret("app/new", {"a": 2}, cas=1, mount_point="secret")["data"]["version"] == 2

# Patch, list, delete, undelete, destroy.
kv.patch("app/db", {"role": "reader"}, mount_point="secret")
assert kv.read_secret_version("app/db", mount_point="secret", raise_on_deleted_version=True)["data"]["data"] == {"user": "bob", "role": "reader"}
assert kv.list_secrets("app", mount_point="secret")["data"]["keys"] == ["db", "new"]
assert kv.list_secrets("", mount_point="secret")["data"]["keys"] == ["app/"]
kv.delete_latest_version_of_secret("app/db", mount_point="secret")
gone = refused(InvalidPath, kv.read_secret_version, path="app/db", mount_point="secret", raise_on_deleted_version=True)
assert gone.json["data"]["data"] is None and gone.json["data"]["metadata"]["deletion_time"], gone.json
kv.undelete_secret_versions("app/db", [3], mount_point="secret")
assert kv.read_secret_version("app/db", mount_point="secret", raise_on_deleted_version=True)["data"]["metadata"]["version"] == 3
kv.destroy_secret_versions("app/db", [1], mount_point="secret")
refused(InvalidPath, kv.read_secret_version, path="app/db", version=1, mount_point="secret", raise_on_deleted_version=True)
kv.update_metadata("app/new", max_versions=3, custom_metadata={"team": "red"}, mount_point="secret")
assert kv.read_secret_metadata("app/new", mount_point="secret")["data"]["custom_metadata"] == {"team": "red"}
kv.delete_metadata_and_all_versions("app/new", mount_point="secret")
assert kv.list_secrets("app", mount_point="secret")["data"]["keys"] == ["db"]
refused(InvalidPath, kv.list_secrets, path="nothing", mount_point="secret")

# Mounts.
c.sys.enable_secrets_engine("kv", path="other", options={"version": "1"})
assert c.sys.list_mounted_secrets_engines()["data"]["other/"]["type"] == "kv"
c.secrets.kv.v1.create_or_update_secret("x", {"y": "z"}, mount_point="other")
assert c.secrets.kv.v1.read_secret("x", mount_point="other")["data"] == {"y": "z"}
c.sys.disable_secrets_engine("other")
assert "other/" not in c.sys.list_mounted_secrets_engines()["data"]

# A policy, a token under it, and what it may do.
rules = """
path "secret/data/app/*" { capabilities = ["create", "read", "update"] }
path "secret/data/app/locked" { capabilities = ["deny"] }
path "secret/metadata/app/" { capabilities = ["list"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"""
c.sys.create_or_update_policy("app", rules)
assert c.sys.read_policy("app")["data"]["rules"] == rules
assert "app" in c.sys.list_policies()["data"]["policies"]
made = c.auth.token.create(policies=["app"], ttl="1h", no_default_policy=True, meta={"service": "web"})["auth"]
assert made["policies"] == ["app"] and made["lease_duration"] == 3600 and made["renewable"], made
app = client(made["client_token"])
own = app.auth.token.lookup_self()["data"]
assert own["policies"] == ["app"] and own["meta"] == {"service": "web"} and 3590 <= own["ttl"] <= 3600, own
app.secrets.kv.v2.create_or_update_secret("app/web", {"k": "v"}, mount_point="secret")
assert app.secrets.kv.v2.read_secret_version("app/web", mount_point="secret", raise_on_deleted_version=True)["data"]["data"] == {"k": "v"}
assert app.secrets.kv.v2.list_secrets("app", mount_point="secret")["data"]["keys"] == ["db", "web"]
denied = "1 error occurred:\n\t* permission denied\n\n"
refused(Forbidden, app.secrets.kv.v2.read_secret_version, denied, path="other", mount_point="secret", raise_on_deleted_version=True)
refused(Forbidden, app.secrets.kv.v2.create_or_update_secret, denied, path="app/locked", secret={"a": "b"}, mount_point="secret")
refused(Forbidden, app.secrets.kv.v2.delete_latest_version_of_secret, denied, path="app/web", mount_point="secret")
refused(Forbidden, app.sys.list_policies, denied)
refused(Forbidden, app.auth.token.create, denied, policies=["root"])
bad = refused(Forbidden, client("hvs.unknown").secrets.kv.v2.read_secret_version, "permission denied", path="app/db", mount_point="secret", raise_on_deleted_version=True)
assert "1 error occurred" not in str(bad), bad

# Lookup, renewal and revocation, by token and by accessor.
assert c.auth.token.lookup(made["client_token"])["data"]["accessor"] == made["accessor"]
assert c.auth.token.lookup_accessor(made["accessor"])["data"]["id"] == ""
assert made["accessor"] in c.auth.token.list_accessors()["data"]["keys"]
assert app.auth.token.renew_self(increment="30m")["auth"]["lease_duration"] == 1800
assert c.auth.token.renew_accessor(made["accessor"], increment="40m")["auth"]["lease_duration"] == 2400
child = c.auth.token.create(policies=["app"], ttl="10m")["auth"]
c.auth.token.revoke(child["client_token"])
refused(Forbidden, client(child["client_token"]).auth.token.lookup_self, "permission denied")
c.auth.token.revoke_accessor(made["accessor"])
refused(Forbidden, app.secrets.kv.v2.read_secret_version, "permission denied", path="app/web", mount_point="secret", raise_on_deleted_version=True)
c.sys.delete_policy("app")
assert "app" not in c.sys.list_policies()["data"]["policies"]

print("every step as expected")
