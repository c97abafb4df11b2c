//! Policies: what a token may do at which path.
//!
//! A [`Policy`] is read from HCL or JSON once, when it is written. An [`Acl`]
//! is the union of a token's policies, with the templates in their paths
//! filled in; it is immutable, and [`Acl::check`] answers for one request. An
//! `Acl` is meant to be kept as long as none of its policies, and nothing its
//! templates take a value from, has changed.
//!
//! ```
//! use std::{sync::Arc, time::SystemTime};
//! use holdfast_policy::{Acl, Check, Operation, Policy};
//!
//! let policy = Policy::parse("app", r#"
//!     path "secret/data/app/*" { capabilities = ["read"] }
//!     path "secret/data/app/root" { capabilities = ["deny"] }
//! "#)?;
//! let now = SystemTime::now();
//! let acl = Acl::new(&[Arc::new(policy)], None, now)?;
//! let read = |path| acl.check(&Check::new(Operation::Read, path, now)).allowed;
//! assert!(read("secret/data/app/db"));
//! assert!(!read("secret/data/app/root"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which rule counts
//!
//! Rules with the same path expression unite, whichever policies they come
//! from, and `deny` among them wins. Of several expressions that match a
//! path, one decides: the path itself if there is such a rule, else the most
//! specific (see [`Specificity`]). A deny on a less specific expression does
//! not touch an allow on a more specific one.
//!
//! A list or scan of `a/b/` is judged by `a/b/`, then by the rule that is
//! exactly `a/b`, then by expressions that match `a/b/`, and only if there is
//! none by expressions that match `a/b`. So a deny on `a/b/*` stops the list
//! of `a/b` too, whatever `a/*` allows.

#![forbid(unsafe_code)]

mod acl;
mod builtin;
mod capability;
mod check;
mod compiled;
mod error;
mod explain;
mod filter;
mod lint;
mod parameter;
mod password;
mod path;
mod permissions;
mod policy;
mod rule;
mod template;
mod time;

pub use acl::{Acl, AclError, ResultantRule};
pub use builtin::{DEFAULT_POLICY, RESPONSE_WRAPPING_POLICY};
pub use capability::{Capabilities, Capability, Operation};
pub use check::{Check, Decision, Denied};
pub use error::{PolicyError, PolicyErrorKind};
pub use explain::{DecidingRule, Explanation, NotApplied, RuleOf, WhyNotApplied};
pub use filter::ResponseFilter;
pub use lint::{Finding, LintCheck, LintOptions, lint};
pub use parameter::{ParameterValue, Parameters};
pub use password::{PasswordPolicy, PasswordPolicyError};
pub use path::{PathKind, Specificity};
pub use permissions::Permissions;
pub use policy::Policy;
pub use rule::Rule;
pub use template::{AliasField, EntityField, GroupField, GroupSelector, TemplateKey, TemplateValues};
