//! Running a template.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_sdk::{Timestamp, uuid};
use sha2::{Digest, Sha256};

use super::parse::{Command, Node, Pipeline, Term};
use super::{MAX_CHARS, Names, Wrong, wrong};
use crate::random;

pub struct Scope<'a> {
    pub names: Names<'a>,
    pub now: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(i64),
    Bool(bool),
    /// What `.` is at first.
    Names,
}

const FUNCTIONS: &[&str] = &[
    "random",
    "truncate",
    "truncate_sha256",
    "uppercase",
    "lowercase",
    "replace",
    "sha256",
    "base64",
    "unix_time",
    "unix_time_millis",
    "timestamp",
    "uuid",
    "printf",
    "print",
    "len",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "not",
];

pub fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

pub fn run(nodes: &[Node], scope: &Scope<'_>, out: &mut String) -> Result<(), Wrong> {
    run_with(nodes, scope, &Value::Names, out)
}

fn run_with(nodes: &[Node], scope: &Scope<'_>, dot: &Value, out: &mut String) -> Result<(), Wrong> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Action(pipeline) => out.push_str(&shown(&value_of(pipeline, scope, dot)?)?),
            Node::If { test, then, otherwise, sets_dot } => {
                let tested = value_of(test, scope, dot)?;
                let branch = if is_true(&tested) { then } else { otherwise };
                let inner = if *sets_dot && is_true(&tested) { &tested } else { dot };
                run_with(branch, scope, inner, out)?;
            }
        }
    }
    Ok(())
}

fn value_of(pipeline: &Pipeline, scope: &Scope<'_>, dot: &Value) -> Result<Value, Wrong> {
    let mut last = None;
    for command in pipeline {
        last = Some(command_value(command, last, scope, dot)?);
    }
    last.ok_or_else(|| wrong("missing value for command"))
}

fn command_value(command: &Command, piped: Option<Value>, scope: &Scope<'_>, dot: &Value) -> Result<Value, Wrong> {
    let Some((first, rest)) = command.split_first() else { return Err(wrong("missing value for command")) };
    if let Term::Function(name) = first {
        let mut args = rest.iter().map(|t| term_value(t, scope, dot)).collect::<Result<Vec<_>, _>>()?;
        args.extend(piped);
        return call(name, &args, scope);
    }
    if piped.is_some() || !rest.is_empty() {
        return Err(wrong("can't give argument to non-function"));
    }
    term_value(first, scope, dot)
}

fn term_value(term: &Term, scope: &Scope<'_>, dot: &Value) -> Result<Value, Wrong> {
    Ok(match term {
        Term::Dot => dot.clone(),
        Term::Text(text) => Value::Text(text.clone()),
        Term::Number(n) => Value::Number(*n),
        Term::Bool(b) => Value::Bool(*b),
        Term::Function(name) => call(name, &[], scope)?,
        Term::Group(pipeline) => value_of(pipeline, scope, dot)?,
        Term::Field(_) if *dot != Value::Names => return Err(wrong("can't evaluate a field of a text")),
        Term::Field(name) => match name.as_str() {
            "DisplayName" => Value::Text(scope.names.display_name.to_owned()),
            "RoleName" => Value::Text(scope.names.role_name.to_owned()),
            _ => return Err(wrong(format!("can't evaluate field {name}: there are DisplayName and RoleName"))),
        },
    })
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Text(t) => !t.is_empty(),
        Value::Number(n) => *n != 0,
        Value::Bool(b) => *b,
        Value::Names => true,
    }
}

fn shown(value: &Value) -> Result<String, Wrong> {
    Ok(match value {
        Value::Text(t) => t.clone(),
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Names => return Err(wrong("`.` alone has no text here")),
    })
}

/// The arguments of a call, taken one by one.
struct Args<'a> {
    function: &'a str,
    args: &'a [Value],
}

