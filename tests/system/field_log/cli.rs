//! Reports about the command line.

use std::fs;
use std::process::Stdio;

use holdfast_tests::program::{run, run_with_input};

use super::{Site, keys};

/// F019.
#[test]
fn blanks_around_a_stored_token_do_not_count_and_a_bad_one_is_never_shown() {
    let site = Site::new();
    let file = site.home().join(".vault-token");
    for text in ["root\n", " root", "root\r\n", "\n\troot \n\n"] {
        fs::write(&file, text).expect("the token file");
        let mut call = site.cli(&["token", "lookup", "-field=display_name"]);
        run(call.env_remove("VAULT_TOKEN")).good();
    }
    for bad in ["hvs.needle\u{1}needle", "hvs.needle\nneedle", "hvs.needleü", "hvs.needle"] {
        fs::write(&file, bad).expect("the token file");
        for args in [&["token", "lookup"][..], &["kv", "get", "secret/a"], &["status"], &["token", "revoke", "-self"]] {
            let mut call = site.cli(args);
            let output = run(call.env_remove("VAULT_TOKEN"));
            assert!(!(output.stdout.clone() + &output.stderr).contains("needle"), "{args:?}: {output:?}");
        }
    }
}

/// F191.
#[test]
fn values_from_files_and_stdin_are_taken_byte_for_byte_and_printed_so() {
    let site = Site::new();
    let file = site.home().join("value");
    let at = format!("v=@{}", file.display());
    for text in ["", "pw", "pw\n", "pw\r\n", "\n", " two\nlines\n\n", "ü\u{0}x\t"] {
        fs::write(&file, text).expect("a file");
        run(&mut site.cli(&["kv", "put", "secret/f", &at])).good();
        run_with_input(&mut site.cli(&["kv", "put", "secret/i", "v=-"]), text.as_bytes()).good();
        for key in ["secret/f", "secret/i"] {
            assert_eq!(run(&mut site.cli(&["kv", "get", "-field=v", key])).good(), text, "{key} {text:?}");
        }
        run(&mut site.cli(&["write", "secret/data/w", &format!("data=@{}", file.display())])).bad(2);
    }
}

/// F191. What a login does with a password's line end is told; what it sends is seen in a `curl` line.
#[test]
fn the_line_end_behind_a_password_is_left_out_of_a_login_and_said() {
    let site = Site::new();
    let file = site.home().join("password");
    let at = format!("password=@{}", file.display());
    let flags = ["login", "-output-curl-string", "-method=userpass", "username=ann"];
    let plain = run(&mut site.cli(&[&flags[..], &["password=pw"]].concat())).good();
    assert!(plain.contains("pw"), "{plain}");
    for (text, notice) in [("pw", false), ("pw\n", true), ("pw\r\n", true)] {
        fs::write(&file, text).expect("a file");
        let by_file = run(&mut site.cli(&[&flags[..], &[&at]].concat()));
        let by_stdin = run_with_input(&mut site.cli(&[&flags[..], &["password=-"]].concat()), text.as_bytes());
        for output in [by_file, by_stdin] {
            assert_eq!(output.stderr.contains("line end"), notice, "{text:?}: {output:?}");
            assert_eq!(output.good(), plain, "{text:?}");
        }
    }
    // One is left out, not all, and none of a password that was typed.
    fs::write(&file, "pw\n\n").expect("a file");
    assert_ne!(run(&mut site.cli(&[&flags[..], &[&at]].concat())).good(), plain);
    assert_ne!(run(&mut site.cli(&[&flags[..], &["password=pw\n"]].concat())).good(), plain);
}

/// F192.
#[test]
fn blanks_at_the_ends_of_a_paths_parts_are_kept() {
    let site = Site::new();
    for folder in ["ab ", " ab", "a  b"] {
        run(&mut site.cli(&["kv", "put", &format!("secret/{folder}/c"), "k=v"])).good();
        let listed = run(&mut site.cli(&["kv", "list", &format!("secret/{folder}/")])).good();
        assert!(listed.lines().any(|l| l == "c"), "{folder:?}: {listed}");
        let read = run(&mut site.cli(&["kv", "get", "-field=k", &format!("secret/{folder}/c")])).good();
        assert_eq!(read, "v");
    }
    assert_eq!(keys(&site.root.list("secret/metadata").expect(200)), [" ab/", "a  b/", "ab /"]);
}

/// F193.
#[test]
fn a_field_goes_to_stdout_and_the_answers_warnings_to_stderr() {
    let site = Site::new();
    for args in [
        &["write", "-field=token", "auth/token/create", "absent=1"][..],
        &["token", "create", "-policy=absent", "-field=token"],
        &["write", "-format=json", "auth/token/create", "absent=1"],
    ] {
        let output = run(site.cli(args).stdout(Stdio::piped()));
        assert!(output.stderr.contains("WARNING!") || args.contains(&"-format=json"), "{args:?}: {output:?}");
        let said = output.stdout.clone();
        match args.contains(&"-format=json") {
            true => assert!(output.json()["warnings"][0].is_string()),
            false => assert!(said.starts_with("hvs.") && !said.contains('\n'), "{said:?}"),
        }
    }
}

/// F195.
#[test]
fn a_check_and_set_is_carried_out_or_refused_but_never_left_out() {
    let site = Site::new();
    run(&mut site.cli(&["secrets", "enable", "-version=1", "-path=one", "kv"])).good();
    run(&mut site.cli(&["kv", "put", "one/a", "k=first"])).good();
    for cas in ["-cas=0", "-cas=1", "-cas=7"] {
        let said = run(&mut site.cli(&["kv", "put", cas, "one/a", "k=second"])).bad(1);
        assert!(said.contains("KV Version 1"), "{said}");
    }
    assert_eq!(run(&mut site.cli(&["kv", "get", "-field=k", "one/a"])).good(), "first");

    run(&mut site.cli(&["kv", "put", "-cas=0", "secret/a", "k=first"])).good();
    run(&mut site.cli(&["kv", "delete", "secret/a"])).good();
    let said = run(&mut site.cli(&["kv", "put", "-cas=0", "secret/a", "k=second"])).bad(2);
    assert!(said.contains("check-and-set parameter did not match the current version"), "{said}");
    assert!(said.contains("The current version is 1, which is deleted"), "{said}");
    run(&mut site.cli(&["kv", "put", "-cas=1", "secret/a", "k=second"])).good();
}
