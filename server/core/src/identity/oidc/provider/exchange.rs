//! `token`: a client gets what a code, or itself, stands for.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Value, parameters};
use sha2::{Digest, Sha256};

use super::clients::{self, Client};
use super::codes::{Challenge, Granted};
use super::oauth::{
    ACCESS_DENIED, INVALID_CLIENT, INVALID_GRANT, INVALID_REQUEST, Refusal, Stop, basic, not_kept, refuse,
};
use super::providers::Provider;
use super::{OPENID, R, claims_of, is_assigned, known_scopes, map, signing, store};
use crate::identity::oidc::keys::{NamedKey, Signing};
use crate::identity::{IdentityBackend, resolve};
use crate::layout::SYSTEM;
use crate::tokens::{self, Issue};
use crate::tx::Tx;
use crate::{namespaces, random};

/// What an access token keeps for `userinfo`.
pub const CLIENT: &str = "oidc_client_id";
pub const PROVIDER: &str = "oidc_provider";
pub const SCOPES: &str = "oidc_scopes";
/// The namespace of its entity, which may be above the provider's.
pub const ENTITY_NAMESPACE: &str = "oidc_entity_namespace";

parameters! {
    pub struct Ask {
        /// authorization_code or client_credentials.
        grant_type: Option<String>,
        /// What `authorize` gave.
        code: Option<String>,
        /// As it was given to `authorize`.
        redirect_uri: Option<String>,
        /// The client, if it does not say so by `Authorization: Basic`.
        client_id: Option<String>,
        /// Its secret.
        client_secret: Option<String>,
        /// Fits the challenge that was given to `authorize` (RFC 7636).
        code_verifier: Option<String>,
        /// What a client asks for itself.
        scope: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/provider/{name}/token", "Tokens for a code, or for a client itself.", |p| {
        p.update(token).prepared(Operation::Update, prepare).unauthenticated()
    })
}

/// What is to be signed, and the rest of the answer.
struct Draft {
    key: Signing,
    claims: Map<String, Value>,
    /// The name of what is signed in the answer.
    signed_as: &'static str,
    answer: Map<String, Value>,
}

/// Who came, what for, and the code's use: all of it before the transaction, which changes nothing.
fn prepare(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Ask) -> Result<Option<Preparation>> {
    let drafted = match draft(backend, tx, call, p) {
        Ok(draft) => Ok(draft),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Failed(e)) => return Err(e),
    };
    let slow = backend.slow.clone();
    Ok(Some(Box::pin(async move {
        let outcome: Outcome = match drafted {
            Ok(Draft { key, claims, signed_as, mut answer }) => {
                answer.insert(signed_as.into(), signing::sign(slow, key, claims).await?.into());
                Ok(answer)
            }
            Err(refusal) => Err(refusal),
        };
        let outcome: Prepared = Arc::new(outcome);
        Ok(outcome)
    })))
}

type Outcome = std::result::Result<Map<String, Value>, Refusal>;

fn token(_: &IdentityBackend, _: &mut Tx, call: &Call<'_>, _: Ask) -> Result<Response> {
    match call.prepared.and_then(|p| p.downcast_ref::<Outcome>()) {
        Some(Ok(answer)) => Ok(not_kept(Response::bare(answer.clone()))),
        Some(Err(refusal)) => Ok(refusal.to_token()),
        None => Err(Error::Internal("no token was signed".into())),
    }
}