impl Args<'_> {
    fn exactly(&self, n: usize) -> Result<(), Wrong> {
        if self.args.len() == n {
            return Ok(());
        }
        Err(wrong(format!("wrong number of args for {}: want {n} got {}", self.function, self.args.len())))
    }

    fn number(&self, at: usize) -> Result<i64, Wrong> {
        match self.args.get(at) {
            Some(Value::Number(n)) => Ok(*n),
            _ => Err(wrong(format!("{}: expected integer", self.function))),
        }
    }

    /// A length between a least one and what a template may make.
    fn length(&self, at: usize, least: i64) -> Result<usize, Wrong> {
        let n = self.number(at)?;
        match usize::try_from(n) {
            Ok(length) if n >= least && length <= MAX_CHARS => Ok(length),
            _ => Err(wrong(format!("{}: the length must be from {least} to {MAX_CHARS}, not {n}", self.function))),
        }
    }

    fn text(&self, at: usize) -> Result<&str, Wrong> {
        match self.args.get(at) {
            Some(Value::Text(t)) => Ok(t),
            _ => Err(wrong(format!("{}: expected a string", self.function))),
        }
    }
}

fn call(name: &str, args: &[Value], scope: &Scope<'_>) -> Result<Value, Wrong> {
    let a = Args { function: name, args };
    let failed = |e: holdfast_sdk::Error| wrong(e.to_string());
    let arity = match name {
        "unix_time" | "unix_time_millis" | "uuid" => Some(0),
        "random" | "uppercase" | "lowercase" | "sha256" | "base64" | "timestamp" | "len" | "not" => Some(1),
        "truncate" | "truncate_sha256" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" => Some(2),
        "replace" => Some(3),
        _ => None,
    };
    if let Some(n) = arity {
        a.exactly(n)?;
    }
    let text = |t: String| Ok(Value::Text(t));
    match name {
        "random" => text(random::alphanumeric(a.length(0, 0)?).map_err(failed)?),
        "truncate" => text(a.text(1)?.chars().take(a.length(0, 1)?).collect()),
        "truncate_sha256" => text(truncate_sha256(a.text(1)?, a.length(0, 9)?)),
        "uppercase" => text(a.text(0)?.to_uppercase()),
        "lowercase" => text(a.text(0)?.to_lowercase()),
        "replace" => text(a.text(2)?.replace(a.text(0)?, a.text(1)?)),
        "sha256" => text(hex::encode(Sha256::digest(a.text(0)?))),
        "base64" => text(STANDARD.encode(a.text(0)?)),
        "unix_time" => text(scope.now.secs().to_string()),
        "unix_time_millis" => text((scope.now.0 / 1_000_000).to_string()),
        "timestamp" => text(crate::go_time::format(a.text(0)?, scope.now)),
        "uuid" => text(uuid::random().map_err(failed)?),
        "printf" => text(printf(a.text(0)?, &args[1..])?),
        "print" => text(args.iter().map(shown).collect::<Result<String, _>>()?),
        "len" => Ok(Value::Number(i64::try_from(a.text(0)?.len()).unwrap_or(i64::MAX))),
        "not" => Ok(Value::Bool(!args.first().is_some_and(is_true))),
        "and" | "or" => {
            let wanted = name == "or";
            let found = args.iter().find(|v| is_true(v) == wanted).or(args.last());
            found.cloned().ok_or_else(|| wrong(format!("wrong number of args for {name}: want at least 1 got 0")))
        }
        _ => compare(name, &args[0], &args[1]).map(Value::Bool),
    }
}

/// The text, or its beginning and eight digits of its hash.
fn truncate_sha256(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length - 8).collect();
    let hash = hex::encode(Sha256::digest(text.chars().skip(length - 8).collect::<String>()));
    kept + &hash[..8]
}

fn compare(name: &str, a: &Value, b: &Value) -> Result<bool, Wrong> {
    let order = match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) if matches!(name, "eq" | "ne") => a.cmp(b),
        _ => return Err(wrong(format!("{name}: incompatible types for comparison"))),
    };
    Ok(match name {
        "eq" => order.is_eq(),
        "ne" => order.is_ne(),
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// `%s`, `%v`, `%d`, `%q` and `%%`.
fn printf(format: &str, args: &[Value]) -> Result<String, Wrong> {
    let (mut out, mut args, mut chars) = (String::new(), args.iter(), format.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let verb = chars.next().ok_or_else(|| wrong("printf: a % at the end"))?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = args.next().ok_or_else(|| wrong("printf: too few arguments"))?;
        match (verb, value) {
            ('s' | 'v', value) | ('d', value @ Value::Number(_)) => out.push_str(&shown(value)?),
            ('q', Value::Text(text)) => out.push_str(&format!("{text:?}")),
            _ => return Err(wrong(format!("printf: %{verb} cannot show this argument"))),
        }
    }
    match args.next() {
        None => Ok(out),
        Some(_) => Err(wrong("printf: too many arguments")),
    }
}
