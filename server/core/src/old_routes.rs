//! `sys/rekey`, `sys/rekey-recovery-key` and `sys/generate-root`: the acts of key holders as Vault has them,
//! for whoever comes without a token, which is why a listener must allow them by name. Strict JSON, bare answers. Nobody
//! is known who asks: the audit log has what changes something as an act of the server, once before it is done, without
//! which it is not done, and again with what came of it. The routes that ask for a token are `sys/rotate/*` and `sys/generate-root-token/*`.

use std::sync::Arc;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Map, Value};

use crate::audit::Act;
use crate::bare::{BareRequest, strict_bool, strict_int, strict_list, strict_object, strict_text};
use crate::ceremony::{self, Asked, Attempt, Outcome, Progress, Target};
use crate::init::root_token;
use crate::layout::ROOT;
use crate::seal_state::{Refusal, failed};
use crate::sys::rotate::{complete, fingerprints, verification_shown};
use crate::{Answer, Core, clock};

/// Which of them a listener allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct OldRoutes {
    pub rekey: bool,
    pub generate_root: bool,
}

const REFUSED: &str = "refused to somebody without a token";

type Shown = Result<Option<Map<String, Value>>, Refusal>;

impl Core {
    /// The answer of an old route; `None` if the path is not one.
    pub(crate) async fn old_route(self: &Arc<Self>, r: &BareRequest<'_>) -> Option<Answer> {
        let (family, tail) = r.path.strip_prefix("sys/")?.split_once('/')?;
        let (allowed, target) = match (family, tail) {
            ("rekey", "init" | "update" | "verify") => (r.old_routes.rekey, Some(Target::Root)),
            ("rekey-recovery-key", "init" | "update" | "verify") => (r.old_routes.rekey, Some(Target::Recovery)),
            ("generate-root", "attempt" | "update") => (r.old_routes.generate_root, None),
            _ => return None,
        };
        if !allowed {
            return Some(Answer::error(405, "unsupported operation"));
        }
        if !self.is_unsealed() {
            return Some(self.sealed_answer());
        }
        let verb = match r.method {
            "GET" if !r.query.iter().any(|(k, v)| k == "list" && v == "true") => "read",
            "POST" | "PUT" => "write",
            "DELETE" => "delete",
            _ => return Some(Answer::errors(405, &[])),
        };
        let body = match strict_object(if verb == "write" { r.body } else { b"" }) {
            Ok(b) => b,
            Err(text) => return Some(Answer::error(400, &text)),
        };
        if verb != "read"
            && let Err(refused) = self.announce(r.path, verb).await
        {
            return Some(refused);
        }
        let shown = match target {
            Some(Target::Recovery) if !self.has_device() => Err(Refusal(400, "recovery rekeying not supported".into())),
            Some(target) => self.rekey(target, (verb, tail), &body).await,
            None => self.old_generation((verb, tail), &body).await,
        };
        if let Err(Refusal(_, text)) = &shown
            && verb != "read"
            && let Some(open) = self.open()
        {
            self.did(&open, vec![self.about_node(r.path, REFUSED).failed(text)]);
        }
        Some(match shown {
            Ok(Some(map)) => Answer::bare(200, &map),
            Ok(None) => Answer::json(204, Vec::new()),
            Err(Refusal(405, _)) => Answer::errors(405, &[]),
            Err(Refusal(status, text)) => {
                Answer::error(status, &text.replace("rotate seal", "rekey seal").replace("rotation", "rekey"))
            }
        })
    }

    /// Let the audit log have what is about to be done. Else nothing is done.
    async fn announce(&self, path: &str, verb: &str) -> std::result::Result<(), Answer> {
        let Some(open) = self.open() else { return Ok(()) };
        let cause = match (verb, path.rsplit('/').next()) {
            ("delete", _) => "somebody without a token takes back what was begun or given",
            (_, Some("update" | "verify")) => "somebody without a token gives a share",
            _ => "somebody without a token begins it",
        };
        let operation = if verb == "delete" { "delete" } else { "update" };
        let act = Act::new(operation, path, cause).plain("node", self.node_id().unwrap_or("node"));
        self.will_do(&open, act).await.map_err(|e| Answer::failure(&e))
    }

