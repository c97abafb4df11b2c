//! All policies of a token together.

use std::sync::Arc;
use std::time::SystemTime;

use crate::compiled::{Compiled, Entry, Source};
use crate::explain::{self, DecidingRule, Explanation, NotApplied, RuleOf, WhyNotApplied};
use crate::path::PathKind;
use crate::{Check, Decision, Operation, Permissions, Policy, ResponseFilter, TemplateValues};

/// The union of a token's policies, arranged for matching.
#[derive(Debug)]
pub struct Acl {
    root: Option<Root>,
    policies: Vec<Arc<Policy>>,
    sources: Vec<Source>,
    compiled: Compiled,
    /// When the first of the rules in `compiled` ends.
    valid_until: Option<SystemTime>,
}

/// Why there is no [`Acl`]: every request of the token is refused, with 400
/// and `Forbidden`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AclError {
    /// A template's value has a slash or a wildcard, and its policy does not
    /// allow that.
    #[error(
        "the value of {{{{{template}}}}} in policy {policy:?} has a character that the policy does not allow in a path; see allow_slashes_in_identity_templates and allow_wildcards_in_identity_templates"
    )]
    TemplateValue {
        /// The policy.
        policy: Arc<str>,
        /// What stands between the braces.
        template: String,
    },
    /// Templates made `+*` of a path, which no policy may have.
    #[error("a template in policy {policy:?} makes a path with '+*', which is forbidden")]
    PlusStar {
        /// The policy.
        policy: Arc<str>,
    },
}

/// One expression of an [`Acl`], for answers that show them all.
#[derive(Clone, Copy, Debug)]
pub struct ResultantRule<'a> {
    /// The kind of the expression.
    pub kind: PathKind,
    /// The expression, with its `*`.
    pub expression: &'a str,
    /// What is said of it.
    pub permissions: &'a Permissions,
}

/// The policy `root` of a namespace.
#[derive(Clone, Debug)]
struct Root {
    /// Its path, with a slash at its end; the root's is empty.
    namespace: Arc<str>,
    granting: Arc<[Arc<str>]>,
}

impl Acl {
    /// Unites policies. `values` fill in templates; without them, or where
    /// one is missing, a rule with a template does not apply. Where rules for
    /// one path have different response filters, the earlier policy's counts.
    ///
    /// # Errors
    /// A template's value that may not stand in a path.
    pub fn new(
        policies: &[Arc<Policy>],
        values: Option<&dyn TemplateValues>,
        now: SystemTime,
    ) -> Result<Acl, AclError> {
        let root = policies
            .iter()
            .find(|policy| policy.is_root())
            .map(|policy| Root { namespace: policy.namespace().into(), granting: Arc::from([policy.name().clone()]) });
        let mut acl = Acl {
            root,
            policies: policies.to_vec(),
            sources: Vec::new(),
            compiled: Compiled::default(),
            valid_until: None,
        };
        // Nothing is beside the root namespace's.
        if acl.root.as_ref().is_none_or(|root| !root.namespace.is_empty()) {
            acl.sources = sources(policies, values)?;
            acl.compiled = acl.compile(now);
            let living = acl.sources.iter().filter_map(|source| acl.expiration(source));
            acl.valid_until = living.filter(|end| *end > now).min();
        }
        Ok(acl)
    }

    /// Whether a policy is `root`: everything in its namespace and below is allowed.
    pub fn is_root(&self) -> bool {
        self.root.is_some()
    }

    fn root_at(&self, path: &str) -> Option<&Root> {
        self.root.as_ref().filter(|root| path.trim_start_matches('/').starts_with(&*root.namespace))
    }

