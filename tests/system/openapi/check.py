"""The OpenAPI document is valid, has every route that is built, and each of its routes has help."""
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

import requests
from openapi_spec_validator import OpenAPIV30SpecValidator

address, ca, root = os.environ["VAULT_ADDR"], os.environ["VAULT_CACERT"], os.environ["VAULT_TOKEN"]
VERBS = ("get", "post", "patch", "delete")
# As in the reference, they look for a wrapping token first, whatever is asked.
WITHOUT_HELP = {"/sys/wrapping/unwrap", "/sys/wrapping/rewrap", "/sys/wrapping/lookup"}
session = requests.Session()
session.trust_env = False
session.verify = ca


def ask(method, path, token=root, **more):
    headers = {"X-Vault-Token": token} if token else {}
    return session.request(method, f"{address}/v1/{path}", headers=headers, timeout=60, **more)


def document(query="", token=root):
    answer = ask("GET", f"sys/internal/specs/openapi{query}", token)
    assert answer.status_code == 200, answer.text
    return answer.json()


def faults(of):
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in OpenAPIV30SpecValidator(of).iter_errors()]


def plain(path):
    """A path whose parameters have no names."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/")


assert ask("POST", "sys/mounts/kv1", json={"type": "kv"}).status_code == 204
wrong = []
for query, token in (("", root), ("?generic_mount_paths=true", root), ("", None)):
    wrong += [f"document{query}, token {bool(token)}: {fault}" for fault in faults(document(query, token))]

paths = document()["paths"]
declared = {}
for path, item in paths.items():
    declared.setdefault(plain(path), set()).update(verb.upper() for verb in VERBS if verb in item)
for line in Path(__file__).with_name("routes.txt").read_text().splitlines():
    if line.startswith("#"):
        continue
    path, *words = line.split()
    part = next((w for w in words if w.startswith("not-built:")), None)
    missing = {w for w in words if w != part} - declared.get(plain(path), set())
    if missing and not part:
        wrong.append(f"{path}: {' '.join(sorted(missing))} missing")
    if part and not missing:
        wrong.append(f"{path} is there: its {part} in routes.txt can go")

for path in sorted(paths.keys() - WITHOUT_HELP):
    answer = ask("GET", quote(re.sub(r"\{[^}]*\}", "x", path).lstrip("/")), params={"help": "1"})
    text = answer.json().get("help", "") if answer.status_code == 200 else ""
    if "Matching Route: " not in text or not paths[path]["description"]:
        wrong.append(f"{path}: no help ({answer.status_code})")

if wrong:
    sys.exit("\n".join(wrong))
print(f"{len(paths)} paths, every one as expected")
