//! Looks after audit devices: their lines are sealed in time, one that was removed or renamed is opened anew under its name, and a disk or a
//! spool that is about to be full is told about.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Device;
use super::file::FileDevice;
use crate::{Core, Open};

/// How often.
const LOOK: Duration = Duration::from_secs(1);
/// What the active node did not keep is passed on again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// Parts of a disk in use that are told about, in percent.
pub(crate) const WARN_AT: [u64; 2] = [80, 95];

/// Look after the files for as long as the server is unsealed.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    core.while_open(open, run);
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    // What was said of each device's disk, and of its spool.
    let mut said: HashMap<u64, [u64; 2]> = HashMap::new();
    let mut passed_on_from = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
        let devices = open.audit.devices();
        said.retain(|number, _| devices.iter().any(|d| d.number == *number));
        for device in devices.iter() {
            let looked = device.aside(|device| {
                if let Some(file) = device.file() {
                    look_after(device, file);
                }
                device.figures.see_disk(device.disk());
            });
            let _late_is_told = looked.await;
            let disk = device.figures.disk();
            let used = [disk.map(|disk| disk.used_percent), device.spooled().map(|spool| spool.used_percent)];
            let said = said.entry(device.number).or_default();
            for ((used, said), what) in used.into_iter().zip(said).zip(["the disk of the audit log", "an audit spool"])
            {
                let Some(used) = used else { continue };
                let reached = WARN_AT.into_iter().filter(|at| used >= *at).max().unwrap_or(0);
                if reached > std::mem::replace(said, reached) {
                    let device = &device.config.path;
                    match reached == WARN_AT[1] {
                        true => tracing::error!(
                            %device, used_percent = used,
                            "{what} is nearly full: when it is, no request is answered unless another device takes its lines"
                        ),
                        false => tracing::warn!(%device, used_percent = used, "{what} fills up"),
                    }
                }
            }
        }
        if core.open.load().as_ref().is_none_or(|active| !Arc::ptr_eq(active, &open)) {
            // A node that stands by writes nothing into the store.
            pass_seals_on(&core, &open, &mut passed_on_from).await;
            continue;
        }
        core.tell_late(&open);
        core.forget_told(&open).await;
        if let Err(e) = core.store_checkpoints(&open, &open.audit).await {
            tracing::warn!(error = %e, "checkpoints of the audit logs are in their files alone for now");
        }
    }
}

/// Seal the lines of a file in time, and see whether it is where lines should go.
fn look_after(device: &Device, file: &FileDevice) {
    if file.is_astray() {
        tracing::warn!(device = %device.config.path, "the audit file is not under its name any more: it is made anew");
        device.reopen();
    }
    if file.is_late() {
        let why = "a sync takes more than 2 s: nobody waits for it while another device has the lines";
        device.figures.is_not_synced(0, &why);
    } else if device.figures.is_unsynced() {
        file.recover();
    }
    if let Err(e) = file.seal(false) {
        device.figures.refused(&e);
    }
    if let Ok(unsealed) = file.unsealed() {
        device.figures.see_unsealed(unsealed);
    }
}

/// Let the active node keep what seals the files here. One that has an earlier program does not know how.
async fn pass_seals_on(core: &Core, open: &Open, from: &mut Instant) {
    if Instant::now() < *from {
        return;
    }
    if let Err(e) = core.pass_seals_on(open).await {
        tracing::debug!(error = %e, "what seals this node's audit files is in them alone for now");
        *from = Instant::now() + AGAIN;
    }
}
