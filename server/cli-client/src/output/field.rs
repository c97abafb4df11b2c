//! `-field`: one value alone.

use serde_json::{Map, Value};

use super::{Format, formatted, plain};
use crate::call::Call;
use crate::failure::{Failure, Outcome};
use crate::secret::{Auth, Secret, WrapInfo};

/// Prints one field of a map.
pub fn print(call: &Call, map: &Map<String, Value>, name: &str) -> Outcome {
    print_value(call, map.get(name), name, "map")
}

/// Prints one field of a secret: of its data, or one of the names that its other parts go by.
pub fn print_secret(call: &Call, secret: &Secret, name: &str) -> Outcome {
    let code = print_value(call, of_secret(secret, name).as_ref(), name, "secret")?;
    if call.format == Format::Table {
        super::warnings(call, secret);
    }
    Ok(code)
}

fn print_value(call: &Call, value: Option<&Value>, name: &str, place: &str) -> Outcome {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return Err(Failure::usage(format!("Field {name:?} not present in {place}")));
    };
    match call.format {
        Format::Table | Format::Raw => call.console.say_value(plain(value)),
        format => call.console.say_value(formatted(format, value)?),
    }
    Ok(0)
}

fn of_secret(secret: &Secret, name: &str) -> Option<Value> {
    if let Some(auth) = &secret.auth {
        return of_auth(auth, name);
    }
    if let Some(info) = &secret.wrap_info {
        return of_wrap_info(info, name);
    }
    match name {
        "lease_id" => Some(secret.lease_id.as_str().into()),
        "lease_duration" | "refresh_interval" => Some(secret.lease_duration.into()),
        "request_id" => Some(secret.request_id.as_str().into()),
        "data" => secret.get("data").cloned().or_else(|| secret.data.clone().map(Value::Object)),
        name => secret.get(name).cloned(),
    }
}

fn of_auth(auth: &Auth, name: &str) -> Option<Value> {
    let field = match name {
        "token" => "client_token",
        "token_accessor" => "accessor",
        "token_duration" => "lease_duration",
        "token_renewable" => "renewable",
        "token_policies" | "identity_policies" | "policies" => name,
        name => {
            return auth.metadata().find(|(k, _)| name.strip_prefix("token_meta_") == Some(k)).map(|(_, v)| v.clone());
        }
    };
    auth.0.get(field).cloned()
}

fn of_wrap_info(info: &WrapInfo, name: &str) -> Option<Value> {
    let field = match name {
        "wrapping_token" => "token",
        "wrapping_accessor" => "accessor",
        "wrapping_token_ttl" => "ttl",
        "wrapping_token_creation_time" => "creation_time",
        "wrapping_token_creation_path" => "creation_path",
        "wrapped_accessor" => "wrapped_accessor",
        _ => return None,
    };
    info.0.get(field).cloned()
}
