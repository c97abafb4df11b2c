//! One rule of a policy, and how it is read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_hcl::{Block, Node, Object, Position, Value};

use crate::template::PathTemplate;
use crate::time::point_in_time;
use crate::{Capabilities, Capability, ParameterValue, Parameters, PolicyError, PolicyErrorKind, ResponseFilter};

/// The keys that may stand in a rule.
const KEYS: &[&str] = &[
    "allowed_parameters",
    "capabilities",
    "comment",
    "control_group",
    "denied_parameters",
    "expiration",
    "list_scan_response_keys_filter_path",
    "max_wrapping_ttl",
    "mfa_methods",
    "min_wrapping_ttl",
    "pagination_limit",
    "policy",
    "required_parameters",
    "subscribe_event_types",
];

/// What a policy says of one path expression.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The expression, without a leading slash; templates as written.
    pub path: String,
    /// Where the rule begins in the text.
    pub position: Position,
    /// What is allowed. `deny` stands alone; it also stands for a rule that asks for an approval which
    /// nothing here can ask for ([`Rule::needs_approval`]).
    pub capabilities: Capabilities,
    /// Parameters that a request must have, in lower case.
    pub required_parameters: Vec<String>,
    /// Parameters that a request may have; empty: any.
    pub allowed_parameters: Parameters,
    /// Parameters that a request must not have.
    pub denied_parameters: Parameters,
    /// The shortest wrapping TTL; a request must then ask for wrapping.
    pub min_wrapping_ttl: Option<Duration>,
    /// The longest wrapping TTL; a request must then ask for wrapping.
    pub max_wrapping_ttl: Option<Duration>,
    /// The most keys that a list may give.
    pub pagination_limit: Option<u64>,
    /// Which keys of a listing are shown.
    pub response_filter: Option<Arc<ResponseFilter>>,
    /// From when on the rule does not exist.
    pub expiration: Option<SystemTime>,
    /// Vault's control group, as given: who else must agree to a request.
    pub control_group: Option<ParameterValue>,
    /// Vault's MFA methods, as given: the factors that a request must show.
    pub mfa_methods: Vec<String>,
    /// Vault's event types, kept as given.
    pub subscribe_event_types: Vec<String>,
    /// A remark, without meaning.
    pub comment: Option<String>,
    pub(crate) template: Option<PathTemplate>,
}

impl Rule {
    pub(crate) fn parse(block: &Block<'_>) -> Result<Rule, PolicyError> {
        let path = block.label(0);
        Rule::parse_body(block).map_err(|error| PolicyError { path: Some(path.to_owned()), ..error })
    }

    fn parse_body(block: &Block<'_>) -> Result<Rule, PolicyError> {
        let label = block.labels[0];
        let at_path = |kind| PolicyError::new(label.position, kind);
        let path = label.text.strip_prefix('/').unwrap_or(&label.text);
        if path.contains("+*") {
            return Err(at_path(PolicyErrorKind::PlusStar));
        }
        refuse_unknown_keys(block.body, KEYS)?;

        let mut rule = Rule {
            path: path.to_owned(),
            position: block.position,
            template: PathTemplate::parse(path).map_err(at_path)?,
            capabilities: Capabilities::NONE,
            required_parameters: Vec::new(),
            allowed_parameters: Parameters::new(),
            denied_parameters: Parameters::new(),
            min_wrapping_ttl: None,
            max_wrapping_ttl: None,
            pagination_limit: None,
            response_filter: None,
            expiration: None,
            control_group: None,
            mfa_methods: Vec::new(),
            subscribe_event_types: Vec::new(),
            comment: None,
        };
        for item in &block.body.items {
            rule.take(item.name(), &item.node)?;
        }
        if rule.capabilities.contains(Capability::Deny) || rule.needs_approval() {
            rule.capabilities = Capabilities::NONE.with(Capability::Deny);
        }
        if let (Some(min), Some(max)) = (rule.min_wrapping_ttl, rule.max_wrapping_ttl)
            && max < min
        {
            let position = block.body.attribute("max_wrapping_ttl").map_or(block.position, |item| item.position());
            return Err(PolicyError::new(position, PolicyErrorKind::WrappingTtl));
        }
        Ok(rule)
    }

    /// Whether the rule grants only what others agree to, or what a second factor is shown for. Nothing
    /// enforces that, so that such a rule refuses: who wrote it never meant to grant without.
    pub fn needs_approval(&self) -> bool {
        let has_factors = |group: &ParameterValue| !matches!(group, ParameterValue::Map(m) if m.is_empty());
        self.control_group.as_ref().is_some_and(has_factors) || !self.mfa_methods.is_empty()
    }

