//! A policy: rules under a name.

use std::sync::Arc;
use std::time::SystemTime;

use holdfast_hcl::Object;

use crate::rule::{Rule, refuse_unknown_keys};
use crate::template::Allowances;
use crate::{PolicyError, builtin};

/// The keys that may stand in a policy.
const KEYS: &[&str] = &["name", "path"];

/// A policy that has been read.
#[derive(Clone, Debug)]
pub struct Policy {
    name: Arc<str>,
    namespace: Arc<str>,
    rules: Vec<Rule>,
    expiration: Option<SystemTime>,
    allowances: Allowances,
}

impl Policy {
    /// Reads a policy's text, HCL or JSON. A text without rules is a policy
    /// that allows nothing. A `name` in the text has no meaning.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(name: &str, text: &str) -> Result<Policy, PolicyError> {
        // Blanks alone are a document without anything.
        let document: Object = holdfast_hcl::parse(text)?;
        refuse_unknown_keys(&document, KEYS)?;
        let mut rules = Vec::new();
        for block in document.blocks("path", 1)? {
            rules.push(Rule::parse(&block)?);
        }
        Ok(Policy::new(name, rules))
    }

    /// The policy `root`, which allows everything.
    pub fn root() -> Policy {
        Policy::new("root", Vec::new())
    }

    /// The policy `response-wrapping`, the only one of a wrapping token.
    pub fn response_wrapping() -> Policy {
        Policy::parse("response-wrapping", builtin::RESPONSE_WRAPPING_POLICY).expect("a constant that a test reads")
    }

    fn new(name: &str, rules: Vec<Rule>) -> Policy {
        Policy {
            name: name.into(),
            namespace: "".into(),
            rules,
            expiration: None,
            allowances: Allowances { slashes: false, wildcards: false },
        }
    }

    /// Puts the policy into a namespace: `path` (`a/b/`, empty for the root)
    /// stands before the path of every rule.
    #[must_use]
    pub fn in_namespace(mut self, path: &str) -> Policy {
        self.namespace = path.into();
        self
    }

    /// Lets the policy end: from `at` on its rules do not exist.
    #[must_use]
    pub fn expiring_at(mut self, at: Option<SystemTime>) -> Policy {
        self.expiration = at;
        self
    }

    /// Allows values of templates to bring `/` into a path
    /// (`allow_slashes_in_identity_templates`).
    #[must_use]
    pub fn allow_slashes_in_templates(mut self, allow: bool) -> Policy {
        self.allowances.slashes = allow;
        self
    }

    /// Allows values of templates to bring `*` and `+` into a path
    /// (`allow_wildcards_in_identity_templates`).
    #[must_use]
    pub fn allow_wildcards_in_templates(mut self, allow: bool) -> Policy {
        self.allowances.wildcards = allow;
        self
    }

    /// The name, as given.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The path of its namespace; empty for the root.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The rules in the order of the text.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// When the policy ends.
    pub fn expiration(&self) -> Option<SystemTime> {
        self.expiration
    }

    /// Whether this is `root`, which allows everything in its namespace and below.
    pub fn is_root(&self) -> bool {
        &*self.name == "root"
    }

    /// Whether a path has a template, so that what it allows depends on who
    /// asks.
    pub fn is_templated(&self) -> bool {
        self.rules.iter().any(|rule| rule.template.is_some())
    }

    pub(crate) fn allowances(&self) -> Allowances {
        self.allowances
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;
    use crate::DEFAULT_POLICY;

    #[test]
    fn the_built_in_texts_are_policies() {
        assert_eq!(Policy::response_wrapping().rules().len(), 3);
        let default = Policy::parse("default", DEFAULT_POLICY).unwrap();
        assert!(default.is_templated());
        assert_eq!(default.rules().len(), 17);
    }
}
