//! YAML of an answer: keys in order, lists not indented, texts quoted where they would read as
//! something else.

use std::fmt::Write;

use serde_json::Value;

use super::sorted;

pub fn text(value: &Value) -> String {
    let mut out = String::new();
    match sorted(value) {
        Value::Object(object) if !object.is_empty() => write(&mut out, &Value::Object(object), 0),
        Value::Array(items) if !items.is_empty() => write(&mut out, &Value::Array(items), 0),
        scalar => {
            inline(&mut out, &scalar, 0);
            out.push('\n');
        }
    }
    out
}

/// A list or an object that is not empty, each entry on a line of its own.
fn write(out: &mut String, value: &Value, level: usize) {
    let pad = "  ".repeat(level);
    match value {
        Value::Object(object) => {
            for (key, item) in object {
                let _ = write!(out, "{pad}{}:", scalar(key));
                below(out, item, level + usize::from(!item.is_array()));
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(out, "{pad}-");
                let start = out.len();
                below(out, item, level + 1);
                // The first line of an entry stands beside its dash.
                let deeper = format!("\n{}", "  ".repeat(level + 1));
                if out[start..].starts_with(&deeper) {
                    out.replace_range(start..start + deeper.len(), " ");
                }
            }
        }
        other => inline(out, other, level),
    }
}

fn below(out: &mut String, item: &Value, level: usize) {
    let nested = match item {
        Value::Object(o) => !o.is_empty(),
        Value::Array(a) => !a.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        write(out, item, level);
    } else {
        out.push(' ');
        inline(out, item, level);
        out.push('\n');
    }
}

fn inline(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::String(text) if text.contains('\n') && is_printable(text) => {
            let body = text.trim_end_matches('\n');
            let chomp = match text.len() - body.len() {
                0 => "-",
                1 => "",
                _ => "+",
            };
            // Where the text itself begins with blanks, how far it is moved in must be said.
            let moved = if text.starts_with([' ', '\n']) { "2" } else { "" };
            let _ = write!(out, "|{moved}{chomp}");
            let lines = text.strip_suffix('\n').unwrap_or(text);
            for line in lines.split('\n') {
                let pad = if line.is_empty() { String::new() } else { "  ".repeat(level.max(1)) };
                let _ = write!(out, "\n{pad}{line}");
            }
        }
        Value::String(text) => out.push_str(&scalar(text)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        other => out.push_str(&other.to_string()),
    }
}

fn is_printable(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

/// A text, quoted where the bare words would be a number, a boolean, a date or a mark of YAML.
fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_string() } else { Value::from(text).to_string() }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 22] = [
        "y", "Y", "n", "N", "yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", "true",
        "false", "null", "~", "True", "False",
    ];
    let first = match text.chars().next() {
        None => return false,
        Some(c) => c,
    };
    let looks_like_number = first.is_ascii_digit() || matches!(first, '+' | '.') || first == '-';
    let marks = "!&*{}[]|>@`\"'%#,?:=<~";
    !(WORDS.contains(&text)
        || looks_like_number
            && (text.parse::<f64>().is_ok() || text.starts_with("0x") || is_date(text) || first == '-')
        || marks.contains(first) && first != '<'
        || text.contains(": ")
        || text.contains(" #")
        || text.ends_with(':')
        || text.trim() != text
        || text.contains(|c: char| c.is_control()))
}

fn is_date(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() >= 10 && b[..4].iter().all(u8::is_ascii_digit) && b[4] == b'-' && b[7] == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_and_lists_are_not_indented() {
        let value = serde_json::json!({"b": ["x", "1"], "a": {"t": "true", "n": null}, "e": {}, "p": "l1\n  l2\n", "o": [{"k": 1, "j": 2}]});
        let expected =
            "a:\n  \"n\": null\n  t: \"true\"\nb:\n- x\n- \"1\"\ne: {}\no:\n- j: 2\n  k: 1\np: |\n  l1\n    l2\n";
        assert_eq!(text(&value), expected);
    }
}
