//! `list_scan_response_keys_filter_path`: a template that makes, of each key
//! of a listing, the path that the caller must be allowed to read (or, for a
//! key that ends in `/`, to list) to be shown that key.
//!
//! The reference takes Go's templates. What such a rule needs of them is
//! here: text, `{{ .path }}` (the path listed, ending in `/`), `{{ .key }}`,
//! comments, and `-` at a brace to drop the blanks beside it.

use crate::PolicyErrorKind;

/// A template that makes a path of a listed path and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseFilter {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Path,
    Key,
}

impl ResponseFilter {
    /// Reads a template; it must hold the key.
    pub(crate) fn parse(text: &str) -> Result<ResponseFilter, PolicyErrorKind> {
        let refuse = || PolicyErrorKind::FilterTemplate(text.to_owned());
        let mut parts = Vec::new();
        let mut rest = text;
        let mut trim = false;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (mut action, after) = behind.split_once("}}").ok_or_else(refuse)?;
            let mut before = if trim { before.trim_start() } else { before };
            if let Some(inner) = action.strip_prefix('-').filter(|a| a.starts_with([' ', '\n', '\t'])) {
                before = before.trim_end();
                action = inner;
            }
            trim = false;
            if let Some(inner) = action.strip_suffix('-').filter(|a| a.ends_with([' ', '\n', '\t'])) {
                trim = true;
                action = inner;
            }
            parts.push(Part::Text(before.to_owned()));
            match action.trim() {
                ".path" => parts.push(Part::Path),
                ".key" => parts.push(Part::Key),
                comment if comment.starts_with("/*") && comment.ends_with("*/") => {}
                field if is_field(field) => return Err(PolicyErrorKind::FilterWithoutKey),
                _ => return Err(refuse()),
            }
            rest = after;
        }
        let rest = if trim { rest.trim_start() } else { rest };
        parts.push(Part::Text(rest.to_owned()));
        if !parts.contains(&Part::Key) {
            return Err(PolicyErrorKind::FilterWithoutKey);
        }
        let text = text.to_owned();
        Ok(ResponseFilter { text, parts })
    }

    /// The template as written.
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// The path to be judged for `key` in the listing of `path`.
    pub fn path_of(&self, path: &str, key: &str) -> String {
        let mut result = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => result.push_str(text),
                Part::Key => result.push_str(key),
                Part::Path => {
                    result.push_str(path);
                    if !path.ends_with('/') {
                        result.push('/');
                    }
                }
            }
        }
        result
    }
}

fn is_field(text: &str) -> bool {
    text.strip_prefix('.').is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::ResponseFilter;
    use crate::PolicyErrorKind;

    #[test]
    fn path_and_key_are_filled_in() {
        let path = |template: &str| ResponseFilter::parse(template).unwrap().path_of("kv/f", "a/");
        assert_eq!(path("{{ .path }}{{ .key }}"), "kv/f/a/");
        assert_eq!(path("secret/data/{{.key}}"), "secret/data/a/");
        assert_eq!(path("x/ {{- .key -}} /y{{/* c */}}"), "x/a//y");
    }

    #[test]
    fn a_template_without_the_key_or_with_more_is_refused() {
        for text in ["plain", "{{ .path }}", "{{ .nothing }}"] {
            assert_eq!(ResponseFilter::parse(text), Err(PolicyErrorKind::FilterWithoutKey));
        }
        for text in ["{{ .key", "{{ .key | x }}", "{{ printf .key }}"] {
            assert_eq!(ResponseFilter::parse(text), Err(PolicyErrorKind::FilterTemplate(text.to_owned())));
        }
    }
}
