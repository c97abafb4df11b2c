//! Rules arranged for matching.
//!
//! Exact paths are in a hash map. Prefixes are sorted, each knowing the
//! longest other prefix that it begins with: the longest prefix of a path is
//! the last that is not greater than the path, or one of those it begins
//! with. Expressions with `+` are in a tree of segments. All expressions but
//! the exact ones have a rank, their place in the order of specificity, so
//! that comparing two is comparing two numbers.

use std::collections::{BTreeMap, HashMap};

use crate::path::{PathKind, Specificity};
use crate::{Permissions, Policy};

/// The index of an expression in [`Compiled::entries`].
type Index = usize;

/// A rule of a policy, its path filled in.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub expression: String,
    /// The index of its policy, and of the rule in the policy.
    pub policy: usize,
    pub rule: usize,
}

/// One expression with all that is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub expression: String,
    pub permissions: Permissions,
    rank: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub entries: Vec<Entry>,
    exact: HashMap<Box<str>, Index>,
    prefixes: Vec<Prefix>,
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<str>,
    /// The longest other prefix with which this one begins.
    shorter: Option<usize>,
    entry: Index,
}

/// A node of the tree of segments.
#[derive(Debug, Default)]
struct Segment {
    literals: BTreeMap<Box<str>, usize>,
    plus: Option<usize>,
    /// The expression that ends here.
    end: Option<Index>,
    /// Expressions that end here in a text and `*`.
    globs: Vec<(Box<str>, Index)>,
}

impl Compiled {
    /// Unites and arranges rules.
    pub(crate) fn new<'a>(policies: &[std::sync::Arc<Policy>], sources: impl Iterator<Item = &'a Source>) -> Compiled {
        let mut entries: Vec<Entry> = Vec::new();
        let mut by_expression: HashMap<&str, Index> = HashMap::new();
        for source in sources {
            let policy = &policies[source.policy];
            let rule = &policy.rules()[source.rule];
            match by_expression.get(source.expression.as_str()) {
                Some(index) => entries[*index].permissions.unite(rule, policy.name()),
                None => {
                    by_expression.insert(&source.expression, entries.len());
                    entries.push(Entry {
                        expression: source.expression.clone(),
                        permissions: Permissions::of(rule, policy.name()),
                        rank: 0,
                    });
                }
            }
        }
        let mut compiled = Compiled { entries, ..Compiled::default() };
        compiled.rank();
        compiled.arrange();
        compiled
    }

    fn rank(&mut self) {
        let mut order: Vec<(Specificity, Index)> =
            self.entries.iter().enumerate().map(|(index, entry)| (Specificity::of(&entry.expression), index)).collect();
        order.sort();
        for (rank, (_, index)) in order.into_iter().enumerate() {
            self.entries[index].rank = rank;
        }
    }

    fn arrange(&mut self) {
        for (index, entry) in self.entries.iter().enumerate() {
            let expression = entry.expression.as_str();
            match PathKind::of(expression) {
                PathKind::Exact => {
                    self.exact.insert(expression.into(), index);
                }
                PathKind::Prefix => self.prefixes.push(Prefix {
                    text: expression[..expression.len() - 1].into(),
                    shorter: None,
                    entry: index,
                }),
                PathKind::Segments => insert_segments(&mut self.segments, expression, index),
            }
        }
        self.prefixes.sort_by(|a, b| a.text.cmp(&b.text));
        let mut open: Vec<usize> = Vec::new();
        for index in 0..self.prefixes.len() {
            while let Some(last) = open.last()
                && !self.prefixes[index].text.starts_with(&*self.prefixes[*last].text)
            {
                open.pop();
            }
            self.prefixes[index].shorter = open.last().copied();
            open.push(index);
        }
    }

    /// The expression that decides on a path.
    pub(crate) fn find(&self, path: &str) -> Option<&Entry> {
        let entry = self.exact(path).or_else(|| self.most_specific(path))?;
        Some(&self.entries[entry])
    }

    /// The expression that decides on listing a path; whether `path` ends in
    /// a slash is all the same.
    pub(crate) fn find_for_listing(&self, path: &str) -> Option<&Entry> {
        let bare = path.strip_suffix('/').unwrap_or(path);
        let added;
        let folder = if path.ends_with('/') {
            path
        } else {
            added = format!("{path}/");
            &added
        };
        let entry = self
            .exact(folder)
            .or_else(|| self.exact(bare))
            .or_else(|| self.most_specific(folder))
            .or_else(|| self.most_specific(bare))?;
        Some(&self.entries[entry])
    }

    fn exact(&self, path: &str) -> Option<Index> {
        self.exact.get(path).copied()
    }

    fn most_specific(&self, path: &str) -> Option<Index> {
        let prefix = self.longest_prefix(path);
        match self.best_segments(path) {
            None => prefix,
            Some(segments) => match prefix {
                Some(prefix) if self.entries[prefix].rank > self.entries[segments].rank => Some(prefix),
                _ => Some(segments),
            },
        }
    }

    fn longest_prefix(&self, path: &str) -> Option<Index> {
        let behind = self.prefixes.partition_point(|prefix| &*prefix.text <= path);
        let mut candidate = behind.checked_sub(1);
        while let Some(index) = candidate {
            let prefix = &self.prefixes[index];
            if path.starts_with(&*prefix.text) {
                return Some(prefix.entry);
            }
            candidate = prefix.shorter;
        }
        None
    }

    /// Walks the tree by every way that fits; each node is visited at most
    /// once, whatever the path.
    fn best_segments(&self, path: &str) -> Option<Index> {
        if self.segments.is_empty() {
            return None;
        }
        let mut best: Option<Index> = None;
        let mut consider = |entry: Index| {
            if best.is_none_or(|other| self.entries[entry].rank > self.entries[other].rank) {
                best = Some(entry);
            }
        };
        let mut open = vec![(0, Some(path))];
        while let Some((node, rest)) = open.pop() {
            let node = &self.segments[node];
            let Some(rest) = rest else {
                if let Some(entry) = node.end {
                    consider(entry);
                }
                continue;
            };
            for (text, entry) in &node.globs {
                if rest.starts_with(&**text) {
                    consider(*entry);
                }
            }
            let (segment, rest) = match rest.split_once('/') {
                Some((segment, rest)) => (segment, Some(rest)),
                None => (rest, None),
            };
            if let Some(child) = node.literals.get(segment) {
                open.push((*child, rest));
            }
            if let Some(child) = node.plus {
                open.push((child, rest));
            }
        }
        best
    }
}

fn insert_segments(nodes: &mut Vec<Segment>, expression: &str, entry: Index) {
    if nodes.is_empty() {
        nodes.push(Segment::default());
    }
    let (body, glob) = match expression.strip_suffix('*') {
        Some(body) => (body, true),
        None => (expression, false),
    };
    let mut node = 0;
    let mut segments = body.split('/').peekable();
    while let Some(segment) = segments.next() {
        if glob && segments.peek().is_none() {
            nodes[node].globs.push((segment.into(), entry));
            return;
        }
        let new = nodes.len();
        let child = if segment == "+" {
            *nodes[node].plus.get_or_insert(new)
        } else {
            *nodes[node].literals.entry(segment.into()).or_insert(new)
        };
        if child == new {
            nodes.push(Segment::default());
        }
        node = child;
    }
    nodes[node].end = Some(entry);
}