    /// Takes one attribute. Given twice, lists and maps unite and of all else
    /// the later counts.
    fn take(&mut self, key: &str, node: &Node) -> Result<(), PolicyError> {
        match key {
            "policy" => {
                let name = text(key, node)?;
                let named = old_policy(&name)
                    .ok_or_else(|| PolicyError::new(node.position, PolicyErrorKind::OldPolicy(name)))?;
                self.capabilities = self.capabilities.union(named);
            }
            "capabilities" => {
                for (position, name) in texts(key, node)? {
                    let capability = Capability::from_name(&name)
                        .ok_or_else(|| PolicyError::new(position, PolicyErrorKind::Capability(name)))?;
                    self.capabilities = self.capabilities.with(capability);
                }
            }
            "required_parameters" => {
                for (_, name) in texts(key, node)? {
                    self.required_parameters.push(name.to_lowercase());
                }
            }
            "allowed_parameters" => take_parameters(key, node, &mut self.allowed_parameters)?,
            "denied_parameters" => take_parameters(key, node, &mut self.denied_parameters)?,
            "min_wrapping_ttl" => self.min_wrapping_ttl = ttl(key, node)?,
            "max_wrapping_ttl" => self.max_wrapping_ttl = ttl(key, node)?,
            "pagination_limit" => self.pagination_limit = limit(key, node)?,
            "list_scan_response_keys_filter_path" => {
                self.response_filter = match text(key, node)?.as_str() {
                    "" => None,
                    template => Some(Arc::new(
                        ResponseFilter::parse(template).map_err(|kind| PolicyError::new(node.position, kind))?,
                    )),
                };
            }
            "expiration" => {
                let written = text(key, node)?;
                let expected = "a time as in 2030-01-31T12:00:00Z, or seconds since 1970";
                let time = point_in_time(&written).ok_or_else(|| wrong_value(key, node, &written, expected))?;
                self.expiration = Some(time);
            }
            "control_group" => self.control_group = Some(ParameterValue::from_node(node)),
            "mfa_methods" => {
                let names = texts(key, node)?.into_iter().map(|(_, name)| name);
                self.mfa_methods.extend(names);
            }
            "subscribe_event_types" => {
                let names = texts(key, node)?.into_iter().map(|(_, name)| name);
                self.subscribe_event_types.extend(names);
            }
            "comment" => self.comment = Some(text(key, node)?),
            other => unreachable!("{other} is in KEYS and not read"),
        }
        Ok(())
    }
}

/// Refuses the first key that is not among `known`.
pub(crate) fn refuse_unknown_keys(object: &Object, known: &[&str]) -> Result<(), PolicyError> {
    match object.items.iter().find(|item| !known.contains(&item.name())) {
        None => Ok(()),
        Some(item) => Err(PolicyError::new(
            item.position(),
            PolicyErrorKind::Key { key: item.name().to_owned(), known: known.join(", ") },
        )),
    }
}

/// What the words of the first policies meant.
fn old_policy(name: &str) -> Option<Capabilities> {
    use Capability::{Create, Delete, Deny, List, Read, Sudo, Update};
    let capabilities: &[Capability] = match name {
        "" => &[],
        "read" => &[List, Read],
        "write" => &[Create, Delete, List, Read, Update],
        "sudo" => &[Create, Delete, List, Read, Sudo, Update],
        "deny" => &[Deny],
        _ => return None,
    };
    Some(capabilities.iter().copied().collect())
}

fn take_parameters(key: &str, node: &Node, into: &mut Parameters) -> Result<(), PolicyError> {
    let object = node.as_object().ok_or_else(|| wrong_type(key, node, "a map of lists"))?;
    for item in &object.items {
        let name = item.name().to_lowercase();
        let values =
            item.node.as_list().ok_or_else(|| wrong_type(&format!("{key}.{name}"), &item.node, "a list of values"))?;
        let values = values.iter().map(ParameterValue::from_node).collect();
        into.insert(name, values);
    }
    Ok(())
}

/// A string; a number is taken as it is written.
fn text(key: &str, node: &Node) -> Result<String, PolicyError> {
    match &node.value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.as_text().to_owned()),
        _ => Err(wrong_type(key, node, "a string")),
    }
}

fn texts(key: &str, node: &Node) -> Result<Vec<(Position, String)>, PolicyError> {
    let nodes = node.as_list().ok_or_else(|| wrong_type(key, node, "a list of strings"))?;
    nodes.iter().map(|node| Ok((node.position, text(key, node)?))).collect()
}

/// A duration; zero or a negative one is no limit, as in the reference.
fn ttl(key: &str, node: &Node) -> Result<Option<Duration>, PolicyError> {
    if !matches!(node.value, Value::String(_) | Value::Number(_)) {
        return Err(wrong_type(key, node, "a duration"));
    }
    let written = text(key, node)?;
    let negative = match &node.value {
        Value::Number(number) => number.as_f64() < 0.0,
        _ => written.strip_prefix('-').and_then(holdfast_hcl::duration).is_some(),
    };
    if negative {
        return Ok(None);
    }
    match node.as_duration() {
        Some(duration) => Ok((!duration.is_zero()).then_some(duration)),
        None => {
            let expected = "a duration as in 90, \"90s\" or \"1h30m\"";
            Err(wrong_value(key, node, &written, expected))
        }
    }
}

/// A number of keys; zero or a negative one is no limit, as in the reference.
fn limit(key: &str, node: &Node) -> Result<Option<u64>, PolicyError> {
    let number = match &node.value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => return Err(wrong_type(key, node, "a number")),
    };
    let number = match number {
        Some(number) => number,
        None => return Err(wrong_value(key, node, &text(key, node)?, "a whole number")),
    };
    Ok(u64::try_from(number).ok().filter(|limit| *limit > 0))
}

fn wrong_type(key: &str, node: &Node, expected: &'static str) -> PolicyError {
    PolicyError::new(node.position, PolicyErrorKind::Type { key: key.to_owned(), expected, found: node.kind() })
}

fn wrong_value(key: &str, node: &Node, value: &str, expected: &'static str) -> PolicyError {
    PolicyError::new(node.position, PolicyErrorKind::Value { key: key.to_owned(), value: value.to_owned(), expected })
}
