//! What the tree of a document holds.

use holdfast_hcl::{Object, Value, parse, parse_bytes};

fn string(source: &str) -> String {
    let object = parse(source).unwrap();
    object.attribute("a").unwrap().node.as_str().unwrap().to_owned()
}

fn refuse(source: &str) -> String {
    parse(source).unwrap_err().to_string()
}

/// The tree without positions, for comparing forms.
fn outline(object: &Object) -> String {
    fn value(of: &Value) -> String {
        match of {
            Value::Null => "null".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Number(n) => n.as_text().to_owned(),
            Value::String(s) => format!("{s:?}"),
            Value::List(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|n| value(&n.value)).collect();
                format!("[{}]", nodes.join(","))
            }
            Value::Object(object) => outline(object),
        }
    }
    let mut text = String::from("{");
    for item in &object.items {
        let keys: Vec<_> = item.keys.iter().map(|k| k.text.as_str()).collect();
        text += &format!("{}:{};", keys.join(" "), value(&item.node.value));
    }
    text + "}"
}

#[test]
fn several_attributes_stand_on_a_line() {
    let object = parse("a = 1 b = [true, \"x\",] c { d = 2 } c \"l\" m { }").unwrap();
    assert_eq!(outline(&object), "{a:1;b:[true,\"x\"];c:{d:2;};c l m:{};}");
}

#[test]
fn a_document_in_json_gives_the_same_attributes() {
    let hcl = parse("a = \"x\" b = 1.5 c { d = [1, [2]] e = false }").unwrap();
    let json = parse(r#" {"a": "x", "b": 1.5, "c": {"d": [1, [2]], "e": false}}"#).unwrap();
    assert_eq!(outline(&hcl), outline(&json));
}

#[test]
fn a_repeated_name_stays_and_the_last_counts() {
    let object = parse("a = 1 b = 2 a = 3").unwrap();
    assert_eq!(object.items.len(), 3);
    let last = object.attribute("a").unwrap();
    assert_eq!(last.node.as_number().unwrap().as_i64(), Some(3));
    assert!(object.attribute("c").is_none());
}

#[test]
fn escapes_are_resolved_and_templates_are_plain_text() {
    assert_eq!(string(r#"a = "\t\"\\\x41\u00e9\U0001F600\101""#), "\t\"\\A\u{e9}\u{1f600}A");
    assert_eq!(string(r#"a = "x ${var.y} $z {{identity.entity.id}}""#), "x ${var.y} $z {{identity.entity.id}}");
    assert_eq!(string(r#"a = "${f("b")}c""#), "${f(\"b\")}c");
    assert_eq!(string(r#"{"a": "\u00e9\ud83d\ude00\/"}"#), "\u{e9}\u{1f600}/");
}

#[test]
fn heredocs_keep_their_lines() {
    assert_eq!(string("a = <<EOF\n one\n\ntwo\n  EOF\n"), " one\n\ntwo\n");
    assert_eq!(string("a = <<-EOF\n    one\n      two\n    EOF\n"), "one\n  two\n");
    assert_eq!(string("a = <<-EOF\n  one\n    EOF\n"), "  one\n");
    assert_eq!(string("a = <<EOF\r\none\r\nEOF\r\n"), "one\r\n");
}

#[test]
fn everything_knows_its_place() {
    let object = parse("# é\n\n  path \"é\" {\n\tb = [\n 7 ] }").unwrap();
    let path = &object.items[0];
    assert_eq!(path.position().to_string(), "3:3");
    assert_eq!(path.keys[1].position.to_string(), "3:8");
    assert_eq!(path.node.position.to_string(), "3:12");
    let b = path.node.as_object().unwrap().attribute("b").unwrap();
    assert_eq!(b.position().to_string(), "4:2");
    assert_eq!(b.node.position.to_string(), "4:6");
    assert_eq!(b.node.as_list().unwrap()[0].position.to_string(), "5:2");
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    assert_eq!(refuse("path {"), "at 1:7: expected `}`, found the end of the document");
    assert_eq!(refuse("just words"), "at 1:11: expected `=` or `{`, found the end of the document");
    assert_eq!(refuse("a = 1\nb = yes"), "at 2:5: expected a value (text needs quotes), found a name without quotes");
    assert_eq!(refuse("a = [1 2]"), "at 1:8: expected `,` or `]`, found a number");
    assert_eq!(refuse("a \"b\" = 1"), "at 1:7: \"a\" has a label and `=`; a block with a label has no `=`");
    assert_eq!(refuse("a = \"b\nc\""), "at 1:5: the string that begins here is not closed on its line");
    assert_eq!(refuse("a = \"\\q\""), "at 1:6: unknown escape in a string; write a backslash itself as `\\\\`");
    assert_eq!(refuse("a = 10m"), "at 1:5: this is not a number; text, durations and sizes need quotes, as in \"10m\"");
    assert_eq!(refuse("/* a"), "at 1:1: the comment that begins here is not closed");
    assert_eq!(refuse("a = <<X\nb"), "at 1:5: the heredoc that begins here has no closing line \"X\"");
    assert_eq!(refuse("a; b"), "at 1:2: unexpected character ';'");
    assert_eq!(refuse("{\"a\" 1}"), "at 1:6: expected `:`, found '1'");
    let bytes = parse_bytes(b"a = 1\nb = \"\xff\"").unwrap_err();
    assert_eq!(bytes.to_string(), "at 2:6: the document is not UTF-8");
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |n| format!("a = {}{}", "[".repeat(n), "]".repeat(n));
    assert!(parse(&nested(64)).is_ok());
    assert!(refuse(&nested(65)).contains("nested deeper than 64 levels"));
    assert!(refuse(&"a {".repeat(100_000)).contains("nested deeper"));
    assert!(refuse(&"{\"a\":".repeat(100_000)).contains("nested deeper"));
    assert!(refuse(&" ".repeat(5_000_000)).contains("at most 4194304 are read"));
}
