#![forbid(unsafe_code)]
//! `holdfast-tpm-helper`: the process that the TPM's libraries run in. The server starts it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: holdfast_hsm::memory::WipingAllocator = holdfast_hsm::memory::WipingAllocator;

fn main() -> ExitCode {
    holdfast_hsm::helper::main(holdfast_tpm::open)
}
