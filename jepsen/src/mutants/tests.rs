use std::os::unix::fs::PermissionsExt;

use super::*;

fn names() -> Vec<String> {
    CASES.iter().map(|case| case.mutant.to_owned()).filter(|name| name != TIME_OUT_FAILS).collect()
}

fn mutants(cases: &[&Case]) -> Vec<&'static str> {
    cases.iter().map(|case| case.mutant).collect()
}

#[test]
fn all_are_run_unless_some_are_named() {
    assert_eq!(chosen(&[], &names()).unwrap().len(), CASES.len());
    let only = ["lifo-waiters".to_owned(), TIME_OUT_FAILS.to_owned()];
    assert_eq!(mutants(&chosen(&only, &names()).unwrap()), ["lifo-waiters", TIME_OUT_FAILS]);
    let refused = chosen(&["nonsense".to_owned()], &names()).unwrap_err();
    assert!(refused.contains("\"nonsense\"") && refused.contains("no-fsync"), "{refused}");
}

#[test]
fn a_binary_with_other_mutants_is_refused() {
    let mut more = names();
    more.push("a-new-one".to_owned());
    assert!(chosen(&[], &more).unwrap_err().contains("a-new-one"));
    let fewer: Vec<_> = names().into_iter().filter(|name| name != "no-fsync").collect();
    assert!(chosen(&[], &fewer).unwrap_err().contains("no-fsync"));
}

/// A program that prints this to standard error.
fn program(dir: &Path, says: &str) -> PathBuf {
    let path = dir.join("program");
    std::fs::write(&path, format!("#!/bin/sh\ncat >&2 <<'END'\n{says}\nEND\nexit 2\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_binary_names_its_mutants() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(dir.path(), "error: no mutant is called `?`\nknown are a, b-c");
    assert_eq!(known_to(&path).unwrap(), ["a", "b-c"]);
    let path = program(dir.path(), "error: this binary has none");
    assert_eq!(known_to(&path).unwrap_err(), "it has no mutants");
    assert!(known_to(&dir.path().join("absent")).is_err());
}
