//! No input makes the reader panic: random bytes, and documents with random
//! changes.

use holdfast_hcl::{Object, Syntax, Value, format, parse, parse_bytes};
use proptest::prelude::*;

const SEEDS: &[&str] = &[
    "path \"secret/*\" {\n  capabilities = [\"read\", \"list\",] # c\n  min_wrapping_ttl = 0x1f\n}\n",
    "listener \"tcp\" { address = \"127.0.0.1:8200\" tls_disable = true }\n/* c */ a = -1.5e3",
    "a = <<-EOF\n    text ${x}\n    EOF\nb { c { d = [[1], {e = \"\\u00e9\\\"\"}] } }",
    "{\"path\": {\"a\": [{\"capabilities\": [\"read\", null, true, 1.5e3]}]}, \"b\": \"\\ud83d\\ude00\"}",
];

const FRAGMENTS: &[&str] = &[
    "/*K*/",
    " /*K*/ ",
    "/*K\n*/",
    " # K\n",
    "\n# K\n",
    "// K\n\n",
    " c = 1\n",
    " c = []\n",
    " c {}\n",
    " \"x\", ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "<<",
    "<<-EOF\n",
    "EOF\n",
    "=",
    ",",
    "#",
    "//",
    "/*",
    "*/",
    "${",
    "\n",
    "\r\n",
    "\0",
    "-",
    "0x",
    "1e",
    ".",
    "true",
    "null",
    "\u{feff}",
    "\u{e9}",
    "\u{1f600}",
    "\\u",
    "\\x",
    "\\U0011",
    ":",
];

#[derive(Clone, Debug)]
enum Change {
    Cut(usize, usize),
    Insert(usize, usize),
    Byte(usize, u8),
    Double(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 1..20_usize).prop_map(|(at, n)| Change::Cut(at, n)),
        (any::<usize>(), any::<usize>()).prop_map(|(at, n)| Change::Insert(at, n)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Change::Byte(at, b)),
        (any::<usize>(), 1..30_usize).prop_map(|(at, n)| Change::Double(at, n)),
    ]
}

fn apply(document: &mut Vec<u8>, change: &Change) {
    let len = document.len();
    let range = |at: usize, n: usize| {
        let start = at % (len + 1);
        start..(start + n).min(len)
    };
    match *change {
        Change::Cut(at, n) => drop(document.drain(range(at, n))),
        Change::Insert(at, n) => {
            let at = at % (len + 1);
            document.splice(at..at, FRAGMENTS[n % FRAGMENTS.len()].bytes());
        }
        Change::Byte(at, byte) if len > 0 => document[at % len] = byte,
        Change::Byte(..) => {}
        Change::Double(at, n) => {
            let range = range(at, n);
            let copy = document[range.clone()].to_vec();
            document.splice(range.start..range.start, copy);
        }
    }
}

/// Every position lies in the document, and every item has a name.
fn inspect(object: &holdfast_hcl::Object, lines: u32) {
    for item in &object.items {
        assert!(!item.keys.is_empty());
        assert!(item.position().line <= lines);
        assert!(item.node.position >= item.position());
        if let Value::Object(inner) = &item.node.value {
            inspect(inner, lines);
        }
        let _ = object.blocks(item.name(), 1);
    }
}

fn read(bytes: &[u8]) {
    let newlines = bytes.iter().filter(|b| **b == b'\n').count();
    let lines = u32::try_from(newlines).unwrap() + 1;
    match parse_bytes(bytes) {
        Ok(object) => inspect(&object, lines),
        Err(error) => assert!(error.position.line <= lines),
    }
}

/// What a document means: the tree without its places.
fn meaning(object: &Object) -> String {
    fn value(of: &Value) -> String {
        match of {
            Value::List(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| value(&node.value)).collect();
                format!("[{}]", nodes.join(","))
            }
            Value::Object(object) => meaning(object),
            other => format!("{other:?}"),
        }
    }
    let mut text = String::from("{");
    for item in &object.items {
        let keys: Vec<_> = item.keys.iter().map(|key| &key.text).collect();
        text += &format!("{keys:?}:{};", value(&item.node.value));
    }
    text + "}"
}

/// A document in its usual form means the same, keeps its comments, and stays
/// as it is when it is put into form again.
fn formats(source: &str) {
    let Ok(object) = parse(source) else { return };
    if object.syntax == Syntax::Json {
        return;
    }
    let formatted = format(source).unwrap();
    let again = parse(&formatted).unwrap_or_else(|error| panic!("{error}\n{source:?}\n{formatted:?}"));
    assert_eq!(meaning(&object), meaning(&again), "{source:?}\n{formatted:?}");
    let marks = |text: &str| text.matches('K').count();
    assert_eq!(marks(source), marks(&formatted), "{source:?}\n{formatted:?}");
    assert_eq!(format(&formatted).unwrap(), formatted, "{source:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&bytes);
    }

    #[test]
    fn changed_documents_never_panic(
        seed in 0..SEEDS.len(),
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut document = SEEDS[seed].as_bytes().to_vec();
        for change in &changes {
            apply(&mut document, change);
        }
        read(&document);
    }

    #[test]
    fn formatting_keeps_meaning_and_comments(
        seed in 0..SEEDS.len(),
        inserts in prop::collection::vec((any::<usize>(), any::<usize>()), 0..8),
    ) {
        let mut document = SEEDS[seed].as_bytes().to_vec();
        for (at, fragment) in inserts {
            apply(&mut document, &Change::Insert(at, fragment));
        }
        if let Ok(text) = std::str::from_utf8(&document) {
            formats(text);
        }
    }

    #[test]
    fn fragments_in_any_order_never_panic(parts in prop::collection::vec(0..FRAGMENTS.len(), 0..40)) {
        let document: String = parts.iter().map(|i| FRAGMENTS[*i]).collect();
        read(document.as_bytes());
    }
}