    /// When the first rule ends. An `Acl` answers rightly after that too, but
    /// slowly: replace it by a new one.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.valid_until
    }

    /// Decides on a request.
    pub fn check(&self, check: &Check<'_>) -> Decision {
        if let Some(root) = self.root_at(check.path) {
            return Decision::root(root.granting.clone());
        }
        self.at(check.now, |compiled| Decision::by(decisive(compiled, check).map(|e| &e.permissions), check))
    }

    /// Decides on a request as [`Acl::check`] does, and says what decided.
    pub fn explain<T>(&self, check: &Check<'_>, tell: impl FnOnce(Explanation<'_>) -> T) -> T {
        if let Some(root) = self.root_at(check.path) {
            let decision = Decision::root(root.granting.clone());
            return tell(Explanation { decision, rule: None, also_matching: Vec::new(), not_applied: Vec::new() });
        }
        self.at(check.now, |compiled| {
            let entry = decisive(compiled, check);
            let of = |source: &Source| {
                let policy = &self.policies[source.policy];
                RuleOf { policy, rule: &policy.rules()[source.rule] }
            };
            let exists = |source: &Source| self.expiration(source).is_none_or(|end| end > check.now);
            // The same question to one rule alone.
            let matches =
                |source: &Source| decisive(&Compiled::new(&self.policies, std::iter::once(source)), check).is_some();
            let rule = entry.map(|entry| DecidingRule {
                expression: &entry.expression,
                permissions: &entry.permissions,
                sources: self
                    .sources
                    .iter()
                    .filter(|source| source.expression == entry.expression && exists(source))
                    .map(of)
                    .collect(),
            });
            let decisive = rule.as_ref().map_or("", |rule| rule.expression);
            let (mut also_matching, mut not_applied) = (Vec::new(), self.without_value());
            for source in &self.sources {
                let expression = source.expression.as_str();
                if !exists(source) {
                    if not_applied.len() < explain::OTHERS && matches(source) {
                        not_applied.push(NotApplied { rule: of(source), why: WhyNotApplied::Expired });
                    }
                } else if expression != decisive
                    && also_matching.len() < explain::OTHERS
                    && !also_matching.contains(&expression)
                    && matches(source)
                {
                    also_matching.push(expression);
                }
            }
            let decision = Decision::by(entry.map(|e| &e.permissions), check);
            tell(Explanation { decision, rule, also_matching, not_applied })
        })
    }

    /// Rules whose templates have no value.
    fn without_value(&self) -> Vec<NotApplied<'_>> {
        let mut found = Vec::new();
        for (policy_index, policy) in self.policies.iter().enumerate() {
            for (rule_index, rule) in policy.rules().iter().enumerate() {
                let place = (policy_index, rule_index);
                let is_filled = || self.sources.binary_search_by_key(&place, |s| (s.policy, s.rule)).is_ok();
                if rule.template.is_some() && found.len() < explain::OTHERS && !is_filled() {
                    let rule = RuleOf { policy, rule };
                    found.push(NotApplied { rule, why: WhyNotApplied::NoTemplateValue });
                }
            }
        }
        found
    }

    /// The policies, in the order in which they were united.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// The names of all that may be done at a path, as `sys/capabilities`
    /// answers: `["root"]`, `["deny"]`, or a sorted list. Of a path that ends
    /// in `/`, what may be listed counts.
    pub fn capabilities(&self, path: &str, now: SystemTime) -> Vec<&'static str> {
        if self.root_at(path).is_some() {
            return vec!["root"];
        }
        let path = path.trim_start_matches('/');
        self.at(now, |compiled| {
            let entry = if path.ends_with('/') { compiled.find_for_listing(path) } else { compiled.find(path) };
            entry.map_or_else(|| vec!["deny"], |entry| entry.permissions.capabilities.names())
        })
    }

    /// Whether a filter shows `key` in the listing of `path`: a folder (`x/`)
    /// if the caller may list the path that the filter makes of it, all else
    /// if the caller may read that path.
    pub fn shows(&self, filter: &ResponseFilter, path: &str, key: &str, now: SystemTime) -> bool {
        let operation = if key.ends_with('/') { Operation::List } else { Operation::Read };
        let path = filter.path_of(path, key);
        self.check(&Check::new(operation, &path, now)).allowed
    }

    /// Whether anything at all is allowed at `prefix` or somewhere below it:
    /// for showing the mounts of which a caller may use something.
    pub fn reaches(&self, prefix: &str, now: SystemTime) -> bool {
        if self.root_at(prefix).is_some() {
            return true;
        }
        self.at(now, |compiled| {
            compiled.entries.iter().any(|entry| {
                let names = entry.permissions.capabilities.names();
                names != ["deny"] && may_match_below(&entry.expression, prefix)
            })
        })
    }

    /// Every expression with all that is said of it, sorted.
    pub fn rules(&self) -> Vec<ResultantRule<'_>> {
        let mut rules: Vec<_> = self
            .compiled
            .entries
            .iter()
            .map(|entry| ResultantRule {
                kind: PathKind::of(&entry.expression),
                expression: &entry.expression,
                permissions: &entry.permissions,
            })
            .collect();
        rules.sort_by_key(|rule| rule.expression);
        rules
    }

    /// Runs `ask` on the rules that exist at `now`.
    fn at<T>(&self, now: SystemTime, ask: impl FnOnce(&Compiled) -> T) -> T {
        match self.valid_until {
            Some(end) if end <= now => ask(&self.compile(now)),
            _ => ask(&self.compiled),
        }
    }

    fn compile(&self, now: SystemTime) -> Compiled {
        let exists = |source: &&Source| self.expiration(source).is_none_or(|end| end > now);
        Compiled::new(&self.policies, self.sources.iter().filter(exists))
    }

    /// When a rule ends: with its policy or before.
    fn expiration(&self, source: &Source) -> Option<SystemTime> {
        let policy = &self.policies[source.policy];
        let rule = policy.rules()[source.rule].expiration;
        [policy.expiration(), rule].into_iter().flatten().min()
    }
}

