//! Templates of claims: JSON with directives in `{{…}}`, which become JSON values of the token's entity.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_sdk::{Error, Map, Result, Timestamp, Value, duration};

use crate::identity::{Alias, Resolved};
use crate::random::uuid_text;

/// Claims that the server sets itself.
const RESERVED: [&str; 10] =
    ["iat", "aud", "exp", "iss", "sub", "namespace", "nonce", "auth_time", "at_hash", "c_hash"];

/// Longer ones are refused: each token is made of it.
const MAX_BYTES: usize = 64 * 1024;

enum Piece<'t> {
    Text(&'t str),
    Value(Directive<'t>),
}

enum Directive<'t> {
    Id,
    Name,
    Metadata(Option<&'t str>),
    GroupNames,
    GroupIds,
    Alias(&'t str, Field<'t>),
    /// Unix time, this much later, in seconds.
    Now(i64),
}

enum Field<'t> {
    Id,
    Name,
    Metadata(Option<&'t str>),
    CustomMetadata(Option<&'t str>),
}

/// The template as a client gave it: as it is, or in base64.
pub fn given(text: &str) -> String {
    match STANDARD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => String::from_utf8_lossy(&bytes).into_owned(),
        _ => text.to_owned(),
    }
}

/// Refuse a template that could make no claims. The names of those that it makes.
pub fn check(template: &str) -> Result<Vec<String>> {
    if template.len() > MAX_BYTES {
        return Err(Error::bad_request(format!("error parsing template: it may have {MAX_BYTES} bytes")));
    }
    let claims = claims(template, None, Timestamp(0))?;
    match RESERVED.into_iter().find(|name| claims.contains_key(*name)) {
        Some(name) => Err(Error::bad_request(format!(
            "top level key {name:?} not allowed. Restricted keys: {}",
            RESERVED.join(", ")
        ))),
        None => Ok(claims.into_iter().map(|(name, _)| name).collect()),
    }
}

/// The claims of an entity; of nobody they are empty values.
pub fn claims(template: &str, who: Option<&Resolved>, now: Timestamp) -> Result<Map<String, Value>> {
    if template.is_empty() {
        return Ok(Map::new());
    }
    let mut text = String::with_capacity(template.len() + 256);
    for piece in pieces(template)? {
        match piece {
            Piece::Text(t) => text.push_str(t),
            Piece::Value(directive) => text.push_str(&directive.value(who, now).to_string()),
        }
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::bad_request("error parsing template JSON: it is no object")),
        Err(e) => Err(Error::bad_request(format!("error parsing template JSON: {e}"))),
    }
}

