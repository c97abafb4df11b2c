//! The envelope that most answers of the API come in.

use serde_json::{Map, Value};

/// An answer with `data`, `auth` or `wrap_info`. What may be secret in it is shown by [`crate::output`]
/// only; there is no `Debug`.
pub struct Secret {
    pub request_id: String,
    pub lease_id: String,
    pub lease_duration: i64,
    pub renewable: bool,
    pub data: Option<Map<String, Value>>,
    pub warnings: Option<Vec<String>>,
    pub auth: Option<Auth>,
    pub wrap_info: Option<WrapInfo>,
}

/// Fields by which an envelope is known.
const ENVELOPE: [&str; 6] = ["request_id", "lease_id", "data", "auth", "wrap_info", "warnings"];

/// What a login or a new token brings.
pub struct Auth(pub Map<String, Value>);

/// Where a wrapped answer waits.
pub struct WrapInfo(pub Map<String, Value>);

impl Secret {
    /// Reads an answer's body. Nothing in it: no secret.
    pub fn parse(body: &[u8]) -> Result<Option<Secret>, String> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) if ENVELOPE.iter().any(|name| fields.contains_key(*name)) => {
                Ok(Some(Secret::of(fields)))
            }
            // A bare answer: it is the data itself.
            Ok(Value::Object(fields)) => {
                let is_error = fields.keys().all(|name| name == "errors");
                Ok((!is_error).then(|| Secret { data: Some(fields), ..Secret::of(Map::new()) }))
            }
            Ok(_) => Err("the answer is not an object".to_string()),
            Err(e) => Err(format!("the answer is not JSON (line {}, column {})", e.line(), e.column())),
        }
    }

    fn of(mut fields: Map<String, Value>) -> Secret {
        let mut object = |name: &str| match fields.remove(name) {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        };
        let (data, auth, wrap_info) = (object("data"), object("auth"), object("wrap_info"));
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        let texts = |items: &Vec<Value>| items.iter().filter_map(Value::as_str).map(str::to_string).collect();
        Secret {
            request_id: text("request_id"),
            lease_id: text("lease_id"),
            lease_duration: fields.get("lease_duration").and_then(Value::as_i64).unwrap_or(0),
            renewable: fields.get("renewable").and_then(Value::as_bool).unwrap_or(false),
            data,
            warnings: fields.get("warnings").and_then(Value::as_array).map(texts),
            auth: auth.map(Auth),
            wrap_info: wrap_info.map(WrapInfo),
        }
    }

    /// A secret that holds a login alone.
    pub fn of_auth(auth: Auth) -> Secret {
        Secret { auth: Some(auth), ..Secret::of(Map::new()) }
    }

    pub fn warnings(&self) -> &[String] {
        self.warnings.as_deref().unwrap_or_default()
    }

    /// A field of `data`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.data.as_ref()?.get(name)
    }

    /// Whether it is wrapped and a token was given to unwrap it.
    pub fn is_wrapped(&self) -> bool {
        self.wrap_info.as_ref().is_some_and(|w| w.0.get("ttl").and_then(Value::as_i64) != Some(0))
    }

    /// The names that a list answered.
    pub fn keys(&self) -> Option<&Vec<Value>> {
        self.get("keys")?.as_array().filter(|keys| !keys.is_empty())
    }
}

impl Auth {
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn lease_duration(&self) -> i64 {
        self.0.get("lease_duration").and_then(Value::as_i64).unwrap_or(0)
    }

    /// A list of policies; an absent one is empty.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        self.0.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub fn metadata(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get("metadata").and_then(Value::as_object).into_iter().flatten()
    }

    /// What a second factor still asks for.
    pub fn mfa_requirement(&self) -> Option<&Map<String, Value>> {
        self.0.get("mfa_requirement")?.as_object()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_answer_is_its_own_data_and_an_error_is_none() {
        let parsed = |text: &str| Secret::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed("{\"sealed\": false}").unwrap().get("sealed"), Some(&Value::Bool(false)));
        assert_eq!(parsed("{\"data\": {\"x\": \"1\"}}").unwrap().get("x"), Some(&Value::from("1")));
        assert!(parsed("{\"errors\": []}").is_none());
        assert!(parsed("").is_none());
        assert!(Secret::parse(b"[1]").is_err());
    }
}
