//! Statements of a role: how they are taken apart, and filled in so that no value ends its quotes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What is filled in.
#[derive(Default)]
pub struct Values<'a> {
    pub name: &'a str,
    pub password: &'a str,
    pub expiration: &'a str,
}

/// How strings are written in a database's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    /// A backslash in a string begins an escape.
    MySql,
    /// The same, and a quote is written with it.
    Influx,
}

/// A value cannot be filled in safely; says which, and not its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsafe(&'static str);

impl std::fmt::Display for Unsafe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a statement has {{{{{}}}}} where its value would not be inert: put it between quotes", self.0)
    }
}

/// The single statements of a list: each text is split at semicolons unless it holds a block. A text may also be a
/// JSON list of statements, or one of these in base64.
pub fn split(texts: &[String]) -> Vec<String> {
    texts.iter().flat_map(|text| split_one(text)).map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

fn split_one(text: &str) -> Vec<String> {
    if has_block(text) {
        return vec![text.to_owned()];
    }
    let plain = STANDARD.decode(text.trim()).ok().and_then(|b| String::from_utf8(b).ok());
    let text = plain.as_deref().unwrap_or(text);
    if let Ok(list) = serde_json::from_str::<Vec<String>>(text) {
        return list.iter().flat_map(|s| split_one(s)).collect();
    }
    if has_block(text) {
        return vec![text.to_owned()];
    }
    text.split(';').map(str::to_owned).collect()
}

/// A body between dollar quotes, or a `BEGIN … END`: its semicolons are its own.
fn has_block(text: &str) -> bool {
    text.contains("$$") || text.contains(" END ") || text.contains(" END;")
}

/// Where in a statement a place is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Quotes(char),
}