fn draft(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Ask) -> Result<Draft, Stop> {
    let provider =
        Provider::load(tx, call.capture("name"))?.ok_or_else(|| refuse(INVALID_REQUEST, "provider not found"))?;
    let (id, secret) = match basic(call) {
        Some(given) => given,
        None => (p.client_id.unwrap_or_default(), Secret::new(p.client_secret.unwrap_or_default())),
    };
    if id.is_empty() {
        return Err(refuse(INVALID_REQUEST, "client_id parameter is required").into());
    }
    let client = clients::by_id(tx, &id)?.filter(|c| c.knows(&secret));
    let client = client.ok_or_else(|| refuse(INVALID_CLIENT, "client failed to authenticate"))?;
    if !provider.allows(&id) {
        return Err(refuse(INVALID_CLIENT, "client is not authorized to use the provider").into());
    }
    let may = match p.grant_type.as_deref() {
        Some("authorization_code") => client.authorization_code,
        Some("client_credentials") => client.client_credentials && client.is_confidential(),
        _ => {
            let why = "unsupported grant_type or parameter is empty value";
            return Err(refuse("unsupported_grant_type", why).into());
        }
    };
    if !may {
        return Err(refuse(INVALID_GRANT, "client is not authorized to use given credentials flow").into());
    }
    let asked = Asked { backend, call, provider: &provider, client: &client };
    if p.grant_type.as_deref() == Some("client_credentials") {
        return asked.for_itself(tx, p.scope.as_deref().unwrap_or(""));
    }
    let code = p.code.unwrap_or_default();
    if code.is_empty() {
        return Err(refuse(INVALID_REQUEST, "code parameter is required").into());
    }
    let granted = backend.codes.take(tx.namespace(), &code, call.now);
    let granted = granted.ok_or_else(|| refuse(INVALID_GRANT, "authorization grant is invalid or expired"))?;
    let redirect_uri = p.redirect_uri.unwrap_or_default();
    asked.fits(&granted, &redirect_uri, p.code_verifier.as_deref().unwrap_or(""))?;
    asked.for_code(tx, granted, &code)
}

/// A client that has shown who it is.
struct Asked<'a> {
    backend: &'a IdentityBackend,
    call: &'a Call<'a>,
    provider: &'a Provider,
    client: &'a Client,
}

