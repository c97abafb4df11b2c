"""A service that people log in to, written with Authlib: discovery, PKCE, code, tokens and who it was; and hvac's calls."""
import os
from urllib.parse import parse_qs, urlsplit

import hvac
import requests
from authlib.common.security import generate_token
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import OpenIDProviderMetadata
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet

address, ca, root = os.environ["VAULT_ADDR"], os.environ["VAULT_CACERT"], os.environ["VAULT_TOKEN"]
CALLBACK = "https://app.example/callback"
c = hvac.Client(url=address, verify=ca, token=root)
get = lambda url, **more: requests.get(url, verify=ca, timeout=60, **more)

# Somebody, and the services.
c.sys.enable_auth_method("userpass")
c.auth.userpass.create_or_update_user("ann", "pw")
entity = c.auth.userpass.login("ann", "pw", use_token=False)["auth"]["entity_id"]
c.secrets.identity.update_entity(entity, name="ann", metadata={"mail": "ann@example.com"})
c.secrets.identity.create_or_update_group(name="ops", member_entity_ids=[entity])
c.write("identity/oidc/scope/profile", template='{"mail": {{identity.entity.metadata.mail}}, "groups": {{identity.entity.groups.names}}}')
c.write("identity/oidc/assignment/staff", entity_ids=[entity])
for name, kind in (("shop", "confidential"), ("phone", "public")):
    c.write(f"identity/oidc/client/{name}", redirect_uris=[CALLBACK], assignments=["staff"], client_type=kind)
clients = {name: c.read(f"identity/oidc/client/{name}")["data"] for name in ("shop", "phone")}
# Services know the server by this address.
c.write("identity/oidc/provider/house", issuer=address, allowed_client_ids=[x["client_id"] for x in clients.values()], scopes_supported=["profile"])

# What the provider says of itself is what the standard asks for.
metadata = OpenIDProviderMetadata(get(f"{address}/v1/identity/oidc/provider/house/.well-known/openid-configuration").json())
metadata.validate()
keys = lambda: KeySet.import_key_set(get(metadata["jwks_uri"]).json())


def session(client, secret_by="client_secret_basic"):
    secret = client.get("client_secret")
    s = OAuth2Session(client["client_id"], secret, scope="openid profile", redirect_uri=CALLBACK,
                      code_challenge_method="S256", token_endpoint_auth_method=secret_by if secret else "none")
    s.verify, s.trust_env = ca, False
    return s


def logged_in(session, **more):
    """What the person's browser comes back with."""
    verifier, nonce = generate_token(48), generate_token(20)
    url, state = session.create_authorization_url(metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce, **more)
    # The page of the user interface asks the API so, for whoever is logged in there.
    api = metadata["authorization_endpoint"].replace("/ui/vault/", "/v1/")
    token = c.auth.userpass.login("ann", "pw", use_token=False)["auth"]["client_token"]
    answer = get(api, params={k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}, headers={"X-Vault-Token": token})
    assert answer.status_code == 200 and answer.json()["state"] == state, answer.text
    return f"{CALLBACK}?code={answer.json()['code']}&state={state}", verifier, nonce, state


for name, secret_by in (("shop", "client_secret_basic"), ("shop", "client_secret_post"), ("phone", None)):
    client = clients[name]
    s = session(client, secret_by)
    back, verifier, nonce, state = logged_in(s, max_age=3600)
    token = s.fetch_token(metadata["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier)
    decoded = jwt.decode(token["id_token"], keys(), algorithms=["RS256"])
    claims = CodeIDToken(decoded.claims, decoded.header, params={"nonce": nonce, "max_age": 3600, "client_id": client["client_id"], "access_token": token["access_token"]},
                         options={"iss": {"value": metadata["issuer"]}, "aud": {"value": client["client_id"]}})
    claims.validate(leeway=5)
    assert claims["sub"] == entity and claims["mail"] == "ann@example.com" and claims["groups"] == ["ops"], claims
    who = s.get(metadata["userinfo_endpoint"]).json()
    assert who == {"sub": entity, "mail": "ann@example.com", "groups": ["ops"]}, who
    try:
        s.fetch_token(metadata["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier)
        raise AssertionError("a code served twice")
    except OAuthError as error:
        assert error.error == "invalid_grant", error
    # Another verifier, another secret.
    back, verifier, nonce, state = logged_in(s)
    try:
        s.fetch_token(metadata["token_endpoint"], authorization_response=back, state=state, code_verifier=generate_token(48))
        raise AssertionError("a verifier that does not fit")
    except OAuthError as error:
        assert error.error == "invalid_grant", error
try:
    session({**clients["shop"], "client_secret": "hvo_secret_no"}).fetch_token(metadata["token_endpoint"], code="x", grant_type="authorization_code")
    raise AssertionError("a wrong secret")
except OAuthError as error:
    assert error.error == "invalid_client", error

# A rotated key: what it signed is verified by the published keys, and what was changed is not.
old = token["id_token"]
c.write("identity/oidc/key/default/rotate")
assert jwt.decode(old, keys(), algorithms=["RS256"]).claims["sub"] == entity
header, body, signature = old.split(".")
try:
    jwt.decode(f"{header}.{body}.{'A' * len(signature)}", keys(), algorithms=["RS256"])
    raise AssertionError("a forged token")
except BadSignatureError:
    pass
print("every step as expected")
