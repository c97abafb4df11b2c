//! What all policies of a token together say of one path expression.

use std::sync::Arc;
use std::time::Duration;

use crate::capability::CAPABILITIES;
use crate::{Capabilities, Capability, Parameters, ResponseFilter, Rule};

/// The united rules of one path expression.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// What is allowed; `deny` alone if one of the rules denies.
    pub capabilities: Capabilities,
    /// Parameters that a request must have.
    pub required_parameters: Vec<String>,
    /// Parameters that a request may have; empty: any.
    pub allowed_parameters: Parameters,
    /// Parameters that a request must not have.
    pub denied_parameters: Parameters,
    /// The shortest wrapping TTL.
    pub min_wrapping_ttl: Option<Duration>,
    /// The longest wrapping TTL.
    pub max_wrapping_ttl: Option<Duration>,
    /// The most keys that a list may give.
    pub pagination_limit: Option<u64>,
    /// Which keys of a listing are shown.
    pub response_filter: Option<Arc<ResponseFilter>>,
    /// For each capability the names of the policies that grant it.
    granting: [Arc<[Arc<str>]>; CAPABILITIES],
}

impl Permissions {
    /// Starts with one rule of a policy.
    pub(crate) fn of(rule: &Rule, policy: &Arc<str>) -> Permissions {
        let mut permissions = Permissions {
            capabilities: Capabilities::NONE,
            required_parameters: Vec::new(),
            allowed_parameters: Parameters::new(),
            denied_parameters: Parameters::new(),
            min_wrapping_ttl: None,
            max_wrapping_ttl: None,
            pagination_limit: None,
            response_filter: None,
            granting: Default::default(),
        };
        permissions.unite(rule, policy);
        permissions
    }

    /// Adds a rule for the same expression. Capabilities unite, deny wins;
    /// what binds, binds on: a rule without a limit does not lift another's.
    pub(crate) fn unite(&mut self, rule: &Rule, policy: &Arc<str>) {
        if self.capabilities.contains(Capability::Deny) {
            return;
        }
        if rule.capabilities.contains(Capability::Deny) {
            self.capabilities = rule.capabilities;
            self.granting = Default::default();
            self.grant(Capability::Deny, policy);
            return;
        }
        self.capabilities = self.capabilities.union(rule.capabilities);
        for capability in rule.capabilities.iter() {
            self.grant(capability, policy);
        }
        for name in &rule.required_parameters {
            if !self.required_parameters.contains(name) {
                self.required_parameters.push(name.clone());
            }
        }
        unite_parameters(&mut self.allowed_parameters, &rule.allowed_parameters);
        unite_parameters(&mut self.denied_parameters, &rule.denied_parameters);
        self.min_wrapping_ttl = smaller(self.min_wrapping_ttl, rule.min_wrapping_ttl);
        self.max_wrapping_ttl = smaller(self.max_wrapping_ttl, rule.max_wrapping_ttl);
        self.pagination_limit = smaller(self.pagination_limit, rule.pagination_limit);
        if self.response_filter.is_none() {
            self.response_filter.clone_from(&rule.response_filter);
        }
    }

    /// The names of the policies that grant a capability here.
    pub fn granting_policies(&self, capability: Capability) -> &Arc<[Arc<str>]> {
        &self.granting[capability as usize]
    }

    fn grant(&mut self, capability: Capability, policy: &Arc<str>) {
        let names = &mut self.granting[capability as usize];
        if !names.contains(policy) {
            *names = names.iter().chain([policy]).cloned().collect();
        }
    }
}

/// No values means any value, which is more than any list of values.
fn unite_parameters(into: &mut Parameters, from: &Parameters) {
    for (name, values) in from {
        match into.get_mut(name) {
            None => {
                into.insert(name.clone(), values.clone());
            }
            Some(present) if present.is_empty() || values.is_empty() => present.clear(),
            Some(present) => present.extend(values.iter().cloned()),
        }
    }
}

fn smaller<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
