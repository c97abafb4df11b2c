//! The server's memory: locked, not to be dumped, and empty of secrets after a seal. Needs root.

mod locked;
mod namespaces;
mod scan;
mod sealed;
