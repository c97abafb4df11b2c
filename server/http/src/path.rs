//! The path of a request: cleaned, decoded, checked.

/// What to do with a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    /// Below `/v1/`, decoded.
    Api(String),
    /// Answer 307 to this place.
    Redirect(String),
    /// Not below `/v1`.
    Unknown,
    /// 400 with this text.
    Refused(&'static str),
    /// 400 without a body: characters that cannot be printed.
    Unprintable,
    /// 400 in plain text: an escape that is none.
    Malformed,
}

/// Check a raw path (before the query).
pub fn check(raw: &str) -> Checked {
    if raw == "/" {
        return Checked::Redirect("/ui/".into());
    }
    if matches!(raw, "/v1/sys" | "/v1/sys/pprof") {
        return Checked::Redirect(format!("{raw}/"));
    }
    if !raw.starts_with("/v1") {
        return Checked::Unknown;
    }
    if needs_cleaning(raw) {
        return Checked::Redirect(clean(raw));
    }
    let Some(api) = raw.strip_prefix("/v1/") else { return Checked::Unknown };
    let Some(decoded) = decode(api) else { return Checked::Malformed };
    let Ok(text) = String::from_utf8(decoded) else { return Checked::Refused("path is not valid UTF-8") };
    if text.split('/').any(|s| s == "..") {
        return Checked::Refused("relative paths not supported");
    }
    if text.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Checked::Unprintable;
    }
    Checked::Api(text)
}

/// Characters that Unicode counts as neither letters, marks, numbers, punctuation, symbols nor the blank.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

fn needs_cleaning(raw: &str) -> bool {
    let segments = || raw.split('/').skip(1);
    let count = segments().count();
    segments().enumerate().any(|(i, s)| s == "." || s == ".." || (s.is_empty() && i + 1 < count))
}

fn clean(raw: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in raw.split('/').skip(1) {
        match segment {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            s => out.push(s),
        }
    }
    let mut path = format!("/{}", out.join("/"));
    if raw.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// Undo percent-encoding.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Some(bytes.to_vec());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            let hex = text.get(i + 1..i + 3)?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_and_double_slashes_are_redirected_and_escaped_ones_refused() {
        assert_eq!(check("/v1/a/../b"), Checked::Redirect("/v1/b".into()));
        assert_eq!(check("/v1/a//b/"), Checked::Redirect("/v1/a/b/".into()));
        assert_eq!(check("/v1/a/%2e%2e/b"), Checked::Refused("relative paths not supported"));
        assert_eq!(check("/v1/a..b"), Checked::Api("a..b".into()));
        assert_eq!(check("/v1/a%20b/"), Checked::Api("a b/".into()));
        assert_eq!(check("/v1/a%00"), Checked::Unprintable);
        assert!(matches!(check("/v1/%ff"), Checked::Refused(_)));
        assert_eq!(check("/v1/%zz"), Checked::Malformed);
        assert_eq!(check("/v2/x"), Checked::Unknown);
    }
}
