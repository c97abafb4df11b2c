//! The flags of `holdfast server`, with one dash or two.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_config::{LogFormat, LogLevel, LogSettings};
use holdfast_sdk::duration;

#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config: Vec<PathBuf>,
    /// Repair the store, and nothing else.
    pub recovery: bool,
    pub dev: bool,
    pub dev_root_token_id: Option<String>,
    pub dev_listen_address: Option<String>,
    pub dev_tls: bool,
    pub dev_tls_cert_dir: Option<PathBuf>,
    pub dev_no_store_token: bool,
    pub dev_kv_v1: bool,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
    pub log_file: Option<PathBuf>,
    pub log_rotate_bytes: Option<String>,
    pub log_rotate_duration: Option<String>,
    pub log_rotate_max_files: Option<String>,
}

impl Flags {
    /// What they say about the log counts more than the configuration.
    pub fn apply_log(&self, log: &mut LogSettings) -> Result<(), String> {
        if let Some(text) = &self.log_level {
            log.level = LogLevel::parse(text).ok_or_else(|| format!("unknown log level {text:?}"))?;
        }
        if let Some(text) = &self.log_format {
            log.format = LogFormat::parse(text).ok_or_else(|| format!("unknown log format {text:?}"))?;
        }
        if let Some(file) = &self.log_file {
            log.file = Some(file.clone());
        }
        let number = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(t) => t.parse::<u64>().map(Some).map_err(|_| format!("-{name} {t:?} is no number")),
        };
        if let Some(bytes) = number("log-rotate-bytes", &self.log_rotate_bytes)? {
            log.rotate_bytes = (bytes > 0).then_some(bytes);
        }
        if let Some(files) = number("log-rotate-max-files", &self.log_rotate_max_files)? {
            log.rotate_max_files = (files > 0).then_some(files);
        }
        if let Some(text) = &self.log_rotate_duration {
            let ns = duration::parse(text).and_then(|ns| u64::try_from(ns).ok()).filter(|ns| *ns > 0);
            let ns = ns.ok_or_else(|| format!("-log-rotate-duration {text:?} is no duration, as in 24h"))?;
            log.rotate_duration = Duration::from_nanos(ns);
        }
        Ok(())
    }
}

pub enum Parsed {
    Run(Box<Flags>),
    Help,
}

pub const HELP: &str = "\
Usage: holdfast server [options]

  Starts the server. It answers health and seal status at once, and the rest
  when it is unsealed: by its device, or by shares.

      $ holdfast server -config=/etc/holdfast/holdfast.hcl

  A server to try things out, in memory, unsealed, without TLS:

      $ holdfast server -dev -dev-root-token-id=root

Options:

  -config=<path>
      A file (HCL or JSON), or a folder whose .hcl and .json files are read in
      the order of their names. May be given several times.

  -log-level=<level>
      trace, debug, info, warn or error. The default is info.

  -log-format=<format>
      standard or json. The default is standard.

  -log-file=<path>
      The log goes there, not to the standard error. A folder gets holdfast.log.

  -log-rotate-bytes=<int>, -log-rotate-duration=<duration>
      When a new file begins. The defaults are never, and 24h.

  -log-rotate-max-files=<int>
      How many old files are kept. The default is 0: all.

  -recovery
      Start in recovery mode: to read and write entries of the store with a
      token that holders of its shares make (operator generate-root
      -recovery-token). Nothing is mounted, nothing ends, nobody else is asked.

Options of a server to try things out:

  -dev
      In memory, initialised and unsealed, with kv version 2 at secret/.

  -dev-root-token-id=<id>
      The id of its root token. The default is a random one.

  -dev-listen-address=<address>
      The default is 127.0.0.1:8200.

  -dev-tls
      With TLS and a certificate of its own; its CA's file is printed.

  -dev-tls-cert-dir=<folder>
      Where the files of -dev-tls go.

  -dev-no-store-token
      Do not write the root token to the token file of the client commands.
";

/// A value of a boolean flag.
fn switch(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1" | "t") => Ok(true),
        Some("false" | "0" | "f") => Ok(false),
        Some(v) => Err(format!("invalid boolean value {v:?} for -{name}")),
    }
}

pub fn parse(args: &[String]) -> Result<Parsed, String> {
    let mut flags = Flags::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty()) else {
            return Err(format!("holdfast server takes no arguments, got {arg:?}"));
        };
        let (name, value) = match name.split_once('=') {
            Some((n, v)) => (n, Some(v.to_owned())),
            None => (name, None),
        };
        let on = |value: &Option<String>| switch(name, value.as_deref());
        match name {
            "h" | "help" => return Ok(Parsed::Help),
            "dev" => flags.dev = on(&value)?,
            "recovery" => flags.recovery = on(&value)?,
            "dev-tls" => flags.dev_tls = on(&value)?,
            "dev-no-store-token" => flags.dev_no_store_token = on(&value)?,
            "dev-kv-v1" => flags.dev_kv_v1 = on(&value)?,
            "exit-on-core-shutdown" | "non-interactive" => {
                on(&value)?;
            }
            "config"
            | "dev-root-token-id"
            | "dev-listen-address"
            | "dev-tls-cert-dir"
            | "log-level"
            | "log-format"
            | "log-file"
            | "log-rotate-bytes"
            | "log-rotate-duration"
            | "log-rotate-max-files" => {
                let value = match value {
                    Some(v) => v,
                    None => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
                };
                match name {
                    "config" => flags.config.push(value.into()),
                    "dev-root-token-id" => flags.dev_root_token_id = Some(value),
                    "dev-listen-address" => flags.dev_listen_address = Some(value),
                    "dev-tls-cert-dir" => flags.dev_tls_cert_dir = Some(value.into()),
                    "log-level" => flags.log_level = Some(value),
                    "log-file" => flags.log_file = Some(value.into()),
                    "log-rotate-bytes" => flags.log_rotate_bytes = Some(value),
                    "log-rotate-duration" => flags.log_rotate_duration = Some(value),
                    "log-rotate-max-files" => flags.log_rotate_max_files = Some(value),
                    _ => flags.log_format = Some(value),
                }
            }
            other => {
                return Err(format!("flag provided but not defined: -{other}; holdfast server -h shows what there is"));
            }
        }
    }
    if flags.recovery && flags.dev {
        return Err("-recovery repairs a store that is there, and -dev has none".into());
    }
    if flags.config.is_empty() && !flags.dev {
        return Err("a configuration is needed: -config=FILE, or -dev to try things out".into());
    }
    Ok(Parsed::Run(Box::new(flags)))
}
