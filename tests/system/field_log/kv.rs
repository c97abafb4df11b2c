//! Reports about the key-value engine.

use holdfast_tests::program::run;
use serde_json::json;

use super::{Site, keys};

/// F170.
#[test]
fn a_detailed_list_shows_folders_without_details() {
    let site = Site::new();
    for key in ["x", "x/y", "z/1"] {
        site.secret(key);
    }
    for path in ["secret/detailed-metadata", "secret/detailed-metadata/"] {
        let list = site.root.list(path).expect(200);
        assert_eq!(keys(&list), ["x", "x/", "z/"]);
        assert_eq!(list.at("/data/key_info/x/current_version"), 1);
        for folder in ["x/", "z/"] {
            let info = list.at("/data/key_info").get(folder).cloned();
            assert!(info.is_none_or(|i| i.as_object().is_some_and(|o| o.is_empty())), "{folder}");
        }
    }
}

/// F171. Names that are written can be read, listed and deleted, as key and as folder.
#[test]
fn a_name_of_any_letters_is_written_listed_read_and_deleted_as_key_and_as_folder() {
    let site = Site::new();
    site.root.post("sys/mounts/one", json!({ "type": "kv", "options": { "version": "1" } })).expect(204);
    let names = [
        "a b", "a  b", " a", "a ", "%", "100%", "%41", "%2F", "#", "a#b", "+", "a+b", "*", "a*", "[", "a[1]", "{x}",
        "?", "a?b=c", "&", "=", ";", ":", "@a", "!", "$HOME", "'", "\"", "`", "\\", "|", "<b>", "~", "^", ",", "a..b",
        "...", "ü", "日本", "😀", "-a", "data", "metadata",
    ];
    for name in names {
        let escaped: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
        for (write, list) in [("secret/data/t", "secret/metadata/t"), ("one/t", "one/t")] {
            let body = json!({ "data": { "n": name }, "n": name });
            let put = site.root.post(&format!("{write}/{escaped}"), body.clone());
            if put.status >= 300 {
                assert_eq!(put.status, 400, "{name:?} at {write}: {}", put.text());
                continue;
            }
            site.root.post(&format!("{write}/{escaped}/below"), body);
            let listed = keys(&site.root.list(list).expect(200));
            assert_eq!(listed, [name.to_owned(), format!("{name}/")], "{name:?} at {list}");
            let below = keys(&site.root.list(&format!("{list}/{escaped}")).expect(200));
            assert_eq!(below, ["below"], "{name:?} at {list}");
            let read = site.root.get(&format!("{write}/{escaped}")).expect(200);
            assert!(read.text().contains(&json!(name).to_string()), "{name:?}: {}", read.text());
            for key in [escaped.clone(), format!("{escaped}/below")] {
                site.root.delete(&format!("{list}/{key}")).expect(204);
            }
            site.root.list(list).expect(404);
        }
        // The command line sends the same name.
        let args = ["kv", "put", "-mount=secret", &format!("t/{name}"), "a=b"];
        let output = run(&mut site.cli(&args));
        if output.code == Some(0) {
            assert_eq!(keys(&site.root.list("secret/metadata/t").expect(200)), [name], "by the command line");
            let read = run(&mut site.cli(&["kv", "get", "-mount=secret", "-field=a", &format!("t/{name}")])).good();
            assert_eq!(read, "b", "{name:?}");
            run(&mut site.cli(&["kv", "metadata", "delete", "-mount=secret", &format!("t/{name}")])).good();
            site.root.list("secret/metadata/t").expect(404);
        } else {
            panic!("{name:?}: {output:?}");
        }
    }
}

/// F172.
#[test]
fn a_key_and_a_folder_of_its_name_are_two_and_an_old_path_is_told_the_right_one() {
    let site = Site::new();
    site.secret("x");
    site.secret("x/y");
    assert_eq!(keys(&site.root.list("secret/metadata").expect(200)), ["x", "x/"]);
    site.root.get("secret/data/x").expect(200);
    assert_eq!(keys(&site.root.list("secret/metadata/x").expect(200)), ["y"]);
    for (verb, path) in [("GET", "secret/x"), ("LIST", "secret/x"), ("DELETE", "secret/x"), ("POST", "secret/x")] {
        let reply = site.root.call(verb, path, None).expect(404);
        assert!(reply.text().contains("Invalid path for a versioned K/V secrets engine"), "{verb}: {}", reply.text());
    }
}

/// F173. The time of the last change, by what the reference counts as one.
#[test]
fn the_metadata_of_a_key_tells_its_own_limits_and_when_it_was_changed() {
    let site = Site::new();
    site.secret("x");
    let metadata = || site.root.get("secret/metadata/x").expect(200).at("/data");
    let first = metadata();
    site.secret("x");
    assert!(metadata()["updated_time"].as_str() > first["updated_time"].as_str());
    assert_eq!(metadata()["created_time"], first["created_time"]);
    let limits = json!({ "max_versions": 3, "cas_required": true, "delete_version_after": "1h" });
    site.root.post("secret/metadata/x", limits).expect(204);
    let changed = metadata();
    assert_eq!(changed["max_versions"], 3);
    assert_eq!(changed["cas_required"], true);
    assert_eq!(changed["delete_version_after"], "1h0m0s");
}
