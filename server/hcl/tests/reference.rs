//! What the reference says of a recorded corpus, and what we say.
//!
//! `corpus.json` holds documents with the verdict of OpenBao 2.7.2
//! (`bao policy fmt`, of which only the parser's errors count). The corpus is
//! itself read with this crate.

use holdfast_hcl::{Node, Object, format, parse};

/// Documents that the reference reads and we refuse, each on purpose.
const REFUSED_BY_US: &[(&str, &str)] = &[
    ("path \"a\" { pagination_limit = 08 }", "digits 8 and 9 in an octal number"),
    ("path \"a\" { pagination_limit = 1. }", "no digits behind the point"),
    ("path \"a\" { pagination_limit = .5 }", "no digits before the point"),
    ("path \"a\" { pagination_limit = 1e }", "no digits in the exponent"),
    ("a = 1b = 2", "a number and a name run together"),
    ("path \"a\" { x = [[\"a\"] [\"b\"]] }", "a comma is missing"),
    ("path \"a\" { x = \"\\ud800\" }", "half of a surrogate pair is no character"),
    ("{\"a\": \"\\ud83d\"}", "half of a surrogate pair is no character"),
    ("{\"a\": \"\\x41\"}", "no escape of JSON"),
    ("{", "not closed"),
    ("{\"path\": {\"a\": {\"capabilities\": [\"read\"]}}} x", "more behind the document"),
    ("{\"path\": {\"a\": {\"capabilities\": [\"read\"]}}}}", "more behind the document"),
    ("{\"a\"}", "a name without a value"),
    ("{\"a\": [1 2]}", "a comma is missing"),
    ("{\"a\": [1, 2}", "not closed"),
    ("{\"a\": 1 \"b\": 2}", "a comma is missing"),
];

/// Documents that the reference refuses and we read.
const READ_BY_US: &[(&str, &str)] = &[
    ("\u{feff}a = 1", "a byte order mark is passed over"),
    ("a = <<EOF\nx\nEOF", "the line of the marker may be the last"),
    ("a = <<EOF\nx\n  EOF", "the line of the marker may be the last"),
    ("a = <<-EOF\n    x\n      y\n    EOF", "the line of the marker may be the last"),
    ("a = <<-EOF\n  x\n    EOF", "the line of the marker may be the last"),
    ("a = <<1\nx\n1", "the line of the marker may be the last"),
    ("{\"a\": \"\\u0041\\n\\/\"}", "an escape of JSON"),
    ("{\"a\": [[1], [2]]}", "lists of lists"),
];

fn text<'a>(case: &'a Object, name: &str) -> &'a str {
    case.attribute(name).unwrap().node.as_str().unwrap()
}

#[test]
fn documents_are_read_and_refused_as_by_the_reference() {
    let source = format!("{{\"cases\": {}}}", include_str!("corpus.json"));
    let corpus = parse(&source).unwrap();
    let cases = corpus.attribute("cases").unwrap().node.as_list().unwrap();
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in cases.iter().filter_map(Node::as_object) {
        let document = text(case, "text");
        let accepted = match text(case, "reference") {
            "accepted" => !REFUSED_BY_US.iter().any(|(d, _)| *d == document),
            _ => READ_BY_US.iter().any(|(d, _)| *d == document),
        };
        let ours = parse(document);
        if ours.is_ok() != accepted {
            wrong.push(format!("{document:?}: ours {:?}", ours.map(|_| "accepted").map_err(|e| e.to_string())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `formatted.json` holds what `bao policy fmt` made of documents. Where we give
/// another form on purpose, `otherwise` says why.
#[test]
fn documents_get_the_form_that_the_reference_gives_them() {
    let source = format!("{{\"cases\": {}}}", include_str!("formatted.json"));
    let corpus = parse(&source).unwrap();
    let cases = corpus.attribute("cases").unwrap().node.as_list().unwrap();
    let mut wrong = Vec::new();
    for case in cases.iter().filter_map(Node::as_object) {
        let document = text(case, "text");
        let ours = format(document).unwrap();
        let same = ours == text(case, "formatted");
        if same == case.attribute("otherwise").is_some() {
            wrong.push(format!("{document:?}\n{ours:?}\n{:?}", text(case, "formatted")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
