//! Typed parameters, as lenient as the API needs: the CLI sends every scalar as a string.
//!
//! ```
//! holdfast_sdk::parameters! {
//!     /// Settings of a mount.
//!     pub struct Settings {
//!         /// How many versions to keep.
//!         max_versions: Option<i64>,
//!         /// Names, as a list or with commas.
//!         names: Option<Vec<String>>,
//!     }
//! }
//! use holdfast_sdk::Parameters;
//! let body = serde_json::json!({"max_versions": "5", "names": "a,b"});
//! let s = Settings::parse(body.as_object().unwrap()).unwrap();
//! assert_eq!((s.max_versions, s.names.unwrap().len()), (Some(5), 2));
//! ```

use serde_json::{Map, Value};

use crate::duration;

/// A parameter's type, as OpenAPI and `path-help` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    String,
    Integer,
    Boolean,
    Duration,
    StringList,
    IntegerList,
    Map,
    StringMap,
    Any,
}

impl Kind {
    /// The OpenAPI type.
    pub fn open_api(self) -> &'static str {
        match self {
            Kind::String | Kind::Duration => "string",
            Kind::Integer => "integer",
            Kind::Boolean => "boolean",
            Kind::StringList | Kind::IntegerList => "array",
            Kind::Map | Kind::StringMap | Kind::Any => "object",
        }
    }

    /// The word of `path-help`.
    pub fn help(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Integer => "int",
            Kind::Boolean => "bool",
            Kind::Duration => "duration (sec)",
            Kind::StringList | Kind::IntegerList => "slice",
            Kind::Map => "map",
            Kind::StringMap => "keypair",
            Kind::Any => "unknown type",
        }
    }
}

/// One declared parameter.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub description: &'static str,
    pub required: bool,
}

/// A set of parameters; made by [`parameters!`](crate::parameters!).
pub trait Parameters: Sized {
    const FIELDS: &'static [Field];
    fn parse(data: &Map<String, Value>) -> crate::Result<Self>;
}

/// No parameters.
impl Parameters for () {
    const FIELDS: &'static [Field] = &[];
    fn parse(_: &Map<String, Value>) -> crate::Result<()> {
        Ok(())
    }
}

/// Whatever the request holds: its keys are the client's own.
pub struct Anything(pub Map<String, Value>);

impl Parameters for Anything {
    const FIELDS: &'static [Field] =
        &[Field { name: "*", kind: Kind::Any, description: "The value, key by key.", required: false }];
    fn parse(data: &Map<String, Value>) -> crate::Result<Self> {
        Ok(Anything(data.clone()))
    }
}

/// One parameter's value; `None` where the request does not have it.
pub trait Parameter: Sized {
    const KIND: Kind;
    const REQUIRED: bool;
    fn parse(value: Option<&Value>) -> Result<Self, String>;
}

/// A value that is there.
pub trait Lenient: Sized {
    const KIND: Kind;
    fn lenient(value: &Value) -> Result<Self, String>;
}

impl<T: Lenient> Parameter for Option<T> {
    const KIND: Kind = T::KIND;
    const REQUIRED: bool = false;
    fn parse(value: Option<&Value>) -> Result<Self, String> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(v) => T::lenient(v).map(Some),
        }
    }
}

impl<T: Lenient> Parameter for T {
    const KIND: Kind = T::KIND;
    const REQUIRED: bool = true;
    fn parse(value: Option<&Value>) -> Result<Self, String> {
        match value {
            None | Some(Value::Null) => Err("is required".into()),
            Some(v) => T::lenient(v),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Lenient for String {
    const KIND: Kind = Kind::String;
    fn lenient(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(s) => Ok(s.clone()),
            Value::Bool(b) => Ok(if *b { "1" } else { "0" }.into()),
            Value::Number(n) => Ok(n.to_string()),
            other => Err(format!("expected a string, got {}", kind_of(other))),
        }
    }
}

/// An integer text as the API takes it: decimal, `0x…`, `0o…`, `0b…`, underscores not.
fn integer_text(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let value = match lower.get(..2) {
        Some("0x") => i64::from_str_radix(&lower[2..], 16).ok()?,
        Some("0o") => i64::from_str_radix(&lower[2..], 8).ok()?,
        Some("0b") => i64::from_str_radix(&lower[2..], 2).ok()?,
        _ if lower.len() > 1 && lower.starts_with('0') => i64::from_str_radix(&lower[1..], 8).ok()?,
        _ => lower.parse().ok()?,
    };
    Some(if negative { -value } else { value })
}

impl Lenient for i64 {
    const KIND: Kind = Kind::Integer;
    fn lenient(value: &Value) -> Result<Self, String> {
        let refuse = || Err(format!("expected an integer, got {value}"));
        match value {
            Value::Bool(b) => Ok(i64::from(*b)),
            Value::Number(n) => match n.as_i64() {
                Some(i) => Ok(i),
                None => match n.as_f64() {
                    Some(f) if f.is_finite() && f.fract() == 0.0 && f.abs() < 9.0e15 => Ok(f as i64),
                    _ => refuse(),
                },
            },
            Value::String(s) if s.is_empty() => Ok(0),
            Value::String(s) => integer_text(s).map_or_else(refuse, Ok),
            _ => refuse(),
        }
    }
}

impl Lenient for bool {
    const KIND: Kind = Kind::Boolean;
    fn lenient(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(b) => Ok(*b),
            Value::String(s) => match s.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(format!("expected a boolean, got {value}")),
            },
            Value::Number(n) => Ok(n.as_f64().is_some_and(|f| f != 0.0)),
            other => Err(format!("expected a boolean, got {}", kind_of(other))),
        }
    }
}

