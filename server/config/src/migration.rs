//! The configuration of `operator migrate`: from where, and to where.

use std::path::Path;

use crate::merge::object;
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Offer, Storage, Warning, files, storage};

/// What is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// `storage_source`
    pub source: Storage,
    /// `storage_destination`
    pub destination: Storage,
    /// Where other members will reach the node, where the destination is `raft`.
    pub cluster_addr: Option<String>,
}

impl Migration {
    /// Reads one file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(file: &Path, offer: &Offer<'_>) -> Result<(Migration, Vec<Warning>), ConfigError> {
        let document = object(file, holdfast_hcl::parse_bytes(&files::read(file)?))?;
        let mut top = Stanza::top(file, &document);
        let mut warnings = Vec::new();
        let migration = Migration {
            source: one(&mut top, "storage_source", offer, &mut warnings)?,
            destination: one(&mut top, "storage_destination", offer, &mut warnings)?,
            cluster_addr: top.text("cluster_addr")?,
        };
        top.finish(&mut warnings);
        Ok((migration, warnings))
    }
}

fn one(
    top: &mut Stanza<'_>,
    name: &'static str,
    offer: &Offer<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Storage, ConfigError> {
    let blocks = top.blocks(name, 1)?;
    match &blocks[..] {
        [block] => storage::read(top, block, offer, warnings),
        _ => Err(ConfigError::without_place(ConfigErrorKind::NotOne(name))),
    }
}
