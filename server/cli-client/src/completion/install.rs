//! Adding completion to the start files of the shells, and taking it away.
//!
//! bash and zsh get one line in `~/.bashrc` and `~/.zshrc`, fish a file of its own. A shell whose
//! start file (for fish: folder) is not there is not used, and is left alone. Our lines are known by
//! the mark at their end.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::PROGRAM;
use crate::console::Console;
use crate::environment::Environment;

pub const INSTALL: &str = "autocomplete-install";
pub const UNINSTALL: &str = "autocomplete-uninstall";
const MARK: &str = "# holdfast -autocomplete-install";

/// Installs or uninstalls for every shell that is used here.
pub fn run(is_install: bool, environment: &Environment, console: &Console) -> i32 {
    match changed(is_install, environment) {
        Ok(done) => {
            let what = if is_install { "is completed from the next start on" } else { "is no longer completed" };
            done.iter().for_each(|path| console.say(format_args!("{PROGRAM} {what}: {}", path.display())));
            0
        }
        Err(failures) => {
            failures.iter().for_each(|failure| console.warn(failure));
            1
        }
    }
}

fn changed(is_install: bool, environment: &Environment) -> Result<Vec<PathBuf>, Vec<String>> {
    let home = environment.home().map(Path::new).ok_or_else(|| vec!["HOME is not set.".to_string()])?;
    let program = std::env::current_exe().map_err(|e| vec![format!("where this program is, is not known: {e}")])?;
    let program = program.to_str().ok_or_else(|| vec!["this program's path is no text".to_string()])?;
    let config = environment.variable("XDG_CONFIG_HOME").filter(|p| !p.is_empty());
    let fish = config.map_or_else(|| home.join(".config"), PathBuf::from).join("fish");
    let mut done = Vec::new();
    let mut failures = Vec::new();
    let mut note = |path: PathBuf, outcome: io::Result<bool>| match outcome {
        Ok(true) => done.push(path),
        Ok(false) if is_install => failures.push(format!("already installed in {}", path.display())),
        Ok(false) => failures.push(format!("not installed in {}", path.display())),
        Err(e) => failures.push(format!("{}: {e}", path.display())),
    };
    let lines: [(&[&str], String); 2] =
        [(&[".bashrc", ".bash_profile", ".bash_login", ".profile"], bash(program)), (&[".zshrc"], zsh(program))];
    let mut shells = 0;
    for (files, line) in lines {
        if let Some(path) = files.iter().map(|name| home.join(name)).find(|path| path.is_file()) {
            shells += 1;
            let outcome = change(&path, is_install.then_some(line.as_str()));
            note(path, outcome);
        }
    }
    if fish.is_dir() {
        shells += 1;
        let path = fish.join(format!("completions/{PROGRAM}.fish"));
        let outcome = change_fish(&path, is_install.then(|| self::fish(program)));
        note(path, outcome);
    }
    if shells == 0 {
        failures.push("Did not find any shells to install: no ~/.bashrc, ~/.zshrc or ~/.config/fish.".to_string());
    }
    if failures.is_empty() { Ok(done) } else { Err(failures) }
}

/// Takes our lines out of a file and puts `line` behind the others. False: it was so already.
fn change(path: &Path, line: Option<&str>) -> io::Result<bool> {
    let text = fs::read_to_string(path)?;
    let mut new: String = text.split_inclusive('\n').filter(|l| !l.trim_end().ends_with(MARK)).collect();
    if let Some(line) = line {
        if !new.is_empty() && !new.ends_with('\n') {
            new.push('\n');
        }
        new.push_str(line);
        new.push('\n');
    }
    if new == text {
        return Ok(false);
    }
    // A start file is often a link into a folder of such files.
    replace(&path.canonicalize()?, &new)?;
    Ok(true)
}

fn change_fish(path: &Path, text: Option<String>) -> io::Result<bool> {
    match text {
        Some(text) if fs::read_to_string(path).is_ok_and(|t| t == text) => Ok(false),
        Some(text) => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, text)?;
            Ok(true)
        }
        None if path.exists() => fs::remove_file(path).map(|()| true),
        None => Ok(false),
    }
}

/// Writes a file anew at once, so that no half of a start file is ever read.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        let _not_there_perhaps = fs::remove_file(&new);
    }
    replaced
}

/// A path in single quotes, unless it needs none.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(is_plain) { path.to_string() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

fn bash(program: &str) -> String {
    // bash reads the command of -C once more when it runs it.
    format!("complete -o nospace -C {} {PROGRAM} {MARK}", quoted(&quoted(program)))
}

fn zsh(program: &str) -> String {
    format!(
        "(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}; \
         _{PROGRAM}() {{ local l; local -a whole more; \
         for l in \"${{(@f)$(COMP_LINE=\"${{(j: :)words[1,CURRENT-1]}} $PREFIX\" {} zsh 2>/dev/null)}}\"; do \
         case $l in (*' ') whole+=(\"${{l% }}\");; (?*) more+=(\"$l\");; esac; done; \
         compadd -a whole; compadd -S '' -a more }}; \
         compdef _{PROGRAM} {PROGRAM} {MARK}",
        quoted(program)
    )
}

fn fish(program: &str) -> String {
    // The only difference to the quotes of other shells: a backslash counts inside.
    let program = format!("'{}'", program.replace('\\', "\\\\").replace('\'', "\\'"));
    format!(
        "{MARK}\n\
         function __complete_{PROGRAM}\n    \
         set -lx COMP_LINE (commandline -cp | string join ' ')\n    \
         {program} fish 2>/dev/null\n\
         end\n\
         complete -f -c {PROGRAM} -a \"(__complete_{PROGRAM})\"\n"
    )
}
