//! Starting and ending: `make run`, `-dev`, configurations, listeners, TLS.

mod config;
mod dev;
mod listeners;
mod make_run;
mod tls;
