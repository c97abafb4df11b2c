//! A deterministic simulation: the real log, state machine, snapshots and members of three and five nodes in one
//! thread, on simulated disks and a simulated network, under faults that follow from a seed. See
//! docs/decisions/0016-simulation.md.
//!
//! * [`world`]: time, chance, and what runs.
//! * [`runtime`]: the world as openraft's runtime and as the store's.
//! * [`network`], [`node`]: what carries messages, and what is killed and started.
//! * [`stories`]: certain things that go wrong one after the other.
//! * [`clients`], [`faults`], [`checks`]: who writes and reads, what goes wrong, and what must hold.
//! * [`told`]: what the parts say meanwhile.
//!
//! `HOLDFAST_SIM_SEED=N cargo test -p holdfast-cluster sim::seeds -- --nocapture` runs one seed and tells what
//! happened; `HOLDFAST_SIM_SEEDS=N` runs so many, from `HOLDFAST_SIM_FROM` on (`make chaos`).

mod checks;
mod clients;
mod faults;
mod network;
mod node;
mod runtime;
mod seeds;
mod stories;
mod told;
mod world;

pub use runtime::{Runtime, Works};
pub use world::World;
