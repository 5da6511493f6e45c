//! House rules as tests: the crates form one chain, consensus is pinned, documents name files that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Files that git tracks or would track.
fn source_files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable folder") {
            let path = entry.expect("readable entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | ".work") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Workspace crates that each workspace crate depends on (normal dependencies).
fn crate_edges() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let mut edges = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name").to_owned();
        let uses = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| dependency.starts_with("ovncp"))
            .map(str::to_owned)
            .collect();
        edges.insert(name, uses);
    }
    edges
}

#[test]
fn crates_form_one_chain() {
    let chain = ["ovncp-state", "ovncp-storage", "ovncp-raft", "ovncp"];
    let edges = crate_edges();
    for (position, name) in chain.iter().enumerate() {
        let uses = edges.get(*name).unwrap_or_else(|| panic!("crate {name} exists"));
        for used in uses {
            let left = chain.iter().position(|candidate| candidate == used);
            let is_adapter = *name == "ovncp" && used == "ovncp-ovn";
            assert!(
                is_adapter || left.is_some_and(|left| left < position),
                "{name} depends on {used}, which does not stand left of it in {chain:?}"
            );
        }
        if position > 0 {
            assert!(uses.contains(chain[position - 1]), "{name} does not build on {}", chain[position - 1]);
        }
    }
    // OVN's databases are an adapter: they know nothing of ours, and only the node uses them.
    assert_eq!(edges.get("ovncp-ovn").map(BTreeSet::len), Some(0), "ovncp-ovn uses a crate of ours");
    // The harness speaks to nodes from outside; it may know the state's types and nothing else.
    if let Some(uses) = edges.get("ovncp-jepsen") {
        assert!(uses.iter().all(|used| used == "ovncp-state"), "ovncp-jepsen depends on {uses:?}");
    }
}

#[test]
fn the_state_core_is_no_std() {
    let library = read("storage/state/src/lib.rs");
    assert!(library.contains("#![no_std]"));
    let std_lines = library.matches("extern crate std").count();
    assert_eq!(std_lines, library.matches("#[cfg(test)]\nextern crate std").count(), "std outside of tests");
    for path in source_files("rs") {
        if !path.starts_with(root().join("storage/state/src")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable source");
        for forbidden in ["SystemTime", "Instant::now", "HashMap", "thread_rng"] {
            assert!(!text.contains(forbidden), "{} mentions {forbidden}", path.display());
        }
    }
}

#[test]
fn consensus_is_pinned_exactly() {
    let manifest = read("Cargo.toml");
    for name in ["openraft", "openraft-rt", "openraft-rt-tokio", "openraft-macros"] {
        let line = manifest
            .lines()
            .find(|line| line.starts_with(&format!("{name} = ")))
            .unwrap_or_else(|| panic!("{name} is a workspace dependency"));
        assert!(line.contains("\"=0.10"), "{name} is not pinned by `=`: {line}");
    }
    // Consensus stays behind raft/ and storage/.
    for path in source_files("rs") {
        if path.starts_with(root().join("src")) {
            let text = std::fs::read_to_string(&path).expect("readable source");
            assert!(!text.contains("openraft::"), "{} names openraft", path.display());
        }
    }
}

#[test]
fn documents_name_files_that_exist() {
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "docs/decisions/README.md"] {
        let folder = root().join(document).parent().expect("a document has a folder").to_path_buf();
        let text = read(document);
        // `path/to/file.rs` in backticks, and [text](relative/link.md).
        let quoted = text.split('`').skip(1).step_by(2).filter(|word| {
            !word.contains(char::is_whitespace)
                && ["src/", "raft/", "storage/", "tests/", "docs/", "deploy/", ".ci/"]
                    .iter()
                    .any(|start| word.starts_with(start))
                && !word.contains(['*', '<', '{', '…'])
        });
        for word in quoted {
            assert!(root().join(word).exists(), "{document} names {word}, which does not exist");
        }
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap_or(link);
            assert!(folder.join(file).exists(), "{document} links to {file}, which does not exist");
        }
    }
}

#[test]
fn every_decision_is_listed() {
    let index = read("docs/decisions/README.md");
    for path in source_files("md") {
        if path.parent() == Some(&root().join("docs/decisions")) {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a file name");
            assert!(
                name == "README.md" || index.contains(name),
                "docs/decisions/README.md does not list {name}"
            );
        }
    }
}

#[test]
fn no_source_file_is_unfinished_or_overgrown() {
    const LINES_MAX: usize = 800;
    let marks = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    for path in source_files("rs") {
        let text = std::fs::read_to_string(&path).expect("readable source");
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines: split it", path.display());
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} contains {mark}", path.display());
        }
    }
}
