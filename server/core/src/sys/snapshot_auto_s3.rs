//! The `aws_*` parameters of a plan for snapshots.

use holdfast_hsm::memory::Secret;
use holdfast_sdk::parameters::Nanos;
use holdfast_sdk::{Error, Map, Result, Value};

use crate::backups::{S3, check_s3};

/// S3's bound of a key, less what stands behind the prefixes.
const PREFIX_BYTES: usize = 900;
/// Session tokens are the longest.
const TEXT_BYTES: usize = 8 << 10;
const TIMEOUT_SECS: std::ops::RangeInclusive<u64> = 5..=3600;

/// What a request holds of them.
pub struct Given {
    pub bucket: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret<String>>,
    pub session_token: Option<Secret<String>>,
    pub endpoint: Option<String>,
    pub disable_tls: Option<bool>,
    pub force_path_style: Option<bool>,
    pub server_side_encryption: Option<bool>,
    pub enable_kms: Option<bool>,
    pub kms_key: Option<String>,
    pub timeout: Option<Nanos>,
}

impl Given {
    /// One that is there.
    pub fn any(&self) -> Option<&'static str> {
        let all = [
            ("aws_s3_bucket", self.bucket.is_some()),
            ("aws_s3_region", self.region.is_some()),
            ("aws_access_key_id", self.access_key_id.is_some()),
            ("aws_secret_access_key", self.secret_access_key.is_some()),
            ("aws_session_token", self.session_token.is_some()),
            ("aws_s3_endpoint", self.endpoint.is_some()),
            ("aws_s3_disable_tls", self.disable_tls.is_some()),
            ("aws_s3_force_path_style", self.force_path_style.is_some()),
            ("aws_s3_server_side_encryption", self.server_side_encryption.is_some()),
            ("aws_s3_enable_kms", self.enable_kms.is_some()),
            ("aws_s3_kms_key", self.kms_key.is_some()),
            ("aws_s3_timeout", self.timeout.is_some()),
        ];
        all.into_iter().find(|(_, is_there)| *is_there).map(|(name, _)| name)
    }

    /// The target, where what is absent stays as it was.
    pub fn over(self, before: S3) -> Result<S3> {
        // Another access key has another secret, and a token is of both.
        let renews = self.access_key_id.as_ref().is_some_and(|id| *id != before.access_key_id);
        let (old_secret, old_token) = match renews {
            true => Default::default(),
            false => (before.secret_access_key, before.session_token),
        };
        let s3 = S3 {
            bucket: self.bucket.unwrap_or(before.bucket),
            region: self.region.unwrap_or(before.region),
            endpoint: self.endpoint.unwrap_or(before.endpoint),
            disable_tls: self.disable_tls.unwrap_or(before.disable_tls),
            force_path_style: self.force_path_style.unwrap_or(before.force_path_style),
            access_key_id: self.access_key_id.unwrap_or(before.access_key_id),
            secret_access_key: self.secret_access_key.unwrap_or(old_secret),
            session_token: self.session_token.unwrap_or(old_token),
            server_side_encryption: self.server_side_encryption.unwrap_or(before.server_side_encryption),
            enable_kms: self.enable_kms.unwrap_or(before.enable_kms),
            kms_key: self.kms_key.unwrap_or(before.kms_key),
            timeout_secs: self.timeout.map(timeout).transpose()?.unwrap_or(before.timeout_secs),
        };
        valid(s3)
    }
}

fn timeout(given: Nanos) -> Result<u64> {
    let secs = u64::try_from(given.0 / 1_000_000_000).ok().filter(|secs| TIMEOUT_SECS.contains(secs));
    secs.ok_or_else(|| Error::bad_request("aws_s3_timeout must be from 5 seconds to an hour"))
}