fn pieces(template: &str) -> Result<Vec<Piece<'_>>> {
    let unbalanced = || Error::bad_request("error parsing template: unbalanced templating characters");
    let (mut pieces, mut rest) = (Vec::new(), template);
    while let Some((text, after)) = rest.split_once("{{") {
        let (directive, behind) = after.split_once("}}").ok_or_else(unbalanced)?;
        pieces.push(Piece::Text(text));
        pieces.push(Piece::Value(Directive::parse(directive.trim())?));
        rest = behind;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

impl<'t> Directive<'t> {
    fn parse(text: &'t str) -> Result<Directive<'t>> {
        let unknown =
            || Error::bad_request("error parsing template: no value could be found for one of the template directives");
        if let Some(time) = text.strip_prefix("time.now") {
            return Directive::time(time).unwrap_or_else(|| Err(unknown()));
        }
        if text.starts_with("identity.groups.") {
            return Err(Error::bad_request(
                "error parsing template: string contains groups template directives but no groups were provided",
            ));
        }
        let of_entity = text.strip_prefix("identity.entity.").ok_or_else(unknown)?;
        let directive = match of_entity.split_once('.') {
            None => match of_entity {
                "id" => Some(Directive::Id),
                "name" => Some(Directive::Name),
                "metadata" => Some(Directive::Metadata(None)),
                _ => None,
            },
            Some(("metadata", key)) => Some(Directive::Metadata(Some(key))),
            Some(("groups", "names")) => Some(Directive::GroupNames),
            Some(("groups", "ids")) => Some(Directive::GroupIds),
            Some(("aliases", rest)) => {
                rest.split_once('.').and_then(|(a, field)| Some(Directive::Alias(a, Field::parse(field)?)))
            }
            Some(_) => None,
        };
        directive.ok_or_else(unknown)
    }

    fn time(text: &str) -> Option<Result<Directive<'_>>> {
        let later = |text: &str, sign: i64| match duration::parse(text) {
            Some(nanos) => Ok(Directive::Now(sign.saturating_mul(i64::try_from(nanos / 1_000_000_000).unwrap_or(0)))),
            None => Err(Error::bad_request(format!("error parsing template: invalid duration: {text:?}"))),
        };
        match text {
            "" => Some(Ok(Directive::Now(0))),
            _ => match (text.strip_prefix(".plus."), text.strip_prefix(".minus.")) {
                (Some(text), _) => Some(later(text, 1)),
                (_, Some(text)) => Some(later(text, -1)),
                _ => None,
            },
        }
    }

    fn value(&self, who: Option<&Resolved>, now: Timestamp) -> Value {
        let entity = who.map(|w| &w.entity);
        let groups = |of: fn(&super::super::record::Group) -> String| match who.map(|w| w.groups()) {
            Some(groups) if !groups.is_empty() => groups.iter().map(of).collect::<Vec<_>>().into(),
            // As clients of the reference know it.
            _ => Value::Null,
        };
        match self {
            Directive::Id => entity.map_or(String::new(), |e| uuid_text(&e.id)).into(),
            Directive::Name => entity.map_or("", |e| e.name.as_str()).into(),
            Directive::Metadata(key) => metadata(entity.and_then(|e| e.metadata.as_deref()), *key),
            Directive::GroupNames => groups(|g| g.name.clone()),
            Directive::GroupIds => groups(|g| uuid_text(&g.id)),
            Directive::Alias(accessor, field) => {
                let alias = entity.and_then(|e| e.aliases.iter().find(|a| a.mount_accessor == *accessor));
                field.value(alias)
            }
            Directive::Now(later) => i64::try_from(now.secs()).unwrap_or(i64::MAX).saturating_add(*later).into(),
        }
    }
}

impl<'t> Field<'t> {
    fn parse(text: &'t str) -> Option<Field<'t>> {
        match text.split_once('.') {
            None => match text {
                "id" => Some(Field::Id),
                "name" => Some(Field::Name),
                "metadata" => Some(Field::Metadata(None)),
                "custom_metadata" => Some(Field::CustomMetadata(None)),
                _ => None,
            },
            Some(("metadata", key)) => Some(Field::Metadata(Some(key))),
            Some(("custom_metadata", key)) => Some(Field::CustomMetadata(Some(key))),
            Some(_) => None,
        }
    }

    fn value(&self, alias: Option<&Alias>) -> Value {
        match self {
            Field::Id => alias.map_or(String::new(), |a| uuid_text(&a.id)).into(),
            Field::Name => alias.map_or("", |a| a.name.as_str()).into(),
            Field::Metadata(key) => metadata(alias.map(|a| a.metadata.as_slice()), *key),
            Field::CustomMetadata(key) => metadata(alias.and_then(|a| a.custom_metadata.as_deref()), *key),
        }
    }
}

/// One text of several, or all of them.
fn metadata(pairs: Option<&[(String, String)]>, key: Option<&str>) -> Value {
    let pairs = pairs.unwrap_or_default();
    match key {
        Some(key) => pairs.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str()).into(),
        None => super::super::record::object(pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(template: &str) -> String {
        check(template).unwrap_err().to_string()
    }

    #[test]
    fn a_template_makes_claims_of_nobody_too() {
        let template = r#"{"n": {{identity.entity.name}}, "m": {{ identity.entity.metadata }}, "t": {{time.now.plus.1h}},
            "a": {{identity.entity.aliases.x.custom_metadata.k}}, "g": {{identity.entity.groups.ids}}}"#;
        let claims = claims(template, None, Timestamp(5_000_000_000)).unwrap();
        assert_eq!(Value::Object(claims), serde_json::json!({"n": "", "m": {}, "t": 3605, "a": "", "g": null}));
    }

    #[test]
    fn what_could_make_no_claims_is_refused() {
        for unknown in ["identity.entity.foo", "foo.bar", "", "identity.entity.aliases.x", "time.nowish"] {
            assert!(refused(&format!("{{\"a\": {{{{{unknown}}}}}}}")).contains("no value could be found"), "{unknown}");
        }
        assert!(refused(r#"{"a": {{identity.entity.name}"#).contains("unbalanced"));
        assert!(refused(r#"{"a": "{{identity.entity.name}}"}"#).contains("JSON"), "values bring their own quotes");
        assert!(refused("[1]").contains("no object"));
        assert!(refused(r#"{"sub": "x"}"#).contains("not allowed"));
        assert_eq!(check(&given("eyJhIjogInoifQ==")).unwrap(), ["a"]);
    }
}
