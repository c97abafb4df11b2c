//! Templates of user names: the part of Go's text/template that these use, with the reference's functions.
//!
//! Text, `{{ pipeline }}`, `if`/`else if`/`else`/`end`, `with`, comments, and `-` that trims blanks. No loops, no
//! variables: what a template does is bounded by its length.

mod eval;
mod parse;

use holdfast_sdk::Timestamp;

use parse::Node;

/// Longest text of a template, and of what it makes.
const MAX_CHARS: usize = 4096;

/// A template that was parsed.
pub struct Template {
    nodes: Vec<Node>,
}

/// What is wrong with a template, or with a run of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn wrong(text: impl Into<String>) -> Wrong {
    Wrong(text.into())
}

/// What a template may name.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub display_name: &'a str,
    pub role_name: &'a str,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, Wrong> {
        if text.chars().count() > MAX_CHARS {
            return Err(wrong(format!("it is longer than {MAX_CHARS} characters")));
        }
        Ok(Template { nodes: parse::parse(text)? })
    }

    pub fn run(&self, names: Names<'_>, now: Timestamp) -> Result<String, Wrong> {
        let mut out = String::new();
        eval::run(&self.nodes, &eval::Scope { names, now }, &mut out)?;
        match out.chars().count() > MAX_CHARS {
            true => Err(wrong(format!("it makes more than {MAX_CHARS} characters"))),
            false => Ok(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_123_000_000);

    fn run(text: &str) -> Result<String, Wrong> {
        Template::parse(text)?.run(Names { display_name: "token-Blue", role_name: "Web-App.1" }, NOW)
    }

    #[test]
    fn functions_do_what_the_reference_does() {
        for (template, made) in [
            ("{{.DisplayName}}+{{.RoleName}}", "token-Blue+Web-App.1"),
            ("{{.RoleName | uppercase}}-{{.DisplayName | lowercase}}", "WEB-APP.1-token-blue"),
            ("{{.RoleName | truncate 5}}", "Web-A"),
            ("{{.RoleName | truncate_sha256 12}}", "Web-App.1"),
            ("{{.RoleName | replace \"-\" \"_\" | replace \".\" \"\"}}", "Web_App1"),
            ("{{.RoleName | sha256 | truncate 20}}", "d6e75e6d2122cf02d144"),
            ("{{.RoleName | base64}}", "V2ViLUFwcC4x"),
            ("{{unix_time}} {{unix_time_millis}}", "1700000000 1700000000123"),
            ("{{timestamp \"2006-01-02T15:04:05Z\"}}", "2023-11-14T22:13:20Z"),
            ("{{printf \"v-%s-%s\" (.DisplayName | truncate 3) .RoleName | truncate 8}}", "v-tok-We"),
            ("{{if eq .RoleName \"Web-App.1\"}}web{{else}}other{{end}}", "web"),
            ("{{if and .RoleName (ne .RoleName \"x\")}}a{{end}}", "a"),
            ("{{with .RoleName}}{{. | lowercase}}{{end}}", "web-app.1"),
            ("a {{- /* nothing */ -}} b", "ab"),
            ("{{if \"\"}}x{{else if 1}}y{{end}}", "y"),
            ("{{len .RoleName}}", "9"),
            ("same", "same"),
            ("{{random 0}}", ""),
        ] {
            assert_eq!(run(template).as_deref(), Ok(made), "{template}");
        }
        assert_eq!(run("{{random 12}}").unwrap().len(), 12);
        assert_eq!(run("{{uuid}}").unwrap().len(), 36);
        let cut = run("{{.DisplayName | truncate_sha256 9}}").unwrap();
        assert!(cut.len() == 9 && cut.starts_with('t'), "{cut}");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for template in [
            "{{",
            "{{.RoleName",
            "{{end}}",
            "{{if .RoleName}}",
            "{{else}}",
            "{{nothing}}",
            "{{env \"HOME\"}}",
            "{{.Nothing}}",
            "{{random}}",
            "{{random -1}}",
            "{{random \"x\"}}",
            "{{random 100000}}",
            "{{.RoleName | truncate}}",
            "{{.RoleName | truncate 0}}",
            "{{.RoleName | truncate_sha256 5}}",
            "{{\"open}}",
            "{{(.RoleName}}",
            "{{}}",
            "{{.RoleName | }}",
        ] {
            assert!(run(template).is_err(), "{template}");
        }
    }
}