fn valid(mut s3: S3) -> Result<S3> {
    let texts = [
        ("aws_s3_bucket", &s3.bucket, true),
        ("aws_s3_region", &s3.region, true),
        ("aws_access_key_id", &s3.access_key_id, true),
        ("aws_secret_access_key", s3.secret_access_key.expose(), true),
        ("aws_session_token", s3.session_token.expose(), false),
        ("aws_s3_endpoint", &s3.endpoint, false),
        ("aws_s3_kms_key", &s3.kms_key, false),
    ];
    for (name, text, is_required) in texts {
        if is_required && text.is_empty() {
            let why = if name.starts_with("aws_s3") { "" } else { ": keys of the machine are not looked for" };
            return wrong(format!("{name} is required{why}"));
        }
        if text.len() > TEXT_BYTES || text.bytes().any(|b| !(b'!'..=b'~').contains(&b)) {
            return wrong(format!("{name} must be printable ASCII without blanks, at most {TEXT_BYTES} bytes"));
        }
    }
    s3.endpoint = endpoint(&s3)?;
    let in_a_host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let in_a_path = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let plain = |b| if s3.force_path_style { in_a_path(b) } else { in_a_host(b) };
    if s3.bucket.len() < 3 || s3.bucket.len() > 255 || !s3.bucket.bytes().all(plain) || s3.bucket.starts_with('.') {
        return wrong("aws_s3_bucket is not a bucket's name: letters, digits, '-' and '.', at least 3".into());
    }
    if !s3.region.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return wrong("aws_s3_region is not a region's name".into());
    }
    if s3.bucket.contains('.') && !s3.force_path_style && !s3.disable_tls {
        return wrong("no certificate is for a bucket with a '.' in its name: set aws_s3_force_path_style".into());
    }
    if s3.enable_kms && s3.server_side_encryption {
        return wrong("aws_s3_enable_kms and aws_s3_server_side_encryption exclude each other".into());
    }
    if !s3.kms_key.is_empty() && !s3.enable_kms {
        return wrong("aws_s3_kms_key needs aws_s3_enable_kms".into());
    }
    check_s3(&s3).map_err(Error::bad_request)?;
    Ok(s3)
}

/// `host` or `host:port`.
fn endpoint(s3: &S3) -> Result<String> {
    let (scheme, rest) = s3.endpoint.split_once("://").map_or((None, s3.endpoint.as_str()), |(s, r)| (Some(s), r));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match scheme {
        None | Some("https") if !s3.disable_tls => {}
        None | Some("http") if s3.disable_tls => {}
        Some("http") => return wrong("aws_s3_endpoint is one without TLS: set aws_s3_disable_tls".into()),
        Some("https") => return wrong("aws_s3_endpoint is one with TLS: unset aws_s3_disable_tls".into()),
        _ => return wrong("aws_s3_endpoint must be host, host:port, or a URL with http:// or https://".into()),
    }
    if rest.contains(['/', '?', '#', '@', '\\']) {
        return wrong("aws_s3_endpoint must be host or host:port, without a path, a query or a user".into());
    }
    Ok(rest.to_owned())
}

/// Whether keys can begin so.
pub fn is_prefix(path_prefix: &str, file_prefix: &str) -> Result<()> {
    let odd = |c: char| c.is_control() || c == '\\';
    if path_prefix.len() + file_prefix.len() > PREFIX_BYTES || path_prefix.contains(odd) || file_prefix.contains(odd) {
        return wrong(format!("path_prefix and file_prefix are no begin of a key: at most {PREFIX_BYTES} bytes"));
    }
    if path_prefix.trim_matches('/').split('/').any(|part| matches!(part, "." | "..")) || path_prefix.contains("//") {
        return wrong("path_prefix has an empty part, '.' or '..', which servers read differently".into());
    }
    Ok(())
}

fn wrong<T>(text: String) -> Result<T> {
    Err(Error::bad_request(text))
}

