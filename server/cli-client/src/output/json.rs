//! JSON as the reference's clients expect it: two blanks a level, and `<`, `>`, `&` escaped.

use serde_json::Value;

pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out
}

/// One line, as in a request's body.
pub fn escaped(text: &str) -> String {
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

fn write(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                new_line(out, i > 0, level + 1);
                write(out, item, level + 1);
            }
            new_line(out, false, level);
            out.push(']');
        }
        Value::Object(object) if !object.is_empty() => {
            out.push('{');
            for (i, (key, item)) in object.iter().enumerate() {
                new_line(out, i > 0, level + 1);
                out.push_str(&escaped(&Value::from(key.as_str()).to_string()));
                out.push_str(": ");
                write(out, item, level + 1);
            }
            new_line(out, false, level);
            out.push('}');
        }
        Value::String(_) => out.push_str(&escaped(&value.to_string())),
        other => out.push_str(&other.to_string()),
    }
}

fn new_line(out: &mut String, comma: bool, level: usize) {
    out.push_str(if comma { ",\n" } else { "\n" });
    out.extend(std::iter::repeat_n("  ", level));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped_and_empty_things_stay_short() {
        let value = serde_json::json!({"a": "<b&c>", "e": {}, "l": [], "n": [1, null]});
        let expected = "{\n  \"a\": \"\\u003cb\\u0026c\\u003e\",\n  \"e\": {},\n  \"l\": [],\n  \"n\": [\n    1,\n    null\n  ]\n}";
        assert_eq!(text(&value), expected);
    }
}
