//! A binary that can be a mutant says so, loudly. That one which cannot refuses is in tests/cli/basics.rs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

use ovncp_state::mutants::Mutant;

/// Tries to start a node on a data directory that cannot be made: it says what it is and ends.
fn serve(mutant: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovncp"));
    command.args(["serve", "--node-id", "a", "--data-dir", "/dev/null/data", "--listen", "127.0.0.1"]);
    command.args(["--http-port", "0", "--metrics-port", "0", "--peer-port", "0"]);
    command.env_clear().envs(mutant.map(|name| ("OVNCP_MUTANT", name)));
    command.output().unwrap()
}

#[test]
fn a_mutant_says_that_it_is_one() {
    let said = |mutant| String::from_utf8(serve(mutant).stderr).unwrap();
    for mutant in Mutant::ALL {
        let said = said(Some(mutant.name()));
        let warning = format!("THIS NODE IS A MUTANT AND LOSES DATA ({})", mutant.name());
        assert!(said.contains(&warning) && said.contains(mutant.what()), "{said}");
    }
    let said = said(None);
    assert!(said.contains("can be a mutant, and is none now"), "{said}");
}

#[test]
fn an_unknown_mutant_is_refused_and_the_known_ones_are_listed() {
    let output = serve(Some("no-such"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(Mutant::ALL.iter().all(|mutant| said.contains(mutant.name())), "{said}");
}