/// Fill in `{{name}}`, `{{username}}`, `{{password}}` and `{{expiration}}`. Within quotes a value is escaped; outside
/// of them only harmless ones are taken. Other names in braces stay as they are.
pub fn fill(statement: &str, values: &Values<'_>, dialect: Dialect) -> Result<String, Unsafe> {
    let has_dollar_quotes = statement.contains("$$");
    let mut out = String::with_capacity(statement.len() + 64);
    let (mut inside, mut rest) = (Inside::Nothing, statement);
    while let Some(c) = rest.chars().next() {
        if let Some((name, value, after)) = placeholder(rest, values) {
            if has_dollar_quotes && value.contains('$') {
                return Err(Unsafe(name));
            }
            match inside {
                Inside::Quotes(quote) => escape(&mut out, value, quote, dialect),
                // A time is our own words.
                Inside::Nothing if name == "expiration" || is_harmless(value) => out.push_str(value),
                Inside::Nothing => return Err(Unsafe(name)),
            }
            rest = after;
            continue;
        }
        let mut taken = c.len_utf8();
        inside = match (inside, c) {
            (Inside::Nothing, '`') if dialect == Dialect::Influx => inside,
            (Inside::Nothing, '\'' | '"' | '`') => Inside::Quotes(c),
            (Inside::Quotes(quote), c) if c == quote => Inside::Nothing,
            (Inside::Quotes('\'' | '"'), '\\') if dialect != Dialect::Postgres => {
                taken += rest[1..].chars().next().map_or(0, char::len_utf8);
                inside
            }
            _ => inside,
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Ok(out)
}

fn placeholder<'s, 'v>(rest: &'s str, values: &Values<'v>) -> Option<(&'static str, &'v str, &'s str)> {
    let named = [
        ("name", values.name),
        ("username", values.name),
        ("password", values.password),
        ("expiration", values.expiration),
    ];
    let body = rest.strip_prefix("{{")?;
    named.into_iter().find_map(|(name, value)| Some((name, value, body.strip_prefix(name)?.strip_prefix("}}")?)))
}

/// Words, with single dashes between them: two would begin a comment.
fn is_harmless(value: &str) -> bool {
    let is_word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    value.split('-').all(is_word)
}

fn escape(out: &mut String, value: &str, quote: char, dialect: Dialect) {
    let backslash = dialect != Dialect::Postgres && quote != '`';
    for c in value.chars() {
        if c == quote || (c == '\\' && backslash) {
            out.push(if dialect == Dialect::Influx { '\\' } else { c });
        }
        out.push(c);
    }
}

/// A database's words, without what they may repeat of a password.
pub fn without(password: &str, words: &str) -> String {
    if password.is_empty() {
        return words.to_owned();
    }
    let words = words.replace(password, "***");
    // A parser's `near "…"` shows a part of it.
    let mut out = String::with_capacity(words.len());
    for (n, part) in words.split('"').enumerate() {
        if n > 0 {
            out.push('"');
        }
        out.push_str(if n % 2 == 1 && part.len() > 2 && password.contains(part) { "***" } else { part });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'_> = Values { name: "v-x\"; DROP TABLE t; --", password: "a'b\\", expiration: "2030" };

    fn filled(statement: &str, dialect: Dialect) -> Result<String, Unsafe> {
        fill(statement, &VALUES, dialect)
    }

    #[test]
    fn values_are_inert_wherever_they_stand() {
        let s = "CREATE ROLE \"{{name}}\" PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' {{expiration}}";
        assert_eq!(
            filled(s, Dialect::Postgres).unwrap(),
            "CREATE ROLE \"v-x\"\"; DROP TABLE t; --\" PASSWORD 'a''b\\' VALID UNTIL '2030' 2030"
        );
        assert_eq!(filled("'{{password}}'", Dialect::MySql).unwrap(), "'a''b\\\\'");
        assert_eq!(filled("'x\\'{{password}}'", Dialect::MySql).unwrap(), "'x\\'a''b\\\\'");
        assert_eq!(filled("'{{password}}'", Dialect::Influx).unwrap(), "'a\\'b\\\\'");
        assert_eq!(filled("\"{{name}}\"", Dialect::Influx).unwrap(), "\"v-x\\\"; DROP TABLE t; --\"");
        assert_eq!(filled("` '{{password}}'", Dialect::Influx).unwrap(), "` 'a\\'b\\\\'");
        assert_eq!(filled("DROP ROLE {{name}}", Dialect::Postgres), Err(Unsafe("name")));
        let plain = Values { name: "v-token-x", expiration: "2030-01-01 00:00:00+0000", ..Values::default() };
        let comment = fill("/* {{name}} {{expiration}} */", &plain, Dialect::Postgres).unwrap();
        assert_eq!(comment, "/* v-token-x 2030-01-01 00:00:00+0000 */");
        for bad in ["a--b", "-a", "a-", "", "a b", "a*/b"] {
            let values = Values { name: bad, ..Values::default() };
            assert!(fill("{{name}}", &values, Dialect::MySql).is_err(), "{bad}");
        }
        let dollars = Values { password: "a$$b", ..Values::default() };
        assert_eq!(fill("DO $$ '{{password}}' $$", &dollars, Dialect::Postgres), Err(Unsafe("password")));
    }

    #[test]
    fn other_names_in_braces_stay() {
        assert_eq!(filled("'{{colour}} {{ name }} {{'", Dialect::Postgres).unwrap(), "'{{colour}} {{ name }} {{'");
    }

    #[test]
    fn texts_are_taken_apart_in_all_their_forms() {
        let of = |text: &str| split(&[text.to_owned()]);
        assert_eq!(of("a; b ;\n"), ["a", "b"]);
        assert_eq!(of("[\"a\", \"b; c\"]"), ["a", "b", "c"]);
        assert_eq!(of(&STANDARD.encode("a; b")), ["a", "b"]);
        assert_eq!(of(&STANDARD.encode("[\"a\",\"b\"]")), ["a", "b"]);
        assert_eq!(of("DO $$ BEGIN a; b; END $$;"), ["DO $$ BEGIN a; b; END $$;"]);
        assert_eq!(of(""), [""; 0]);
    }

    #[test]
    fn errors_do_not_repeat_the_password() {
        let said = without("Abc1-def", "syntax error at or near \"Abc1\" in PASSWORD Abc1-def of \"role\"");
        assert_eq!(said, "syntax error at or near \"***\" in PASSWORD *** of \"role\"");
    }
}