impl Asked<'_> {
    /// Whether a code is this client's, and the request the one that it was made for.
    fn fits(&self, granted: &Granted, redirect_uri: &str, verifier: &str) -> Result<(), Refusal> {
        if granted.client_id != self.client.id {
            return Err(refuse(INVALID_GRANT, "authorization code was not issued to the client"));
        }
        if granted.provider != self.provider.name {
            return Err(refuse(INVALID_GRANT, "authorization code was not issued by the provider"));
        }
        if redirect_uri.is_empty() {
            return Err(refuse(INVALID_REQUEST, "redirect_uri parameter is required"));
        }
        if redirect_uri != granted.redirect_uri {
            let why = "redirect_uri does not match the redirect_uri used in the authorization request";
            return Err(refuse(INVALID_GRANT, why));
        }
        let verified = match &granted.challenge {
            None if verifier.is_empty() => true,
            None => return Err(refuse(INVALID_REQUEST, "unexpected code_verifier for token exchange")),
            Some(_) if verifier.is_empty() => {
                return Err(refuse(INVALID_REQUEST, "expected code_verifier for token exchange"));
            }
            Some(Challenge::Plain(challenge)) => Secret::new(verifier.to_owned()).ct_eq(challenge),
            Some(Challenge::S256(challenge)) => {
                Secret::new(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))).ct_eq(challenge)
            }
        };
        match verified {
            true => Ok(()),
            false => Err(refuse(INVALID_GRANT, "invalid code_verifier for token exchange")),
        }
    }

    fn key(&self, tx: &mut Tx) -> Result<NamedKey, Stop> {
        let key = store::load::<NamedKey>(tx, &self.client.key)?
            .ok_or_else(|| Error::Internal(format!("the key {:?} of a client is gone", self.client.key)))?;
        match key.allows(&self.client.id) {
            true => {
                key.note_use(tx);
                Ok(key)
            }
            false => Err(refuse(INVALID_CLIENT, "client is not authorized to use the key").into()),
        }
    }

    /// The claims that every token has.
    fn claims(&self, tx: &mut Tx, subject: &str, secs: u64) -> Result<Map<String, Value>> {
        let now = self.call.now.secs();
        Ok(map([
            ("iss", self.provider.issuer(self.backend, tx)?.into()),
            ("sub", subject.into()),
            ("aud", self.client.id.clone().into()),
            ("iat", now.into()),
            ("exp", now.saturating_add(secs).into()),
            ("namespace", namespaces::id(tx)?.into()),
        ]))
    }

    fn for_itself(&self, tx: &mut Tx, scope: &str) -> Result<Draft, Stop> {
        if !scope.split(' ').any(|s| s == OPENID) {
            return Err(refuse(INVALID_REQUEST, "scope parameter must contain the \"openid\" value").into());
        }
        let key = self.key(tx)?;
        let secs = self.client.access_token_secs;
        let told = claims_of(tx, &known_scopes(self.provider, scope), None, self.call.now);
        let mut claims = told.map_err(in_template)?;
        claims.extend(self.claims(tx, &self.client.id, secs)?);
        claims.insert("jti".into(), random::uuid_text(&random::uuid()?).into());
        let answer = map([("expires_in", secs.into()), ("token_type", "Bearer".into())]);
        Ok(Draft { key: key.signing, claims, signed_as: "access_token", answer })
    }

    fn for_code(&self, tx: &mut Tx, granted: Granted, code: &str) -> Result<Draft, Stop> {
        let (namespace, entity) = &granted.entity;
        let who = tx.within(SYSTEM.of(*namespace), |tx| resolve(tx, entity))?.filter(|w| !w.entity.disabled);
        let who = who.ok_or_else(|| refuse(INVALID_REQUEST, "identity entity associated with request not found"))?;
        if !is_assigned(tx, self.client, &who)? {
            return Err(refuse(ACCESS_DENIED, "identity entity not authorized by client assignment").into());
        }
        let key = self.key(tx)?;
        let algorithm = key.signing.algorithm;
        let access_token = self.access_token(tx, &granted)?;
        let id_token_secs = self.client.id_token_secs.min(key.verification_secs);
        let mut claims = claims_of(tx, &granted.scopes, Some(&who), self.call.now).map_err(in_template)?;
        claims.extend(self.claims(tx, entity, id_token_secs)?);
        claims.insert("at_hash".into(), algorithm.half_hash(&access_token).into());
        claims.insert("c_hash".into(), algorithm.half_hash(code).into());
        if !granted.nonce.is_empty() {
            claims.insert("nonce".into(), granted.nonce.into());
        }
        if let Some(time) = granted.logged_in {
            claims.insert("auth_time".into(), time.into());
        }
        let answer = map([
            ("access_token", access_token.into()),
            ("expires_in", self.client.access_token_secs.into()),
            ("token_type", "Bearer".into()),
        ]);
        Ok(Draft { key: key.signing, claims, signed_as: "id_token", answer })
    }

    /// A batch token without a policy: no other route than `userinfo` takes it.
    fn access_token(&self, tx: &mut Tx, granted: &Granted) -> Result<String> {
        let (namespace, entity) = &granted.entity;
        let internal = [
            (CLIENT, self.client.id.clone()),
            (PROVIDER, self.provider.name.clone()),
            (SCOPES, granted.scopes.join(" ")),
            (ENTITY_NAMESPACE, random::uuid_text(namespace)),
        ];
        let issue = Issue {
            path: self.call.request.path.clone(),
            metadata: vec![("oidc_token_type".into(), "access token".into())],
            internal: internal.map(|(k, v)| (k.to_owned(), v)).to_vec(),
            ttl_secs: self.client.access_token_secs,
            entity_id: entity.clone(),
            batch: true,
            ..Issue::default()
        };
        Ok(tokens::issue(tx, issue, None, self.call.now)?.0)
    }
}

/// A template that makes no claims is the request's fault only as far as it asked for the scope.
fn in_template(e: Error) -> Stop {
    match e {
        Error::BadRequest(why) => refuse(INVALID_REQUEST, why.join("; ")).into(),
        other => other.into(),
    }
}
