//! Where the figures were taken: without that they mean nothing to anybody else.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

/// The probe writes this often, or for so long.
const PROBE_WRITES_MAX: usize = 500;
const PROBE_TIME_MAX: Duration = Duration::from_millis(1_000);
const PROBE_BYTES: usize = 4 * 1024;
/// File systems in memory (statfs(2)): tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

#[derive(Clone, Debug, Serialize)]
pub(super) struct Environment {
    pub(super) version: &'static str,
    /// From the build's `OVNCP_COMMIT`.
    pub(super) commit: Option<&'static str>,
    pub(super) build: &'static str,
    pub(super) cores: usize,
    pub(super) cpu: Option<String>,
    pub(super) kernel: String,
    /// Median of a 4 KiB overwrite with fdatasync, where the own cluster keeps its data.
    pub(super) fsync_p50_us: Option<u64>,
    pub(super) data_on_disk: Option<bool>,
}

impl Environment {
    pub(super) fn look(data_dir: Option<&Path>) -> Environment {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Environment {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("OVNCP_COMMIT"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu_model(),
            kernel: format!("Linux {kernel}"),
            fsync_p50_us: data_dir.and_then(|dir| fsync_p50(dir).ok()),
            data_on_disk: data_dir.map(is_on_disk),
        }
    }

    pub(super) fn line(&self) -> String {
        let mut parts = vec![format!("ovncp {} {}", self.version, self.build)];
        parts.extend(self.commit.map(|commit| format!("commit {commit}")));
        parts.push(match &self.cpu {
            Some(cpu) => format!("{} cores of {cpu}", self.cores),
            None => format!("{} cores", self.cores),
        });
        parts.push(self.kernel.clone());
        parts.extend(self.fsync_p50_us.map(|us| format!("fdatasync p50 {us} us")));
        parts.join(", ")
    }

    /// Why the figures should not be shown around.
    pub(super) fn caveats(&self) -> Vec<&'static str> {
        let mut caveats = Vec::new();
        if self.build == "debug" {
            caveats.push("debug build: measure with `cargo run --release -- bench ...`");
        }
        if self.data_on_disk == Some(false) {
            caveats.push("data in memory: name a directory on a disk with --data-dir");
        }
        caveats
    }
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Whether a directory is on something that survives a power loss.
pub(super) fn is_on_disk(dir: &Path) -> bool {
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    rustix::fs::statfs(dir).is_ok_and(|fs| !IN_MEMORY.contains(&(fs.f_type as i64)))
}

/// Median in microseconds, over blocks that were written before: as the log does it.
fn fsync_p50(dir: &Path) -> std::io::Result<u64> {
    let path = dir.join("fsync-probe");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let probed = probe(&file);
    fs::remove_file(&path)?;
    probed
}

fn probe(file: &File) -> std::io::Result<u64> {
    let block = [0x5a; PROBE_BYTES];
    for n in 0..PROBE_WRITES_MAX {
        file.write_all_at(&block, (n * PROBE_BYTES) as u64)?;
    }
    file.sync_all()?;
    let (begun, mut times) = (Instant::now(), Vec::with_capacity(PROBE_WRITES_MAX));
    for n in 0..PROBE_WRITES_MAX {
        let before = Instant::now();
        file.write_all_at(&block, (n * PROBE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(before.elapsed());
        if begun.elapsed() > PROBE_TIME_MAX {
            break;
        }
    }
    times.sort_unstable();
    Ok(u64::try_from(times[times.len() / 2].as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_measures_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fsync_p50(dir.path()).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_an_existing_directory_is_on_a_disk() {
        assert!(!is_on_disk(Path::new("/no/such/directory")));
        // Present wherever processes share memory, and never on a disk.
        if Path::new("/dev/shm").is_dir() {
            assert!(!is_on_disk(Path::new("/dev/shm")));
        }
    }
}
