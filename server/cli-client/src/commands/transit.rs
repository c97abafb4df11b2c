//! `transit import | import-version`: a key of one's own, wrapped for the server, into the engine.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Command;
use crate::call::{Call, sanitized};
use crate::client::Client;
use crate::data;
use crate::data::opening;
use crate::failure::{Failure, Outcome};
use crate::output::plain;

/// The least that is wrapped: the smallest key that the engine has.
const MIN_KEY_BYTES: usize = 16;
const EPHEMERAL_KEY_BYTES: usize = 32;
/// What wrapping adds: a header, and padding to the next eight bytes.
const WRAP_OVERHEAD_BYTES: usize = 16;

pub static COMMANDS: [Command; 2] = [
    Command::new("transit import", "Bring a key of one's own in", |call| run(call, "import"))
        .takes("[options] PATH KEY [K=V...]")
        .about("Wraps a key so that only the server can read it, and brings it into the transit engine. PATH is MOUNT/keys/NAME; KEY is base64, @file a file that has it. Pairs are settings of the new key."),
    Command::new("transit import-version", "Bring a new version of such a key in", |call| run(call, "import_version"))
        .takes("[options] PATH KEY [K=V...]"),
];

fn run(call: &Call, route: &str) -> Outcome {
    if call.args.len() < 2 {
        return Err(Failure::usage(format!(
            "Incorrect argument count (expected 2+, got {}). Wanted PATH to import into and KEY material.",
            call.args.len()
        )));
    }
    let key = key_material(call.arg(1))?;
    let path = sanitized(call.arg(0));
    let Some((mount, name)) = path.split_once("/keys/").filter(|(m, n)| !m.is_empty() && !n.is_empty()) else {
        return Err(Failure::usage("expected transit path and key name in the form :path:/keys/:name:"));
    };
    let client = call.client()?;
    call.console.say("Retrieving wrapping key.");
    let public_key = wrapping_key(&client, mount)?;
    call.console.say("Wrapping source key with ephemeral key.");
    let ephemeral = random_key().map_err(Failure::refused)?;
    let wrapped_key =
        wrap(&ephemeral, &key).map_err(|why| Failure::refused(format!("failure wrapping source key: {why}")))?;
    call.console.say("Encrypting ephemeral key with wrapping key.");
    let mut ciphertext = encrypt(&public_key, &ephemeral)
        .map_err(|why| Failure::refused(format!("failure encrypting wrapped key: {why}")))?;
    ciphertext.extend(wrapped_key);
    let mut body = data::parse(&call.args[2..], call.console)
        .map_err(|why| Failure::usage(format!("Failed to parse extra K=V data: {why}")))?;
    body.insert("ciphertext".into(), STANDARD.encode(ciphertext).into());
    call.console.say("Submitting wrapped key.");
    client.write(&format!("{mount}/keys/{name}/{route}"), &Value::Object(body)).map_err(|e| match e {
        crate::client::Error::Rehearsed(text) => Failure::Rehearsed(text),
        e => Failure::refused(format!("failed to call import: {e}")).with_code(3),
    })?;
    call.console.say("Success!");
    Ok(0)
}

fn key_material(argument: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = match argument.strip_prefix('@') {
        None => Zeroizing::new(argument.to_string()),
        Some(path) => Zeroizing::new(
            std::fs::read_to_string(path)
                .map_err(|e| Failure::usage(format!("error reading key material file: {}", opening(path, &e))))?,
        ),
    };
    // The decoder's own words would show a part of the key.
    let key = STANDARD.decode(text.trim()).map_err(|_| Failure::usage("error base64 decoding source key material"))?;
    Ok(Zeroizing::new(key))
}

fn wrapping_key(client: &Client, mount: &str) -> Result<PublicEncryptingKey, Failure> {
    let failed = |why: String| Failure::refused(format!("failed to fetch wrapping key: {why}")).with_code(3);
    let secret = client.read(&format!("{mount}/wrapping_key"), &[]).map_err(|e| match e {
        crate::client::Error::Rehearsed(text) => Failure::Rehearsed(text),
        e => failed(e.to_string()),
    })?;
    let pem = secret.as_ref().and_then(|s| s.get("public_key")).map(plain);
    let pem = pem.ok_or_else(|| failed(format!("no mount found at {mount}")))?;
    let der =
        SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| failed("it is no PEM".to_string()))?;
    PublicEncryptingKey::from_der(&der).map_err(|_| failed("it is no RSA key".to_string()))
}

fn random_key() -> Result<Zeroizing<[u8; EPHEMERAL_KEY_BYTES]>, String> {
    let mut key = Zeroizing::new([0u8; EPHEMERAL_KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(|e| format!("no randomness: {e}"))?;
    Ok(key)
}

/// AES-KWP (RFC 5649).
fn wrap(ephemeral: &[u8; EPHEMERAL_KEY_BYTES], key: &[u8]) -> Result<Vec<u8>, String> {
    if key.len() < MIN_KEY_BYTES {
        return Err("key size to wrap too small".to_string());
    }
    let kek = AesKek::new(&AES_256, ephemeral).map_err(|e| e.to_string())?;
    let mut out = vec![0u8; key.len() + WRAP_OVERHEAD_BYTES];
    let wrapped = kek.wrap_with_padding(key, &mut out).map_err(|e| e.to_string())?;
    Ok(wrapped.to_vec())
}

/// RSA-OAEP with SHA-256.
fn encrypt(public_key: &PublicEncryptingKey, ephemeral: &[u8; EPHEMERAL_KEY_BYTES]) -> Result<Vec<u8>, String> {
    let key = OaepPublicEncryptingKey::new(public_key.clone()).map_err(|e| e.to_string())?;
    let mut out = vec![0u8; key.ciphertext_size()];
    let encrypted = key.encrypt(&OAEP_SHA256_MGF1SHA256, ephemeral, &mut out, None).map_err(|e| e.to_string())?;
    Ok(encrypted.to_vec())
}