/// The expression that decides on a request.
fn decisive<'a>(compiled: &'a Compiled, check: &Check<'_>) -> Option<&'a Entry> {
    let path = check.path.trim_start_matches('/');
    if check.operation.lists() { compiled.find_for_listing(path) } else { compiled.find(path) }
}

/// The rules of all policies with their paths filled in.
fn sources(policies: &[Arc<Policy>], values: Option<&dyn TemplateValues>) -> Result<Vec<Source>, AclError> {
    let mut sources = Vec::new();
    for (policy_index, policy) in policies.iter().enumerate() {
        for (rule_index, rule) in policy.rules().iter().enumerate() {
            let filled = match &rule.template {
                None => Some(rule.path.clone()),
                Some(template) => template.fill(values, policy.allowances()).map_err(|forbidden| {
                    AclError::TemplateValue { policy: policy.name().clone(), template: forbidden.template }
                })?,
            };
            let Some(path) = filled else { continue };
            if path.contains("+*") {
                let policy = policy.name().clone();
                return Err(AclError::PlusStar { policy });
            }
            sources.push(Source {
                expression: format!("{}{path}", policy.namespace()),
                policy: policy_index,
                rule: rule_index,
            });
        }
    }
    Ok(sources)
}

/// Whether an expression matches some path that begins with `prefix`.
fn may_match_below(expression: &str, prefix: &str) -> bool {
    let (body, glob) = match expression.strip_suffix('*') {
        Some(body) => (body, true),
        None => (expression, false),
    };
    let mut ours = body.split('/').peekable();
    let mut theirs = prefix.split('/').peekable();
    loop {
        let (Some(our), Some(their)) = (ours.next(), theirs.next()) else {
            return false;
        };
        let (our_last, their_last) = (ours.peek().is_none(), theirs.peek().is_none());
        if their_last {
            // The prefix may end within a segment.
            return our == "+" || our.starts_with(their) || (our_last && glob && their.starts_with(our));
        }
        if our_last && glob {
            return their.starts_with(our);
        }
        if our != "+" && our != their {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::may_match_below;

    #[test]
    fn what_an_expression_reaches_below_a_prefix() {
        for expression in ["kv/a", "kv/", "kv/*", "k*", "*", "+/x", "+/*", "kv/+/a", "+/+"] {
            assert!(may_match_below(expression, "kv/"), "{expression}");
        }
        for expression in ["kv", "kw/a", "kvx/*", "+", "sys/*", "x/+"] {
            assert!(!may_match_below(expression, "kv/"), "{expression}");
        }
        assert!(may_match_below("a/+/c/d", "a/b/c/"));
        assert!(!may_match_below("a/+/d/d", "a/b/c/"));
        assert!(may_match_below("a/+/*", "a/b/c/"));
        assert!(!may_match_below("a/+", "a/b/c/"));
    }
}
