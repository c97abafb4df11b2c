//! The command line as a person has it: at a terminal, in a shell that completes, following a log.

mod completion;
mod monitor;
mod policy;
mod terminal;
mod token;
