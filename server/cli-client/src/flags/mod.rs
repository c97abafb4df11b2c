//! Flags of a command: a table says which there are, this reads them as Go's `flag` package does:
//! one dash or two, `-f=v` or `-f v`, booleans alone, and the first argument that is no flag (or
//! `--`) ends them. The same table makes the help text ([`help`]).

pub mod global;
pub mod help;

use std::collections::BTreeMap;

use crate::completion::Values;
use crate::duration::Duration;

/// What a flag's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Duration,
    Text,
    /// Given several times, each is one item.
    List,
    /// `key=value`, several times.
    Pairs,
}

/// A flag as a command's table declares it.
pub struct Flag {
    pub name: &'static str,
    pub also: &'static [&'static str],
    pub kind: Kind,
    pub about: &'static str,
    pub default: Option<&'static str>,
    /// The environment's setting that stands in for it, by its bare name.
    pub setting: Option<&'static str>,
    /// What a shell offers as its value.
    pub values: Values,
}

impl Flag {
    pub const fn new(name: &'static str, kind: Kind, about: &'static str) -> Flag {
        Flag { name, also: &[], kind, about, default: None, setting: None, values: Values::Any }
    }

    pub const fn bool(name: &'static str, about: &'static str) -> Flag {
        Flag::new(name, Kind::Bool, about)
    }

    pub const fn int(name: &'static str, about: &'static str) -> Flag {
        Flag::new(name, Kind::Int, about)
    }

    pub const fn duration(name: &'static str, about: &'static str) -> Flag {
        Flag::new(name, Kind::Duration, about)
    }

    pub const fn text(name: &'static str, about: &'static str) -> Flag {
        Flag::new(name, Kind::Text, about)
    }

    pub const fn list(name: &'static str, about: &'static str) -> Flag {
        Flag::new(name, Kind::List, about)
    }

    pub const fn pairs(name: &'static str, about: &'static str) -> Flag {
        Flag::new(name, Kind::Pairs, about)
    }

    /// Other names of the same flag, not shown in the help's list.
    pub const fn also(mut self, names: &'static [&'static str]) -> Flag {
        self.also = names;
        self
    }

    /// What the help says of the value without the flag.
    pub const fn default(mut self, value: &'static str) -> Flag {
        self.default = Some(value);
        self
    }

    /// The environment's setting that the help names.
    pub const fn setting(mut self, name: &'static str) -> Flag {
        self.setting = Some(name);
        self
    }

    /// What a shell offers as its value.
    pub const fn values(mut self, values: Values) -> Flag {
        self.values = values;
        self
    }

    /// One of these words; a shell offers them.
    pub const fn words(self, words: &'static [&'static str]) -> Flag {
        self.values(Values::Words(words))
    }
}