    async fn rekey(self: &Arc<Self>, target: Target, route: (&str, &str), body: &Map<String, Value>) -> Shown {
        let bad = |text: String| Refusal(400, text);
        Ok(match route {
            ("read", "init") => {
                let (progress, required) = self.rotation(ROOT, target)?;
                Some(progress.map_or_else(|| nothing(required), |p| shown(&p)))
            }
            ("write", "init") => {
                let asked = Asked {
                    shares: strict_int(body, "secret_shares").map_err(bad)?,
                    threshold: strict_int(body, "secret_threshold").map_err(bad)?,
                    pgp_keys: strict_list(body, "pgp_keys").map_err(bad)?,
                    backup: strict_bool(body, "backup").map_err(bad)?,
                    verify: strict_bool(body, "require_verification").map_err(bad)?,
                };
                if asked.backup && asked.pgp_keys.is_empty() {
                    let text = "cannot request a backup of the new keys without providing PGP keys for encryption";
                    return Err(bad(text.into()));
                }
                // Nobody is known here who could make the first shares of a store.
                Some(outcome(self.begin_rotation(ROOT, target, &asked, false).await?, shown))
            }
            ("delete", "init") => {
                self.cancel_rotation(ROOT, target).await?;
                None
            }
            ("write", "update") => {
                let (nonce, share) = given(body)?;
                let given = self.give_rotation_share(ROOT, target, &nonce, share).await?;
                self.tell_of_rekey(target, route.1, &given);
                Some(outcome(given, shown))
            }
            ("read", "verify") => {
                let progress = self.rotation(ROOT, target)?.0.filter(|p| !p.verification_nonce.is_empty());
                let progress = progress.ok_or_else(|| bad("no rotation configuration found".into()))?;
                Some(verification_shown(&progress))
            }
            ("write", "verify") => {
                let (nonce, share) = given(body)?;
                let given = self.verify_rotation_share(ROOT, target, &nonce, share).await?;
                self.tell_of_rekey(target, route.1, &given);
                Some(outcome(given, verification_shown))
            }
            ("delete", "verify") => Some(verification_shown(&self.restart_verification(ROOT, target).await?)),
            _ => return Err(Refusal(405, String::new())),
        })
    }

    /// There are new shares.
    fn tell_of_rekey(self: &Arc<Self>, target: Target, tail: &str, outcome: &Outcome) {
        let cause = match outcome {
            Outcome::More(_) => return,
            Outcome::Complete { progress, .. } if !progress.verification_nonce.is_empty() => {
                "holders of shares had new shares made, without a token; they count once they are given back"
            }
            Outcome::Complete { .. } => "holders of shares replaced them, without a token",
            Outcome::Verified { .. } => "holders of new shares gave them back, without a token: they count from now on",
        };
        let family = match target {
            Target::Root => "rekey",
            Target::Recovery => "rekey-recovery-key",
        };
        let path = format!("sys/{family}/{tail}");
        tracing::warn!(%path, "{cause}");
        if let Some(open) = self.open() {
            self.did(&open, vec![self.about_node(&path, cause)]);
        }
    }