/// A signed duration in seconds; text or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub i64);

/// A signed duration in nanoseconds, for settings that keep fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub i128);

impl Lenient for Nanos {
    const KIND: Kind = Kind::Duration;
    fn lenient(value: &Value) -> Result<Self, String> {
        let refuse = || Err(format!("expected a duration (seconds, or a text as 1h30m), got {value}"));
        match value {
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Ok(Nanos(i128::from(i) * 1_000_000_000)),
                // Whoever means a part of a second gives a text with a unit.
                (None, Some(f)) if f.fract() == 0.0 && f.abs() < 9.0e9 => Ok(Nanos((f * 1e9) as i128)),
                _ => refuse(),
            },
            Value::String(s) => duration::parse(s).map_or_else(refuse, |n| Ok(Nanos(n))),
            _ => refuse(),
        }
    }
}

impl Lenient for Seconds {
    const KIND: Kind = Kind::Duration;
    fn lenient(value: &Value) -> Result<Self, String> {
        let nanos = Nanos::lenient(value)?.0;
        i64::try_from(nanos / 1_000_000_000).map(Seconds).map_err(|_| "the duration is too long".into())
    }
}

impl Lenient for Vec<String> {
    const KIND: Kind = Kind::StringList;
    fn lenient(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.iter().map(String::lenient).collect(),
            Value::String(s) if s.is_empty() => Ok(Vec::new()),
            Value::String(s) => Ok(s.split(',').map(|p| p.trim().to_owned()).collect()),
            Value::Number(_) | Value::Bool(_) => Ok(vec![String::lenient(value)?]),
            other => Err(format!("expected a list, got {}", kind_of(other))),
        }
    }
}

/// A list of strings, or one string whose commas are its own.
#[derive(Debug, Clone, Default)]
pub struct Names(pub Vec<String>);

impl Lenient for Names {
    const KIND: Kind = Kind::StringList;
    fn lenient(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(s) if s.is_empty() => Ok(Names(Vec::new())),
            Value::String(s) => Ok(Names(vec![s.clone()])),
            other => Vec::lenient(other).map(Names),
        }
    }
}

impl Lenient for Vec<i64> {
    const KIND: Kind = Kind::IntegerList;
    fn lenient(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.iter().map(i64::lenient).collect(),
            Value::String(s) if s.is_empty() => Ok(Vec::new()),
            Value::String(s) => s
                .split(',')
                .map(|p| integer_text(p.trim()).ok_or_else(|| format!("expected integers, got {value}")))
                .collect(),
            Value::Number(_) => Ok(vec![i64::lenient(value)?]),
            other => Err(format!("expected a list of integers, got {}", kind_of(other))),
        }
    }
}

fn pairs<'a>(items: impl Iterator<Item = &'a str>) -> Option<Map<String, Value>> {
    items.map(|p| p.split_once('=').map(|(k, v)| (k.trim().to_owned(), Value::from(v.trim())))).collect()
}

/// An object, a list of `k=v`, or a text that is either.
fn map_of(value: &Value) -> Result<Map<String, Value>, String> {
    let refuse = || format!("expected an object or a list of k=v, got {}", kind_of(value));
    match value {
        Value::Object(m) => Ok(m.clone()),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.and_then(|t| pairs(t.into_iter())).ok_or_else(refuse)
        }
        Value::String(s) if s.is_empty() => Ok(Map::new()),
        Value::String(s) => match serde_json::from_str::<Value>(s) {
            Ok(Value::Object(m)) => Ok(m),
            _ => pairs(s.split(',')).ok_or_else(refuse),
        },
        _ => Err(refuse()),
    }
}

impl Lenient for Map<String, Value> {
    const KIND: Kind = Kind::Map;
    fn lenient(value: &Value) -> Result<Self, String> {
        map_of(value)
    }
}

/// A map whose values are texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StringMap(pub Vec<(String, String)>);

impl Lenient for StringMap {
    const KIND: Kind = Kind::StringMap;
    fn lenient(value: &Value) -> Result<Self, String> {
        map_of(value)?
            .iter()
            .map(|(k, v)| Ok((k.clone(), String::lenient(v)?)))
            .collect::<Result<_, _>>()
            .map(StringMap)
    }
}

impl Lenient for Value {
    const KIND: Kind = Kind::Any;
    fn lenient(value: &Value) -> Result<Self, String> {
        Ok(value.clone())
    }
}

