//! Whether a login has the second factors that it needs.

use std::collections::HashSet;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Error, Map, Result, Timestamp, Value};

use super::attempts::Attempts;
use super::enforcements::{Enforcement, Who};
use super::methods::{self, Kind, Method};
use super::secrets;
use crate::identity::map;
use crate::random::{self, uuid_text};
use crate::tx::Tx;

/// One of these methods has to be satisfied.
pub struct Demand {
    enforcement: String,
    methods: Vec<Method>,
}

/// Codes by what they are for: the id of a method, or its name.
pub type Factors = Vec<(String, Vec<Secret<String>>)>;

/// What a login needs beside what it has shown.
pub fn demanded(tx: &mut Tx, enforcements: Vec<Enforcement>, who: &Who<'_>) -> Result<Vec<Demand>> {
    let mut demands = Vec::new();
    for enforcement in enforcements.into_iter().filter(|e| e.counts_for(who)) {
        let mut found = Vec::new();
        for id in enforcement.method_ids.iter().filter_map(|id| random::parse_uuid(id)) {
            found.extend(methods::find(tx, &id)?.map(|(_, method)| method));
        }
        demands.push(Demand { enforcement: enforcement.name, methods: found });
    }
    Ok(demands)
}

impl Demand {
    fn shown(&self) -> Value {
        let methods = self.methods.iter().map(|m| {
            let mut shown = map([("type", m.kind.word().into()), ("id", uuid_text(&m.id).into())]);
            if m.kind.uses_passcode() {
                shown.insert("uses_passcode".into(), true.into());
            }
            if !m.name.is_empty() {
                shown.insert("name".into(), m.name.clone().into());
            }
            Value::Object(shown)
        });
        Value::Object(map([("any", Value::Array(methods.collect()))]))
    }
}

/// As an answer tells what is needed.
pub fn constraints(demands: &[Demand]) -> Map<String, Value> {
    demands.iter().map(|d| (d.enforcement.clone(), d.shown())).collect()
}

/// Factors of `X-Vault-MFA`: `METHOD`, `METHOD:CODE` or `METHOD:passcode=CODE`.
pub fn of_headers(headers: &[Secret<String>]) -> Factors {
    let mut factors = Factors::new();
    for header in headers {
        let (method, code) = match header.expose().split_once(':') {
            Some((method, code)) => (method, Some(code)),
            None => (header.expose().as_str(), None),
        };
        let code = code.map(|c| Secret::new(c.to_owned()));
        match factors.iter_mut().find(|(m, _)| m == method) {
            Some((_, codes)) => codes.extend(code),
            None => factors.push((method.to_owned(), code.into_iter().collect())),
        }
    }
    factors
}

/// Refuse a login that lacks one of the factors that it needs. What counted is written: it counts once.
pub fn require(
    tx: &mut Tx,
    attempts: &Attempts,
    demands: &[Demand],
    entity: Option<[u8; 16]>,
    factors: &Factors,
    now: Timestamp,
) -> Result<()> {
    let mut counted = HashSet::new();
    for demand in demands {
        let name = &demand.enforcement;
        let refused =
            |why: &str| Err(Error::Status(403, vec![format!("failed to satisfy enforcement {name}. error: {why}")]));
        let given = |m: &&Method| factors.iter().any(|(of, _)| is_of(of, m));
        let Some(_) = demand.methods.iter().find(given) else {
            return refused("failed to find MFA credentials associated with one of its methods");
        };
        let (mut satisfied, mut why) = (false, String::new());
        for method in demand.methods.iter().filter(given) {
            if counted.contains(&method.id) {
                satisfied = true;
                break;
            }
            let codes: Vec<&Secret<String>> =
                factors.iter().filter(|(of, _)| is_of(of, method)).flat_map(|(_, codes)| codes).collect();
            match satisfies(tx, attempts, method, entity, &codes, now)? {
                Ok(()) => {
                    counted.insert(method.id);
                    satisfied = true;
                    break;
                }
                Err(text) => why = text,
            }
        }
        if !satisfied {
            return refused(&why);
        }
    }
    Ok(())
}

fn is_of(of: &str, method: &Method) -> bool {
    of == uuid_text(&method.id) || (!method.name.is_empty() && of == method.name)
}

const INCORRECT: &str = "MFA credentials not supplied or incorrect";

/// Whether a code is right; else why not.
fn satisfies(
    tx: &mut Tx,
    attempts: &Attempts,
    method: &Method,
    entity: Option<[u8; 16]>,
    codes: &[&Secret<String>],
    now: Timestamp,
) -> Result<std::result::Result<(), String>> {
    let Kind::Totp(totp) = &method.kind else {
        return Ok(Err(format!("this server does not ask {}: no login passes by it", method.kind.word())));
    };
    let code = match codes {
        [] => return Ok(Err(INCORRECT.into())),
        [one] => one.expose(),
        _ => return Ok(Err("found multiple passcodes for the same MFA method".into())),
    };
    let code = code.strip_prefix("passcode=").unwrap_or(code);
    let Some(entity) = entity.filter(|_| !code.is_empty()) else { return Ok(Err(INCORRECT.into())) };
    let Some(mut shared) = secrets::load(tx, &entity, &method.id)? else { return Ok(Err(INCORRECT.into())) };
    let who = (tx.namespace(), entity, method.id);
    let window = shared.form.period_secs;
    if let Err(tries) = attempts.begin(who, totp.attempts, window, now) {
        return Ok(Err(format!(
            "maximum TOTP validation attempts {tries} exceeded the allowed attempts {}. Please try again in {window} \
             seconds",
            totp.attempts
        )));
    }
    match shared.form.step(&shared.key, code, now.secs(), shared.used) {
        None => Ok(Err(INCORRECT.into())),
        Some(step) => {
            shared.used = Some(step);
            secrets::save(tx, &entity, &method.id, &shared)?;
            attempts.succeeded(&who);
            Ok(Ok(()))
        }
    }
}
