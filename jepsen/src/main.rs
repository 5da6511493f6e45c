//! The program: parses, does, and says by its exit code what came of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ovncp_jepsen::cli::main()
}
