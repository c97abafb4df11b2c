#![forbid(unsafe_code)]
//! Fuzz targets: what reads bytes of others takes any bytes without a panic, and what it accepts makes sense.
//!
//! Each target is a plain function. `make test` runs each on changed seeds, on the stable toolchain
//! (`tests/bounded.rs`); `cargo +nightly fuzz run TARGET --features libfuzzer` runs one for as long as you like, led
//! by what code is reached.

mod segment;
mod texts;

pub use segment::log_segment;
pub use texts::{configuration, hcl, policy, proxy_header, request};

/// A target, by its name, with inputs to begin with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: &'static [&'static [u8]],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "hcl", run: hcl, seeds: texts::HCL },
    Target { name: "policy", run: policy, seeds: texts::POLICIES },
    Target { name: "configuration", run: configuration, seeds: texts::CONFIGURATIONS },
    Target { name: "request", run: request, seeds: texts::REQUESTS },
    Target { name: "proxy_header", run: proxy_header, seeds: texts::PROXY_HEADERS },
    Target { name: "log_segment", run: log_segment, seeds: segment::SEEDS },
];
