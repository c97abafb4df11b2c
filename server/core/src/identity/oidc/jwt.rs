//! Tokens in the compact form of RFC 7515 and 7519.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_sdk::{Map, Result, Value, json};

use super::algorithm::Algorithm;

/// Longer texts are no tokens.
const MAX_BYTES: usize = 256 * 1024;

/// What is signed: the header and the claims.
pub fn signing_input(algorithm: Algorithm, kid: &str, claims: &Map<String, Value>) -> String {
    let header = super::map([("alg", algorithm.name().into()), ("kid", kid.into())]);
    format!("{}.{}", part(&header), part(claims))
}

fn part(map: &Map<String, Value>) -> String {
    let mut text = Vec::new();
    json::write_map(map, &mut text);
    URL_SAFE_NO_PAD.encode(text)
}

/// A whole token.
pub fn signed(input: &str, signature: &[u8]) -> String {
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token as it was presented: nothing in it is to be believed yet.
pub struct Presented<'t> {
    pub algorithm: String,
    pub kid: String,
    pub claims: Map<String, Value>,
    pub input: &'t str,
    pub signature: Vec<u8>,
}

impl Presented<'_> {
    pub fn parse(token: &str) -> Result<Presented<'_>, &'static str> {
        let three = "compact JWS format must have three parts";
        if token.len() > MAX_BYTES || token.matches('.').count() != 2 {
            return Err(three);
        }
        let (input, signature) = token.rsplit_once('.').ok_or(three)?;
        let (header, claims) = input.split_once('.').ok_or(three)?;
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "illegal base64 data");
        let object = |text: &str| match serde_json::from_slice(&bytes(text)?) {
            Ok(Value::Object(map)) => Ok(map),
            _ => Err("a part is no JSON object"),
        };
        let header = object(header)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        Ok(Presented {
            algorithm: text("alg"),
            kid: text("kid"),
            claims: object(claims)?,
            input,
            signature: bytes(signature)?,
        })
    }
}
