//! The `ovncp` binary: one node (`serve`), three of them for a newcomer (`dev`), and the operator's commands,
//! which speak the HTTP API like any other client. Everything but the entry point stands in `cli`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
