//! What is likely a mistake in a policy that can be read.
//!
//! A [`Finding`] is about the text of one policy alone: what other policies say, which mounts there are and who holds
//! the policy is not known here. [`explain`](crate::Acl::explain) answers for a token.

mod cover;
mod rules;

use std::time::SystemTime;

use holdfast_hcl::{Object, Position};

use crate::path::Specificity;
use crate::{Policy, PolicyError, Rule};

/// What the text does not say.
#[derive(Clone, Debug)]
pub struct LintOptions {
    /// Where kv version 2 is mounted, without slashes at the ends.
    pub kv2_mounts: Vec<String>,
    /// The time by which rules have ended.
    pub now: SystemTime,
}

/// One thing that is likely a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands.
    pub position: Position,
    /// The path of the rule, as written; none of the whole policy.
    pub path: Option<String>,
    /// What kind it is.
    pub check: LintCheck,
    /// What is wrong with it, in a sentence.
    pub message: String,
    /// A path to write instead.
    pub instead: Option<String>,
}

/// The kinds of findings. Their names are for programs and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LintCheck {
    /// There are no rules.
    NoRules,
    /// A slash at the start, which has no effect or, with a second one, keeps the rule from matching.
    LeadingSlash,
    /// `v1/` before the path.
    V1Prefix,
    /// A slash at the end of a rule that grants more than listing.
    TrailingSlash,
    /// `*` that is not at the end.
    StarWithin,
    /// `+` that is not a whole segment.
    PlusWithin,
    /// A template that has no value for anyone.
    UnknownTemplate,
    /// The same path as that of an earlier rule.
    Duplicate,
    /// Another rule counts wherever this one matches.
    Shadowed,
    /// A path of kv version 2 without `data/`, `metadata/` or their kin.
    Kv2Path,
    /// `list` on `data/`, where nothing can be listed.
    Kv2List,
    /// More than anyone needs.
    TooWide,
    /// `sudo` is granted.
    Sudo,
    /// No capabilities.
    NoCapabilities,
    /// `deny` together with others.
    DenyWithOthers,
    /// Another rule grants within what this one denies.
    DenyGrantedAround,
    /// The rule has ended.
    Expired,
    /// It asks for an approval, so that it refuses every request.
    Approval,
    /// Parameters that no request can satisfy.
    Parameters,
}

impl LintCheck {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            LintCheck::NoRules => "no-rules",
            LintCheck::LeadingSlash => "leading-slash",
            LintCheck::V1Prefix => "v1-prefix",
            LintCheck::TrailingSlash => "trailing-slash",
            LintCheck::StarWithin => "star-within",
            LintCheck::PlusWithin => "plus-within",
            LintCheck::UnknownTemplate => "unknown-template",
            LintCheck::Duplicate => "duplicate",
            LintCheck::Shadowed => "shadowed",
            LintCheck::Kv2Path => "kv2-path",
            LintCheck::Kv2List => "kv2-list",
            LintCheck::TooWide => "too-wide",
            LintCheck::Sudo => "sudo",
            LintCheck::NoCapabilities => "no-capabilities",
            LintCheck::DenyWithOthers => "deny-with-others",
            LintCheck::DenyGrantedAround => "deny-granted-around",
            LintCheck::Expired => "expired",
            LintCheck::Approval => "approval",
            LintCheck::Parameters => "parameters",
        }
    }
}

/// Looks for mistakes in a policy's text. The findings are in the order of the text.
///
/// # Errors
/// The text is no policy.
pub fn lint(text: &str, options: &LintOptions) -> Result<Vec<Finding>, PolicyError> {
    let policy = Policy::parse("lint", text)?;
    // A second time, since a policy keeps neither a slash before a path nor what stands beside a deny.
    let document: Object = holdfast_hcl::parse(text)?;
    let blocks = document.blocks("path", 1)?;
    let written: Vec<Written<'_>> = policy
        .rules()
        .iter()
        .zip(&blocks)
        .map(|(rule, block)| Written {
            rule,
            position: block.labels[0].position,
            label: block.label(0),
            body: block.body,
            specificity: Specificity::of(&rule.path),
        })
        .collect();
    let mut findings = Vec::new();
    if written.is_empty() {
        findings.push(Finding {
            position: Position::START,
            path: None,
            check: LintCheck::NoRules,
            message: "there is no rule: it grants nothing".to_owned(),
            instead: None,
        });
    }
    for (index, one) in written.iter().enumerate() {
        let mut about = About { one, findings: &mut findings };
        rules::of_path(&mut about);
        rules::of_kv2(&mut about, &written, &options.kv2_mounts);
        rules::of_grants(&mut about, options.now);
        rules::beside_others(&mut about, &written, index);
    }
    findings.sort_by_key(|finding| (finding.position, finding.check));
    Ok(findings)
}

/// A rule, with what its text says.
struct Written<'a> {
    rule: &'a Rule,
    position: Position,
    label: &'a str,
    body: &'a Object,
    specificity: Specificity,
}

/// The rule that is looked at.
struct About<'a, 'f> {
    one: &'a Written<'a>,
    findings: &'f mut Vec<Finding>,
}

impl<'a> About<'a, '_> {
    fn rule(&self) -> &'a Rule {
        self.one.rule
    }

    fn found(&mut self, check: LintCheck, message: impl Into<String>) {
        self.found_at(self.one.position, check, message, None);
    }

    fn found_with(&mut self, check: LintCheck, message: impl Into<String>, instead: impl Into<String>) {
        self.found_at(self.one.position, check, message, Some(instead.into()));
    }

    /// At a key of the rule.
    fn found_in(&mut self, key: &str, check: LintCheck, message: impl Into<String>) {
        let position = self.one.body.attribute(key).map_or(self.one.position, holdfast_hcl::Item::position);
        self.found_at(position, check, message, None);
    }

    fn found_at(&mut self, position: Position, check: LintCheck, message: impl Into<String>, instead: Option<String>) {
        let path = Some(self.one.label.to_owned());
        self.findings.push(Finding { position, path, check, message: message.into(), instead });
    }
}