    async fn old_generation(self: &Arc<Self>, route: (&str, &str), body: &Map<String, Value>) -> Shown {
        let bad = |text: String| Refusal(400, text);
        Ok(match route {
            ("read", "attempt") => {
                let present = self.root_generation(ROOT)?;
                Some(attempt(&present, present.token_bytes))
            }
            ("write", "attempt") => {
                let otp = Secret::new(strict_text(body, "otp").map_err(bad)?);
                let pgp_key = strict_text(body, "pgp_key").map_err(bad)?;
                let begun = self.begin_root_generation(ROOT, otp.expose(), &pgp_key).await?;
                Some(attempt(&begun, begun.token_bytes))
            }
            ("delete", "attempt") => {
                self.cancel_root_generation(ROOT).await?;
                None
            }
            ("write", "update") => {
                let (nonce, share) = given(body)?;
                let done = self.give_generation_share(ROOT, &nonce, share).await?;
                if let Some(made) = &done.made {
                    let open = self.open().ok_or_else(|| Refusal(503, "Vault is sealed".into()))?;
                    let cause = "holders of shares made a root token, without a token of their own";
                    let stored = self.act(&open, |tx, acts| {
                        acts.push(self.about_node("sys/generate-root/update", cause));
                        root_token(tx, made.token.expose(), clock::now())
                    });
                    stored.await.map_err(failed)?;
                    tracing::warn!("a root token was made by shares, through sys/generate-root");
                }
                Some(attempt(&done, 0))
            }
            _ => return Err(Refusal(405, String::new())),
        })
    }
}

/// The nonce and the share of a body.
pub(crate) fn given(body: &Map<String, Value>) -> Result<(String, Secret<Vec<u8>>), Refusal> {
    let bad = |text: String| Refusal(400, text);
    let key = Secret::new(strict_text(body, "key").map_err(bad)?);
    let nonce = strict_text(body, "nonce").map_err(bad)?;
    if key.expose().is_empty() {
        return Err(bad("'key' must be specified in request body as JSON".into()));
    }
    let share = ceremony::share(key.expose());
    Ok((nonce, share.ok_or_else(|| bad("'key' must be a valid hex or base64 string".into()))?))
}

fn outcome(outcome: Outcome, more: fn(&Progress) -> Map<String, Value>) -> Map<String, Value> {
    let (mut m, warnings) = match outcome {
        Outcome::More(progress) => return more(&progress),
        Outcome::Complete { progress, keys, warnings } => (complete(&progress, &keys), warnings),
        Outcome::Verified { nonce, warnings } => {
            let mut m = Map::new();
            m.insert("nonce".into(), nonce.into());
            m.insert("complete".into(), true.into());
            (m, warnings)
        }
    };
    if !warnings.is_empty() {
        m.insert("warnings".into(), warnings.into());
    }
    m
}

fn nothing(required: u8) -> Map<String, Value> {
    status(("", false), (0, 0), (0, required), Value::Null, (false, false))
}

fn shown(p: &Progress) -> Map<String, Value> {
    let counts = ((p.threshold, p.shares), (p.given, p.required));
    let mut m = status((&p.nonce, true), counts.0, counts.1, fingerprints(p), (p.backup, p.verify));
    if !p.verification_nonce.is_empty() {
        m.insert("verification_nonce".into(), p.verification_nonce.clone().into());
    }
    m
}

fn status(
    (nonce, started): (&str, bool),
    (threshold, shares): (u8, u8),
    (given, required): (usize, u8),
    fingerprints: Value,
    (backup, verify): (bool, bool),
) -> Map<String, Value> {
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("nonce", nonce.into());
    set("started", started.into());
    set("t", threshold.into());
    set("n", shares.into());
    set("progress", given.into());
    set("required", required.into());
    set("pgp_fingerprints", fingerprints);
    set("backup", backup.into());
    set("verification_required", verify.into());
    m
}

pub(crate) fn attempt(a: &Attempt, otp_length: usize) -> Map<String, Value> {
    let encoded = a.made.as_ref().map_or("", |m| m.encoded.as_str());
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("nonce", a.nonce.clone().into());
    set("started", a.started.into());
    set("progress", a.given.into());
    set("required", a.required.into());
    set("complete", a.made.is_some().into());
    set("encoded_token", encoded.into());
    set("encoded_root_token", encoded.into());
    set("pgp_fingerprint", a.fingerprint.clone().into());
    set("otp", a.otp.as_ref().map_or_else(String::new, |o| o.expose().clone()).into());
    set("otp_length", otp_length.into());
    m
}
