//! Starting and ending: `make run`, `-dev`, configurations, listeners, TLS.

mod config;
mod dev;
mod listener_keys;
mod listeners;
mod log_file;
mod make_run;
mod tls;
mod walls;
