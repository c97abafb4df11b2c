//! The expressions that stand for paths, and which of two is more specific.

use std::cmp::Reverse;

/// What kind of expression a rule's path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// One path.
    Exact,
    /// Ends in `*` and has no `+`: all paths that begin so.
    Prefix,
    /// Has a segment that is `+`, and perhaps `*` at the end. A segment that
    /// only begins with `+` (not the first one) makes an expression this kind
    /// too, as in the reference, but stands for itself.
    Segments,
}

impl PathKind {
    /// The kind of an expression.
    pub fn of(expression: &str) -> PathKind {
        if expression == "+" || expression.starts_with("+/") || expression.contains("/+") {
            PathKind::Segments
        } else if expression.ends_with('*') {
            PathKind::Prefix
        } else {
            PathKind::Exact
        }
    }
}

/// The order in which expressions that match the same path count; the
/// greatest decides. Of two, the lower is, in this order: the one whose first
/// `+` or `*` comes earlier, the one that ends in `*`, the one with more `+`
/// segments, the shorter, the lexicographically smaller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    first_wildcard: usize,
    whole: bool,
    plus_segments: Reverse<usize>,
    length: usize,
    expression: String,
}

impl Specificity {
    /// How specific an expression is.
    pub fn of(expression: &str) -> Specificity {
        let whole = !expression.ends_with('*');
        let star = expression.len() - usize::from(!whole);
        // Any `+` counts here, as in the reference, even one that is only
        // part of a segment.
        let first_plus = match PathKind::of(expression) {
            PathKind::Segments => expression.find('+'),
            PathKind::Exact | PathKind::Prefix => None,
        };
        let plus_segments = expression.split('/').filter(|s| *s == "+").count();
        Specificity {
            first_wildcard: first_plus.unwrap_or(star),
            whole,
            plus_segments: Reverse(plus_segments),
            length: expression.len(),
            expression: expression.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PathKind, Specificity};

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(PathKind::of("kv/a"), PathKind::Exact);
        assert_eq!(PathKind::of("kv/a*b"), PathKind::Exact);
        assert_eq!(PathKind::of("kv/a+"), PathKind::Exact);
        assert_eq!(PathKind::of("kv/a*"), PathKind::Prefix);
        assert_eq!(PathKind::of("*"), PathKind::Prefix);
        assert_eq!(PathKind::of("+"), PathKind::Segments);
        assert_eq!(PathKind::of("kv/+b"), PathKind::Segments);
        assert_eq!(PathKind::of("kv/+/a*"), PathKind::Segments);
    }

    #[test]
    fn the_order_is_that_of_the_contract() {
        // Each is less specific than the next.
        for pair in [
            ["+/a", "kv/*"],
            ["kv/*", "kv/+"],
            ["kv/+/a*", "kv/+/a"],
            ["kv/+/+", "kv/+/a"],
            ["kv/a*", "kv/ab*"],
            ["kv/+/a", "kv/+/ab"],
            ["kv/+/a", "kv/+/b"],
        ] {
            assert!(Specificity::of(pair[0]) < Specificity::of(pair[1]), "{pair:?}");
        }
    }
}
