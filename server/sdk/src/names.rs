//! What a role or a user may be called.

/// A name as most methods and engines take it: `\w(([\w-.]+)?\w)?`. Anything else is no path.
///
/// ```
/// use holdfast_sdk::names::is_plain;
/// assert!(is_plain("ci.build-1") && is_plain("_") && !is_plain("-a") && !is_plain("a.") && !is_plain("a b"));
/// ```
pub fn is_plain(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(word) && name.ends_with(word) && name.chars().all(|c| word(c) || matches!(c, '-' | '.'))
}
