//! `pem_bundle` and `pem_json`: certificates, and a key, in one text; as PKI engines give them out.

use holdfast_sdk::Value;

use crate::details::Details;
use crate::plugin::tls::Material;

/// None: neither is given.
pub fn material(details: &Details<'_>) -> Result<Option<Material>, String> {
    let (bundle, json) = (details.text("pem_bundle")?, details.text("pem_json")?);
    match (bundle.is_empty(), json.is_empty()) {
        (false, _) => of_bundle(bundle).map(Some).map_err(|e| format!("error parsing the given PEM information: {e}")),
        (true, false) => of_json(json).map(Some),
        (true, true) => Ok(None),
    }
}

/// The first certificate is the client's, if its key is there; all others are authorities.
fn of_bundle(text: &str) -> Result<Material, String> {
    let (keys, certificates): (Vec<_>, Vec<_>) = blocks(text).partition(|block| block.contains("PRIVATE KEY-----"));
    if certificates.is_empty() {
        return Err("no certificate in PEM form".into());
    }
    let authorities = if keys.is_empty() { &certificates[..] } else { &certificates[1..] };
    Ok(Material {
        authority: (!authorities.is_empty()).then(|| authorities.join("\n").into_bytes()),
        certificate: keys.first().map(|key| (certificates[0].clone().into_bytes(), key.clone().into_bytes())),
    })
}

fn blocks(text: &str) -> impl Iterator<Item = String> {
    text.split("-----BEGIN ").skip(1).filter_map(|part| {
        let end = part.find("-----END ")?;
        let end = end + part[end..].find("-----\n").map_or(part[end..].trim_end().len(), |at| at + 5);
        Some(format!("-----BEGIN {}", &part[..end]))
    })
}

/// What an issuing route answers, or its `data`.
fn of_json(text: &str) -> Result<Material, String> {
    let none = "could not parse given JSON; it must be in the format of the output of the PKI backend certificate issuing \
                command";
    let value: Value = serde_json::from_str(text).map_err(|_| none.to_owned())?;
    let data = value.get("data").filter(|d| d.is_object()).unwrap_or(&value);
    let part = |key: &str| data.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let chain = data.get("ca_chain").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let authorities: Vec<&str> = part("issuing_ca").into_iter().chain(chain).collect();
    let certificate = match (part("certificate"), part("private_key")) {
        (Some(certificate), Some(key)) => Some((certificate.as_bytes().to_vec(), key.as_bytes().to_vec())),
        _ => None,
    };
    if authorities.is_empty() && certificate.is_none() {
        return Err(none.into());
    }
    Ok(Material { authority: (!authorities.is_empty()).then(|| authorities.join("\n").into_bytes()), certificate })
}

/// A `pem_json` for those who may read the connection.
pub fn json_without_key(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return String::new() };
    if let Some(data) = value.get_mut("data").and_then(Value::as_object_mut) {
        data.remove("private_key");
    }
    if let Some(all) = value.as_object_mut() {
        all.remove("private_key");
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
    const ROOT: &str = "-----BEGIN CERTIFICATE-----\nBB==\n-----END CERTIFICATE-----";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nCC==\n-----END PRIVATE KEY-----";

    #[test]
    fn a_bundle_is_taken_apart() {
        let all = of_bundle(&format!("{KEY}\n{LEAF}\n{ROOT}\n")).unwrap();
        assert_eq!(all.authority.unwrap(), ROOT.as_bytes());
        assert_eq!(all.certificate.unwrap(), (LEAF.as_bytes().to_vec(), KEY.as_bytes().to_vec()));
        let authorities = of_bundle(&format!("{LEAF}\n{ROOT}")).unwrap();
        assert_eq!(authorities.authority.unwrap(), format!("{LEAF}\n{ROOT}").into_bytes());
        assert!(authorities.certificate.is_none());
        assert!(of_bundle("words").is_err());
    }

    #[test]
    fn an_issued_certificate_is_read_with_and_without_its_envelope() {
        let data = serde_json::json!({ "certificate": LEAF, "private_key": KEY, "issuing_ca": ROOT });
        for text in [data.to_string(), serde_json::json!({ "data": data }).to_string()] {
            let material = of_json(&text).unwrap();
            assert_eq!(material.authority.unwrap(), ROOT.as_bytes());
            assert!(material.certificate.is_some());
        }
        assert!(of_json(&serde_json::json!({ "issuing_ca": ROOT }).to_string()).unwrap().certificate.is_none());
        assert_eq!(json_without_key("{\"private_key\":\"k\",\"data\":{\"private_key\":\"k\"}}"), "{\"data\":{}}");
        assert!(of_json("words").is_err());
        assert!(of_json("{}").is_err());
    }
}
