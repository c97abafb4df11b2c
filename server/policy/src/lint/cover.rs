//! Whether one path expression matches all that another one matches.

/// Whether `wide` matches every path that `narrow` matches.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, wide_glob) = cut(wide);
    let (narrow, narrow_glob) = cut(narrow);
    let last = wide.len() - 1;
    for (index, ours) in wide.iter().enumerate() {
        let Some(theirs) = narrow.get(index) else { return false };
        let is_their_last = index + 1 == narrow.len();
        // Only what begins so is known of the last segment of a glob.
        let is_open = is_their_last && narrow_glob;
        if index == last && wide_glob {
            return ours.is_empty() || (*theirs != "+" && theirs.starts_with(ours));
        }
        if is_open || (index == last) != is_their_last || (*ours != "+" && ours != theirs) {
            return false;
        }
    }
    true
}

/// The segments of an expression, and whether it ends in `*`, which the last segment is without.
fn cut(expression: &str) -> (Vec<&str>, bool) {
    let body = expression.strip_suffix('*');
    (body.unwrap_or(expression).split('/').collect(), body.is_some())
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn what_covers_what() {
        for (wide, narrow) in [
            ("*", "a"),
            ("*", "+/*"),
            ("a/*", "a/+/b*"),
            ("a/*", "a/b/c"),
            ("a/b*", "a/bc/+"),
            ("a/+", "a/b"),
            ("a/+/*", "a/b/c*"),
            ("+/+", "a/+"),
            ("s*", "sys/*"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("a", "*"),
            ("a/*", "a"),
            ("a/+", "a/b*"),
            ("a/+", "a/b/c"),
            ("a/b*", "a/+"),
            ("a/+/c", "a/b"),
            ("+/a", "b/+"),
            ("sys/a*", "sys/*"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
