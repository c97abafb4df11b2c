//! `credential_type` and `credential_config`: what a user logs in with.
//!
//! Roles take all types that the API has. Every database here wants a password; another type is refused when
//! somebody asks for a user.

use std::collections::HashMap;

use holdfast_sdk::parameters::StringMap;
use holdfast_sdk::{Error, Map, Result, Value};
use minicbor::{Decode, Encode};

use crate::template::Template;

const PASSWORD: &str = "password";
const RSA_KEY: &str = "rsa_private_key";
const CERTIFICATE: &str = "client_certificate";
/// Sizes of RSA keys, the first unless another is asked for.
const RSA_BITS: &[u32] = &[2048, 3072, 4096];
/// Bits of the curves that a certificate's key may be on.
const EC_BITS: &[u32] = &[256, 224, 384, 521];
/// Bits of the digests that a certificate may be signed with.
const DIGEST_BITS: &[u32] = &[256, 384, 512];

#[derive(Clone, Default, Encode, Decode)]
pub struct Credentials {
    /// Empty: the connection's, or none.
    #[n(0)]
    pub password_policy: String,
    /// None: a password.
    #[n(1)]
    other: Option<Other>,
}

#[derive(Clone, Encode, Decode)]
enum Other {
    #[n(0)]
    RsaKey {
        #[n(0)]
        bits: u32,
        #[n(1)]
        format: String,
    },
    #[n(1)]
    Certificate {
        #[n(0)]
        key_type: String,
        #[n(1)]
        key_bits: u32,
        #[n(2)]
        digest_bits: u32,
        #[n(3)]
        common_name_template: String,
        #[n(4)]
        authority: String,
        #[n(5)]
        authority_key: String,
    },
}

impl Credentials {
    /// Change what a request names.
    pub fn change(&mut self, kind: Option<&str>, config: Option<StringMap>) -> Result<()> {
        let is_same = kind.is_none_or(|kind| kind == self.kind());
        let kind = kind.unwrap_or(self.kind()).to_owned();
        let config = match config {
            None if is_same => return Ok(()),
            config => Config(config.unwrap_or_default().0.into_iter().collect()),
        };
        match kind.as_str() {
            PASSWORD => {
                if !config.text("password_policy").is_empty() {
                    config.text("password_policy").clone_into(&mut self.password_policy);
                }
                self.other = None;
            }
            RSA_KEY => self.other = Some(config.rsa_key()?),
            CERTIFICATE => self.other = Some(config.certificate()?),
            other => return Err(Error::bad_request(format!("invalid credential_type {other:?}"))),
        }
        Ok(())
    }

    fn kind(&self) -> &'static str {
        match self.other {
            None => PASSWORD,
            Some(Other::RsaKey { .. }) => RSA_KEY,
            Some(Other::Certificate { .. }) => CERTIFICATE,
        }
    }

    /// What every database here takes; else why not.
    pub fn require_password(&self) -> Result<(), String> {
        match &self.other {
            None => Ok(()),
            Some(_) => Err(format!("unsupported credential_type: {:?}", self.kind())),
        }
    }

    pub fn show(&self, out: &mut Map<String, Value>) {
        out.insert("credential_type".into(), self.kind().into());
        let mut config = Map::new();
        match &self.other {
            None if self.password_policy.is_empty() => return,
            None => {
                config.insert("password_policy".into(), self.password_policy.clone().into());
            }
            Some(Other::RsaKey { bits, format }) => {
                config.insert("format".into(), format.clone().into());
                config.insert("key_bits".into(), (*bits).into());
            }
            Some(Other::Certificate { key_type, key_bits, digest_bits, common_name_template, authority, .. }) => {
                config.insert("key_type".into(), key_type.clone().into());
                config.insert("key_bits".into(), (*key_bits).into());
                config.insert("signature_bits".into(), (*digest_bits).into());
                config.insert("common_name_template".into(), common_name_template.clone().into());
                config.insert("ca_cert".into(), authority.clone().into());
            }
        }
        out.insert("credential_config".into(), config.into());
    }
}

fn invalid(text: &str) -> Error {
    Error::bad_request(format!("credential_config validation failed: {text}"))
}

/// What a request gives; other keys do not count.
struct Config(HashMap<String, String>);

impl Config {
    fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// One of some numbers; none or 0: the first.
    fn one_of(&self, key: &str, allowed: &[u32]) -> Result<u32> {
        let number = match self.text(key) {
            "" => 0,
            text => text.parse().map_err(|_| invalid(&format!("'{key}' cannot parse value as 'int'")))?,
        };
        match number {
            0 => Ok(allowed.first().copied().unwrap_or(0)),
            n if allowed.contains(&n) => Ok(n),
            n => Err(invalid(&format!("invalid {key}: {n}"))),
        }
    }

    fn rsa_key(&self) -> Result<Other> {
        let format = match self.text("format") {
            "" => "pkcs8",
            format if format.eq_ignore_ascii_case("pkcs8") => format,
            other => return Err(invalid(&format!("invalid format: {other}"))),
        };
        Ok(Other::RsaKey { bits: self.one_of("key_bits", RSA_BITS)?, format: format.to_owned() })
    }

    fn certificate(&self) -> Result<Other> {
        let key_type = self.text("key_type");
        let key_bits = match key_type {
            "rsa" => self.one_of("key_bits", RSA_BITS)?,
            "ec" => self.one_of("key_bits", EC_BITS)?,
            "ed25519" => 0,
            _ => return Err(invalid("invalid key_type")),
        };
        let digest_bits = self.one_of("signature_bits", DIGEST_BITS)?;
        let common_name_template = self.text("common_name_template");
        if common_name_template.is_empty() {
            return Err(invalid("missing required common_name_template"));
        }
        Template::parse(common_name_template).map_err(|e| invalid(&format!("invalid common_name_template: {e}")))?;
        Ok(Other::Certificate {
            key_type: key_type.to_owned(),
            key_bits,
            digest_bits,
            common_name_template: common_name_template.to_owned(),
            authority: self.text("ca_cert").to_owned(),
            authority_key: self.text("ca_private_key").to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Option<StringMap> {
        Some(StringMap(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()))
    }

    #[test]
    fn a_certificates_private_key_is_kept_and_never_shown() {
        let mut c = Credentials::default();
        let given = config(&[
            ("key_type", "ec"),
            ("common_name_template", "{{random 4}}"),
            ("ca_cert", "a certificate"),
            ("ca_private_key", "hidden"),
        ]);
        c.change(Some(CERTIFICATE), given).unwrap();
        let mut shown = Map::new();
        c.show(&mut shown);
        assert_eq!(shown["credential_config"]["key_bits"], 256);
        assert!(!Value::Object(shown).to_string().contains("hidden"));
        assert!(c.require_password().is_err());
    }

    #[test]
    fn what_is_not_named_stays_and_another_type_begins_anew() {
        let mut c = Credentials::default();
        c.change(None, config(&[("password_policy", "p")])).unwrap();
        c.change(Some(PASSWORD), None).unwrap();
        assert_eq!(c.password_policy, "p");
        c.change(Some(RSA_KEY), config(&[("key_bits", "4096")])).unwrap();
        assert!(c.change(None, config(&[("key_bits", "1024")])).is_err());
        c.change(None, None).unwrap();
        let mut shown = Map::new();
        c.show(&mut shown);
        assert_eq!(shown["credential_config"]["key_bits"], 4096);
        c.change(Some(PASSWORD), None).unwrap();
        assert!(c.require_password().is_ok());
    }
}