/// The flags that were given, checked against their kinds.
#[derive(Default)]
pub struct Flags {
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Flags {
    /// Reads flags up to the first argument and returns what is behind them.
    pub fn parse(args: &[String], tables: &[&'static [Flag]]) -> Result<(Flags, Vec<String>), String> {
        let mut flags = Flags::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.clone().next() {
            if arg.len() < 2 || !arg.starts_with('-') {
                break;
            }
            rest.next();
            if arg == "--" {
                break;
            }
            let bare = arg.strip_prefix("--").unwrap_or(&arg[1..]);
            if bare.is_empty() || bare.starts_with('-') || bare.starts_with('=') {
                return Err(format!("bad flag syntax: {arg}"));
            }
            let (name, value) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (bare, None),
            };
            let flag = find(tables, name).ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
            let value = match value {
                Some(value) => value,
                None if flag.kind == Kind::Bool => "true".to_string(),
                None => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
            };
            flags.add(flag, name, value)?;
        }
        Ok((flags, rest.cloned().collect()))
    }

    fn add(&mut self, flag: &'static Flag, name: &str, value: String) -> Result<(), String> {
        let value = checked(flag.kind, value).map_err(|(value, why)| match flag.kind {
            Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {why}"),
            _ => format!("invalid value {value:?} for flag -{name}: {why}"),
        })?;
        let values = self.given.entry(flag.name).or_default();
        if !matches!(flag.kind, Kind::List | Kind::Pairs) {
            values.clear();
        }
        values.push(value);
        Ok(())
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value as it was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.last().map(String::as_str)
    }

    /// Whether a boolean flag is on.
    pub fn bool(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A number. It was checked when it was read.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    pub fn duration(&self, name: &str) -> Option<Duration> {
        match self.text(name)? {
            "system" | "-1" => Some(Duration::SYSTEM),
            text => Duration::parse(text).ok(),
        }
    }

    /// All items of a list flag, in order.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.given.get(name).cloned().unwrap_or_default()
    }

    /// All pairs of a flag, by key; the last of a key counts.
    pub fn pairs(&self, name: &str) -> BTreeMap<String, String> {
        let split = |pair: &String| pair.split_once('=').map(|(k, v)| (k.to_string(), v.to_string()));
        self.given.get(name).into_iter().flatten().filter_map(split).collect()
    }
}

fn find(tables: &[&'static [Flag]], name: &str) -> Option<&'static Flag> {
    tables.iter().copied().flatten().find(|f| f.name == name || f.also.contains(&name))
}

/// The value in its plain form, or what is wrong with it.
fn checked(kind: Kind, value: String) -> Result<String, (String, String)> {
    let syntax = |function: &str, value: String| {
        let why = format!("strconv.{function}: parsing {value:?}: invalid syntax");
        Err((value, why))
    };
    match kind {
        Kind::Bool => match parse_bool(&value) {
            Some(b) => Ok(b.to_string()),
            None => syntax("ParseBool", value),
        },
        Kind::Int => match value.parse::<i64>() {
            Ok(n) => Ok(n.to_string()),
            Err(_) => syntax("ParseInt", value),
        },
        Kind::Uint => match value.parse::<u64>() {
            Ok(n) => Ok(n.to_string()),
            Err(_) => syntax("ParseUint", value),
        },
        Kind::Duration => match value.as_str() {
            "system" | "-1" => Ok(value),
            text => match Duration::parse(text) {
                Ok(_) => Ok(value),
                Err(why) => Err((value, why)),
            },
        },
        Kind::Text => Ok(value),
        Kind::List => Ok(value.trim().to_string()),
        Kind::Pairs if value.contains('=') => Ok(value),
        Kind::Pairs => {
            let why = format!("missing = in KV pair: {value:?}");
            Err((value, why))
        }
    }
}

/// `1 t T TRUE true True` and their opposites.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: [Flag; 6] = [
        Flag::text("field", ""),
        Flag::bool("force", "").also(&["f"]),
        Flag::int("version", ""),
        Flag::list("policy", ""),
        Flag::pairs("metadata", ""),
        Flag::duration("ttl", ""),
    ];

    fn parse(line: &[&str]) -> Result<(Flags, Vec<String>), String> {
        let args: Vec<String> = line.iter().map(|s| s.to_string()).collect();
        Flags::parse(&args, &[&TABLE])
    }

    #[test]
    fn one_dash_or_two_and_equals_or_a_blank_are_the_same() {
        for line in [&["-field=x", "p"][..], &["--field=x", "p"], &["-field", "x", "p"], &["--field", "x", "p"]] {
            let (flags, rest) = parse(line).ok().unwrap();
            assert_eq!(flags.text("field"), Some("x"));
            assert_eq!(rest, ["p"]);
        }
    }

    #[test]
    fn a_boolean_stands_alone_and_takes_no_next_word() {
        let (flags, rest) = parse(&["-f", "false"]).ok().unwrap();
        assert!(flags.bool("force"));
        assert_eq!(rest, ["false"]);
        assert!(!parse(&["-force=false"]).ok().unwrap().0.bool("force"));
    }

    #[test]
    fn the_first_argument_or_two_dashes_end_the_flags() {
        let (flags, rest) = parse(&["p", "-field=x"]).ok().unwrap();
        assert!(!flags.is_set("field"));
        assert_eq!(rest, ["p", "-field=x"]);
        assert_eq!(parse(&["--", "-field=x"]).ok().unwrap().1, ["-field=x"]);
        assert_eq!(parse(&["-"]).ok().unwrap().1, ["-"]);
    }

    #[test]
    fn lists_and_pairs_gather_and_others_keep_the_last() {
        let (flags, _) = parse(&["-policy=a", "-policy", "b", "-metadata=k=v=w", "-field=1", "-field=2"]).ok().unwrap();
        assert_eq!(flags.list("policy"), ["a", "b"]);
        assert_eq!(flags.pairs("metadata")["k"], "v=w");
        assert_eq!(flags.text("field"), Some("2"));
    }

    #[test]
    fn wrong_flags_and_values_are_named() {
        let error = |line: &[&str]| parse(line).err().unwrap();
        assert_eq!(error(&["-nosuch"]), "flag provided but not defined: -nosuch");
        assert_eq!(error(&["-FIELD=x"]), "flag provided but not defined: -FIELD");
        assert_eq!(error(&["-field"]), "flag needs an argument: -field");
        assert_eq!(error(&["---x"]), "bad flag syntax: ---x");
        assert!(error(&["-version=x"]).starts_with("invalid value \"x\" for flag -version: "));
        assert!(error(&["-force=maybe"]).starts_with("invalid boolean value \"maybe\" for -force: "));
        assert!(error(&["-metadata=x"]).ends_with("missing = in KV pair: \"x\""));
        assert!(error(&["-ttl=bad"]).starts_with("invalid value \"bad\" for flag -ttl: "));
    }
}
