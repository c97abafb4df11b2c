//! Why a request is allowed or refused: the decision with all that it stands on.
//!
//! The decision is that of [`Acl::check`](crate::Acl::check): both ask the same rules in the same way.

use std::sync::Arc;

use crate::{Decision, Permissions, Policy, Rule};

/// Others are told about up to this number.
pub(crate) const OTHERS: usize = 32;

/// A decision and what it stands on.
#[derive(Clone, Debug)]
pub struct Explanation<'a> {
    /// As a request is answered.
    pub decision: Decision,
    /// What decided; none where everything is allowed, or nothing matches.
    pub rule: Option<DecidingRule<'a>>,
    /// Other expressions that match the path; they do not count. The first of them alone.
    pub also_matching: Vec<&'a str>,
    /// Rules that do not exist for this caller at this time. The first of them alone.
    pub not_applied: Vec<NotApplied<'a>>,
}

/// The expression that decided, with all that policies say of it.
#[derive(Clone, Debug)]
pub struct DecidingRule<'a> {
    /// With the namespace before it and templates filled in.
    pub expression: &'a str,
    /// What its rules say together.
    pub permissions: &'a Permissions,
    /// The rules that it is made of.
    pub sources: Vec<RuleOf<'a>>,
}

/// A rule and the policy that it stands in.
#[derive(Clone, Copy, Debug)]
pub struct RuleOf<'a> {
    /// Where it stands.
    pub policy: &'a Arc<Policy>,
    /// The rule as it was read.
    pub rule: &'a Rule,
}

/// A rule that does not exist for the caller.
#[derive(Clone, Copy, Debug)]
pub struct NotApplied<'a> {
    /// The rule.
    pub rule: RuleOf<'a>,
    /// What is missing.
    pub why: WhyNotApplied,
}

/// Why a rule does not exist for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNotApplied {
    /// A template in its path has no value for the caller.
    NoTemplateValue,
    /// It or its policy has ended; it would match.
    Expired,
}
