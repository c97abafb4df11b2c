"""A database's credentials with hvac, from the first call to the last; the last line says that all went as expected."""
import os
import subprocess
import sys

import hvac
from hvac.exceptions import InvalidRequest

port, user, password, create = sys.argv[1:]
c = hvac.Client(url=os.environ["VAULT_ADDR"], verify=os.environ["VAULT_CACERT"], token=os.environ["VAULT_TOKEN"])


def psql(creds, statement):
    """What the user of these credentials is answered; none: it is refused."""
    data = creds["data"]
    environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": data["password"], "PGCONNECT_TIMEOUT": "30"}
    asked = subprocess.run(["psql", "-X", "-At", "-h", "127.0.0.1", "-p", port, "-U", data["username"], "-d", "shop", "-c", statement],
                           env=environment, text=True, capture_output=True, timeout=60)
    return asked.stdout.split() if asked.returncode == 0 else None


c.sys.enable_secrets_engine("database")
db = c.secrets.database
db.configure(name="mydb", plugin_name="postgresql-database-plugin", allowed_roles=["readonly"], username=user, password=password,
             connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/shop?sslmode=disable")
assert db.list_connections()["data"]["keys"] == ["mydb"]
assert db.read_connection("mydb")["data"]["connection_details"]["username"] == user
db.rotate_root_credentials("mydb")
db.create_role(name="readonly", db_name="mydb", creation_statements=[create], default_ttl="1h", max_ttl="24h")
assert db.list_roles()["data"]["keys"] == ["readonly"]
assert db.read_role("readonly")["data"]["max_ttl"] == 24 * 3600

first, second, third = (db.generate_credentials("readonly") for _ in range(3))
assert psql(first, "SELECT name FROM things ORDER BY n") == ["one", "two"]
assert psql(first, "DELETE FROM things") is None
lease = first["lease_id"]
assert c.sys.read_lease(lease)["data"]["renewable"]
assert 3590 <= c.sys.renew_lease(lease)["lease_duration"] <= 3600
assert c.sys.renew_lease(lease, increment=1800)["lease_duration"] == 1800
assert c.sys.list_leases(prefix="database/creds")["data"]["keys"] == ["readonly/"]
assert len(c.sys.list_leases(prefix="database/creds/readonly")["data"]["keys"]) == 3

c.sys.revoke_lease(lease)
assert psql(first, "SELECT 1") is None and psql(second, "SELECT 1") == ["1"]
try:
    c.sys.read_lease(lease)
    raise AssertionError("a lease that was revoked is still there")
except InvalidRequest:
    pass
c.sys.revoke_prefix("database/creds/readonly")
assert psql(second, "SELECT 1") is None and psql(third, "SELECT 1") is None
db.delete_role("readonly")
db.delete_connection("mydb")
print("every step as expected")