/// All but the secrets.
pub fn show(s3: S3, m: &mut Map<String, Value>) {
    m.insert("aws_s3_timeout".into(), s3.timeout().as_secs().into());
    m.insert("aws_s3_bucket".into(), s3.bucket.into());
    m.insert("aws_s3_region".into(), s3.region.into());
    m.insert("aws_access_key_id".into(), s3.access_key_id.into());
    m.insert("aws_s3_endpoint".into(), s3.endpoint.into());
    m.insert("aws_s3_disable_tls".into(), s3.disable_tls.into());
    m.insert("aws_s3_force_path_style".into(), s3.force_path_style.into());
    m.insert("aws_s3_server_side_encryption".into(), s3.server_side_encryption.into());
    m.insert("aws_s3_enable_kms".into(), s3.enable_kms.into());
    m.insert("aws_s3_kms_key".into(), s3.kms_key.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid_one() -> S3 {
        let secret_access_key = Secret::new("s3cr3t".to_owned());
        let text = str::to_owned;
        let (bucket, region, access_key_id) = (text("snaps"), text("eu-test"), text("AKIA"));
        S3 { bucket, region, access_key_id, secret_access_key, ..S3::default() }
    }

    #[test]
    fn what_is_wrong_of_a_target_is_said_by_its_parameter() {
        assert!(valid(valid_one()).is_ok());
        let refused = |change: fn(&mut S3), names: &str| {
            let mut s3 = valid_one();
            change(&mut s3);
            let text = valid(s3).map(|_| ()).unwrap_err().to_string();
            assert!(text.contains(names) && !text.contains("s3cr3t"), "{names}: {text}");
        };
        refused(|s| s.bucket.clear(), "aws_s3_bucket is required");
        refused(|s| s.region.clear(), "aws_s3_region is required");
        refused(|s| s.access_key_id.clear(), "aws_access_key_id is required");
        refused(|s| s.secret_access_key = Secret::default(), "aws_secret_access_key is required");
        refused(|s| s.secret_access_key = Secret::new("s3cr3t ".into()), "aws_secret_access_key must be");
        refused(|s| s.bucket = "a/b".into(), "not a bucket's name");
        refused(|s| s.bucket = "Upper".into(), "not a bucket's name");
        refused(|s| s.bucket = "with.point".into(), "aws_s3_force_path_style");
        refused(|s| s.region = "eu/1".into(), "aws_s3_region");
        refused(|s| s.endpoint = "http://h".into(), "aws_s3_disable_tls");
        refused(|s| s.endpoint = "ftp://h".into(), "aws_s3_endpoint");
        refused(|s| s.endpoint = "h/path".into(), "without a path");
        refused(|s| s.endpoint = "user@h".into(), "a user");
        refused(|s| s.endpoint = "h:port".into(), "aws_s3_endpoint");
        refused(|s| s.kms_key = "k".into(), "aws_s3_enable_kms");
        refused(|s| (s.enable_kms, s.server_side_encryption) = (true, true), "exclude");
        for (prefix, fits) in
            [("a/b/", true), ("", true), ("/", true), ("a//b", false), ("../a", false), ("a\nb", false)]
        {
            assert_eq!(is_prefix(prefix, "b").is_ok(), fits, "{prefix:?}");
        }
    }

    #[test]
    fn a_time_limit_is_no_moment_and_no_day() {
        let secs = |n: i128| timeout(Nanos(n * 1_000_000_000)).ok();
        assert_eq!([secs(5), secs(120), secs(3600)], [Some(5), Some(120), Some(3600)]);
        assert_eq!([secs(0), secs(4), secs(-5), secs(3601), secs(i128::from(u64::MAX))], [None; 5]);
    }

    #[test]
    fn another_access_key_needs_its_own_secret() {
        let given = || Given {
            bucket: None,
            region: None,
            access_key_id: Some("AKIA".into()),
            secret_access_key: None,
            session_token: None,
            endpoint: Some("https://127.0.0.1:9000/".into()),
            disable_tls: None,
            force_path_style: Some(true),
            server_side_encryption: None,
            enable_kms: None,
            kms_key: None,
            timeout: None,
        };
        let kept = given().over(valid_one()).unwrap();
        assert_eq!((kept.secret_access_key.expose().as_str(), kept.endpoint.as_str()), ("s3cr3t", "127.0.0.1:9000"));
        let other = Given { access_key_id: Some("OTHER".into()), ..given() };
        let text = other.over(valid_one()).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("aws_secret_access_key is required"), "{text}");
    }
}