/// Declares a struct of parameters; each field's documentation is its description for clients. Behind `with`
/// stand sets of parameters that several routes share (`with token: TokenFields`).
#[macro_export]
macro_rules! parameters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[doc = $text:literal])* $field:ident: $type:ty,)* }
     $(with $($shared:ident: $set:ty),+)?) => {
        $(#[$meta])*
        $vis struct $name { $($(#[doc = $text])* pub $field: $type,)* $($(pub $shared: $set,)+)? }

        impl $crate::Parameters for $name {
            const FIELDS: &'static [$crate::Field] = {
                const OWN: &[$crate::Field] = &[$($crate::Field {
                    name: $crate::parameters::field_name(stringify!($field)),
                    kind: <$type as $crate::Parameter>::KIND,
                    description: concat!($($text),*),
                    required: <$type as $crate::Parameter>::REQUIRED,
                },)*];
                const SETS: &[&[$crate::Field]] = &[OWN, $($(<$set as $crate::Parameters>::FIELDS,)+)?];
                &$crate::parameters::joined::<{ $crate::parameters::total(SETS) }>(SETS)
            };
            fn parse(data: &$crate::Map<String, $crate::Value>) -> $crate::Result<Self> {
                Ok($name { $($field: {
                    let name = $crate::parameters::field_name(stringify!($field));
                    <$type as $crate::Parameter>::parse(data.get(name)).map_err(|e| $crate::Error::bad_request(
                        format!("Field validation failed: field {name:?}: {e}")))?
                },)* $($($shared: <$set as $crate::Parameters>::parse(data)?,)+)? })
            }
        }
    };
}

/// The parameter's name of a field: `r#type` is `type`.
pub const fn field_name(ident: &'static str) -> &'static str {
    let b = ident.as_bytes();
    if b.len() > 2 && b[0] == b'r' && b[1] == b'#' { ident.split_at(2).1 } else { ident }
}

parameters! {
    /// Which part of a list is wanted.
    pub struct Page {
        /// List the names behind this one.
        after: Option<String>,
        /// List at most so many names; all of them if it is below 1.
        limit: Option<i64>,
    }
}

impl Page {
    /// As [`Transaction::names`](crate::Transaction::names) takes them.
    pub fn bounds(&self) -> (&str, usize) {
        let limit = self.limit.and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
        (self.after.as_deref().unwrap_or(""), limit)
    }
}

/// How many fields several sets have.
pub const fn total(sets: &[&[Field]]) -> usize {
    let (mut sum, mut at) = (0, 0);
    while at < sets.len() {
        sum += sets[at].len();
        at += 1;
    }
    sum
}

/// The fields of several sets; `N` is their [`total`].
pub const fn joined<const N: usize>(sets: &[&[Field]]) -> [Field; N] {
    let mut all = [Field { name: "", kind: Kind::Any, description: "", required: false }; N];
    let (mut set, mut next) = (0, 0);
    while set < sets.len() {
        let mut at = 0;
        while at < sets[set].len() {
            all[next] = sets[set][at];
            (at, next) = (at + 1, next + 1);
        }
        set += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_come_as_strings_too() {
        assert_eq!(i64::lenient(&json!("12")), Ok(12));
        assert_eq!(i64::lenient(&json!("0x10")), Ok(16));
        assert_eq!(i64::lenient(&json!(9.0)), Ok(9));
        assert!(i64::lenient(&json!(1.5)).is_err());
        assert!(i64::lenient(&json!("x")).is_err());
        assert!(i64::lenient(&serde_json::from_str::<Value>("99999999999999999999").unwrap()).is_err());
        assert_eq!(bool::lenient(&json!("true")), Ok(true));
        assert!(bool::lenient(&json!("yes")).is_err());
        assert_eq!(Seconds::lenient(&json!("1h")), Ok(Seconds(3600)));
    }

    #[test]
    fn shared_parameters_stand_beside_a_route_s_own() {
        parameters! { struct Shared { /// Common.
        ttl: Option<i64>, } }
        parameters! { struct Route { /// Own.
        name: Option<String>, } with shared: Shared }
        let names: Vec<&str> = Route::FIELDS.iter().map(|f| f.name).collect();
        assert_eq!(names, ["name", "ttl"]);
        let p = Route::parse(json!({"name": "n", "ttl": "7"}).as_object().unwrap()).unwrap();
        assert_eq!((p.name.as_deref(), p.shared.ttl), (Some("n"), Some(7)));
    }

    #[test]
    fn lists_and_maps_come_in_every_form() {
        assert_eq!(Vec::<String>::lenient(&json!("a,b")), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(Vec::<i64>::lenient(&json!(["1", 2])), Ok(vec![1, 2]));
        assert_eq!(map_of(&json!(["k=v", "l=w"])).unwrap(), *json!({"k": "v", "l": "w"}).as_object().unwrap());
        assert_eq!(map_of(&json!("{\"j\": 1}")).unwrap(), *json!({"j": 1}).as_object().unwrap());
        assert!(map_of(&json!([1])).is_err());
        assert!(map_of(&json!("text")).is_err());
    }
}
