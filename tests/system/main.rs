#![forbid(unsafe_code)]
//! Whole-system tests: the built binary, stock clients, a SoftHSM token, real files and sockets.
//!
//! Run by `make system`. What a test needs and does not find makes it fail.

mod alert_rules;
mod audit;
mod audited;
mod bad_input;
mod break_glass;
mod chaos;
mod cli_page;
mod clients;
mod cluster;
mod command_line;
mod compaction;
mod crash;
mod databases;
mod debug_bundle;
mod devices;
mod diagnose;
mod field_log;
mod http2;
mod logins;
mod memory;
mod metrics;
mod migrate;
mod needles;
mod openapi;
mod profiles;
mod prometheus;
mod recovery_mode;
mod rekey_pgp;
mod remount;
mod rollback;
mod seal_custodians;
mod seal_hsm;
mod seal_kinds;
mod seal_migration;
mod seal_static;
mod seal_tpm;
mod seal_yubihsm;
mod secrets_at_rest;
mod several_seals;
mod start;
mod stores;
