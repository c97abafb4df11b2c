//! The client commands alone, to try them against any server:
//! `cargo run -p holdfast-cli-client --example holdfast-client -- status`.

fn main() {
    std::process::exit(holdfast_cli_client::run(std::env::args_os().skip(1).collect()));
}
