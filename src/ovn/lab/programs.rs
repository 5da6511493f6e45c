//! Where OVN's programs are on this machine, and what to install when they are not.

use std::path::{Path, PathBuf};

/// Looked into after `PATH`: users' paths often leave the system's own programs out.
const MORE_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin"];
const SCHEMA_FOLDERS: [&str; 4] =
    ["/usr/share/ovn", "/usr/share/openvswitch", "/usr/local/share/ovn", "/usr/local/share/openvswitch"];

/// What has to be installed first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{program} is not installed; on Debian or Ubuntu: apt-get install {package}")]
pub struct Missing {
    /// The program, or the schema file.
    pub program: String,
    /// The Debian package that brings it, and in most distributions has a similar name.
    pub package: &'static str,
}

/// Everything that a lab without a hypervisor runs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub(super) setpriv: PathBuf,
    pub(super) ovsdb_server: PathBuf,
    pub(super) ovsdb_tool: PathBuf,
    pub(super) ovsdb_client: PathBuf,
    pub(super) ovn_northd: PathBuf,
    pub(super) ovn_nbctl: PathBuf,
    pub(super) ovn_sbctl: PathBuf,
    pub(super) northbound_schema: PathBuf,
    pub(super) southbound_schema: PathBuf,
}

impl Programs {
    /// Finds all of them, or the first that is missing.
    pub fn find() -> Result<Programs, Missing> {
        Programs::find_in(&search_path(), &folders(&SCHEMA_FOLDERS))
    }

    /// Finds them in these folders only.
    pub fn find_in(programs: &[PathBuf], schemas: &[PathBuf]) -> Result<Programs, Missing> {
        let program = |name, package| in_folders(name, package, programs);
        let schema = |name| in_folders(name, "ovn-central", schemas);
        Ok(Programs {
            ovn_northd: program("ovn-northd", "ovn-central")?,
            ovsdb_server: program("ovsdb-server", "ovn-central")?,
            ovsdb_tool: program("ovsdb-tool", "ovn-central")?,
            ovsdb_client: program("ovsdb-client", "ovn-central")?,
            ovn_nbctl: program("ovn-nbctl", "ovn-common")?,
            ovn_sbctl: program("ovn-sbctl", "ovn-common")?,
            northbound_schema: schema("ovn-nb.ovsschema")?,
            southbound_schema: schema("ovn-sb.ovsschema")?,
            setpriv: program("setpriv", "util-linux")?,
        })
    }

    /// OVN's schema of the northbound database.
    pub fn northbound_schema(&self) -> &Path {
        &self.northbound_schema
    }

    /// OVN's schema of the southbound database.
    pub fn southbound_schema(&self) -> &Path {
        &self.southbound_schema
    }
}

/// A program anywhere on this machine.
pub(crate) fn find(program: &str, package: &'static str) -> Result<PathBuf, Missing> {
    in_folders(program, package, &search_path())
}

/// A schema anywhere on this machine.
pub(super) fn find_schema(file: &str, package: &'static str) -> Result<PathBuf, Missing> {
    in_folders(file, package, &folders(&SCHEMA_FOLDERS))
}

fn in_folders(name: &str, package: &'static str, folders: &[PathBuf]) -> Result<PathBuf, Missing> {
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Missing { program: name.to_owned(), package })
}

fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(folders(&MORE_FOLDERS)).collect()
}

fn folders(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let empty = tempfile::tempdir().unwrap();
        let missing = Programs::find_in(&[empty.path().to_owned()], &[]).unwrap_err();
        let text = "ovn-northd is not installed; on Debian or Ubuntu: apt-get install ovn-central";
        assert_eq!(missing.to_string(), text);
        std::fs::write(empty.path().join("ovn-northd"), "").unwrap();
        let missing = Programs::find_in(&[empty.path().to_owned()], &[]).unwrap_err();
        assert_eq!(missing.program, "ovsdb-server");
    }
}
