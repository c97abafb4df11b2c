//! Reading files one after the other into one configuration.
//!
//! As in Vault: listeners, seals, audit devices and lockouts add up; of
//! storage, telemetry and simple values the later file's counts; of the lease
//! TTLs and the cache's size the larger; and a switch that one file turns on
//! stays on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_hcl::Object;

use crate::stanza::boolean;
use crate::url::is_http_url;
use crate::{
    Config, ConfigError, ConfigErrorKind, Offer, Place, Warning, audit_signing, files, log, node_key, seal_environment,
    top_level,
};

/// A configuration while files are added to it.
#[derive(Default)]
pub(crate) struct Draft {
    pub config: Config,
    pub default_lease_ttl: Option<Duration>,
    pub max_lease_ttl: Option<Duration>,
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads files, and the `*.hcl` and `*.json` of folders in the order of
    /// their names, and merges them; then the environment.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(paths: &[PathBuf], offer: &Offer<'_>) -> Result<(Config, Vec<Warning>), ConfigError> {
        let mut draft = Draft::default();
        for file in files::files(paths)? {
            let document = holdfast_hcl::parse_bytes(&files::read(&file)?);
            add(&mut draft, &file, document, offer)?;
        }
        finish(draft, offer)
    }

    /// Reads one text; `file` is its name in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &Path, text: &str, offer: &Offer<'_>) -> Result<(Config, Vec<Warning>), ConfigError> {
        let mut draft = Draft::default();
        add(&mut draft, file, holdfast_hcl::parse(text), offer)?;
        finish(draft, offer)
    }
}

fn add(
    draft: &mut Draft,
    file: &Path,
    document: Result<Object, holdfast_hcl::Error>,
    offer: &Offer<'_>,
) -> Result<(), ConfigError> {
    top_level::read(draft, file, &object(file, document)?, offer)
}

/// A file's content, or what is wrong with its form.
pub(crate) fn object(file: &Path, document: Result<Object, holdfast_hcl::Error>) -> Result<Object, ConfigError> {
    document.map_err(|error| ConfigError {
        place: Some(Place { file: file.to_owned(), position: error.position }),
        kind: ConfigErrorKind::Syntax(error.kind),
    })
}

fn finish(draft: Draft, offer: &Offer<'_>) -> Result<(Config, Vec<Warning>), ConfigError> {
    let mut config = draft.config;
    let built_in = Config::default();
    config.max_lease_ttl = draft.max_lease_ttl.unwrap_or(built_in.max_lease_ttl);
    config.default_lease_ttl = draft.default_lease_ttl.unwrap_or(built_in.default_lease_ttl.min(config.max_lease_ttl));
    if config.default_lease_ttl > config.max_lease_ttl {
        let text = format!(
            "default_lease_ttl ({} s) is over max_lease_ttl ({} s); raise the one or lower the other",
            config.default_lease_ttl.as_secs(),
            config.max_lease_ttl.as_secs()
        );
        return Err(ConfigError::without_place(ConfigErrorKind::Conflict(text)));
    }
    if let Some(signing) = &config.audit_signing {
        audit_signing::check(signing, &config.devices)?;
    }
    node_key::check(&config)?;
    environment(&mut config, offer)?;
    let mut warnings = draft.warnings;
    if let (Some((name, kind)), false) = (offer.variable("SEAL_TYPE"), config.seals.is_empty()) {
        let text = format!("{name} ({kind:?}) is not used: the configuration has a seal stanza");
        warnings.push(Warning { place: None, text });
    }
    seal_environment::complete(&mut config.seals, offer)?;
    Ok((config, warnings))
}

/// Takes the server's own variables, which count more than the files.
fn environment(config: &mut Config, offer: &Offer<'_>) -> Result<(), ConfigError> {
    log::environment(&mut config.log, offer)?;
    for (suffix, address) in [("API_ADDR", &mut config.api_addr), ("CLUSTER_ADDR", &mut config.cluster_addr)] {
        match offer.variable(suffix) {
            Some((name, url)) if !is_http_url(&url) => {
                let expected = "a URL, as in https://vault.example.com:8200".to_owned();
                return Err(ConfigError::without_place(ConfigErrorKind::Environment { name, expected }));
            }
            Some((_, url)) => *address = Some(url),
            None => {}
        }
    }
    if let Some((name, text)) = offer.variable("UI") {
        config.ui = boolean(&text).ok_or_else(|| {
            let expected = "true or false".to_owned();
            ConfigError::without_place(ConfigErrorKind::Environment { name, expected })
        })?;
    }
    Ok(())
}
