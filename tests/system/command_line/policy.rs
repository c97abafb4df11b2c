//! `policy lint`, as a build server runs it.

use holdfast_tests::program::{command, holdfast, run_with_input};

#[test]
fn lint_says_by_its_exit_code_whether_something_was_found() {
    let lint = |flags: &[&str], text: &str| {
        run_with_input(command(holdfast()).args(["policy", "lint"]).args(flags).arg("-"), text.as_bytes())
    };
    let text = "path \"secret/app\" {\n  capabilities = [\"read\"]\n}\n";
    assert_eq!(lint(&["-kv2="], text).good(), "");
    let found = lint(&[], text).bad(1);
    assert!(found.starts_with("-:1:6: path \"secret/app\": "), "{found}");
    assert!(found.contains("write \"secret/data/app\" [kv2-path]\n"), "{found}");
    let found: serde_json::Value = serde_json::from_str(&lint(&["-format=json"], text).bad(1)).expect("JSON");
    assert_eq!((&found[0]["line"], &found[0]["check"]), (&1.into(), &"kv2-path".into()));
    assert_eq!(lint(&["-kv2=", "-format=json"], text).json(), serde_json::json!([]));
    assert!(lint(&[], "path \"a\" {").bad(2).contains("-: at 1:"), "where it cannot be read is told");
}
