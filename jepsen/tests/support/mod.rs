//! Runs of the program in tests.
//!
//! The nodes' binary is the one that `cargo test --workspace` has built beside the test; alone, a test builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The nodes' binary of the same build.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let path = test.ancestors().nth(2).expect("it lies in target/debug/deps").join("ovncp");
    // Never built anew where it exists: other tests may be running it.
    if !path.exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let built = Command::new(env!("CARGO")).args(["build", "--bin", "ovncp"]).current_dir(root).status();
        assert!(
            built.expect("cargo runs").success() && path.exists(),
            "cargo build made no {}",
            path.display()
        );
    }
    path
}

/// The program, with its runs below `store`.
pub(crate) fn harness(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovncp-jepsen"));
    command.arg("--store").arg(store).env("OVNCP_BINARY", binary()).stdin(Stdio::null());
    command
}

/// All that it printed.
pub(crate) fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The only run in the store, once it exists.
pub(crate) fn only_run(store: &Path) -> Option<PathBuf> {
    let name = std::fs::read_dir(store).ok()?.next()?.ok()?.path();
    Some(std::fs::read_dir(name).ok()?.next()?.ok()?.path())
}

/// A file as JSON.
pub(crate) fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
