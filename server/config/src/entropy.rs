//! `entropy`: what is mixed into the keys that the server makes for itself.

use holdfast_hcl::Block;

use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind};

/// `entropy "seal" { mode = "augmentation" }`, as in Vault Enterprise; a seal is all there is, and augmentation all it does.
pub(crate) fn read(top: &Stanza<'_>, block: &Block<'_>) -> Result<bool, ConfigError> {
    if block.label(0) != "seal" {
        let name = block.label(0).to_owned();
        let kind = ConfigErrorKind::NotOffered { what: "entropy", name, offered: "seal".to_owned() };
        return Err(top.error(block.labels[0].position, kind));
    }
    let mut s = top.inner("entropy", block);
    let mixes = s.choice("mode", &[("augmentation", true)])?;
    let mixes = mixes.ok_or_else(|| s.missing("mode", "set it to \"augmentation\""))?;
    // Whoever writes this wants it: nothing of it is passed over.
    s.finish_strictly()?;
    Ok(mixes)
}
