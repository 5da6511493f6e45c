//! What a run leaves: a directory of its own, and, while it goes on, a list of what must be cleaned up.
//!
//! `store/<workload>-<nemesis>/<UTC time>/` holds everything that `check` and `report` need. While a run goes on,
//! `running.json` in it names the harness' process and what it made outside of its directory. A run that ends
//! removes that file; `clean` reads those of runs that were killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The plan.
pub const PLAN: &str = "plan.json";
/// The history, one event per line.
pub const HISTORY: &str = "history.jsonl";
/// The history as Jepsen writes it.
pub const HISTORY_EDN: &str = "history.edn";
/// The verdict and its reasons.
pub const RESULTS: &str = "results.json";
/// Folder of the nodes' logs.
pub const LOGS: &str = "logs";
/// Folder of the nodes' disks; removed at the end unless it is to be kept.
pub const DISKS: &str = "disks";
/// Folder of what makes the nodes' wall clocks wrong.
pub const CLOCKS: &str = "clocks";
const RUNNING: &str = "running.json";

/// A process, told apart from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    pid: u32,
    /// Start time in clock ticks since boot.
    started: u64,
}

impl ProcessId {
    /// The process that has this number now. One that ended and was not waited for is none any more.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold spaces; what follows it are fields 3 (the state) and up.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let mut fields = fields.split_ascii_whitespace();
        if fields.next().is_none_or(|state| state == "Z" || state == "X") {
            return Err(io::ErrorKind::NotFound.into());
        }
        let started = fields.nth(18).and_then(|ticks| ticks.parse().ok());
        let started = started.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat: no start time")))?;
        Ok(Self { pid, started })
    }

    fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    harness: ProcessId,
    processes: BTreeSet<ProcessId>,
    namespaces: BTreeSet<String>,
}

/// What a run has made outside of its directory, kept in a file for the case that it is killed.
#[derive(Clone, Debug)]
pub struct Leftovers {
    path: Arc<PathBuf>,
    running: Arc<Mutex<Running>>,
}

impl Leftovers {
    /// Begins the list in a run's directory.
    pub fn begin(run: &Path) -> io::Result<Self> {
        let harness = ProcessId::of(std::process::id())?;
        let running = Running { harness, processes: BTreeSet::new(), namespaces: BTreeSet::new() };
        let it = Self { path: Arc::new(run.join(RUNNING)), running: Arc::new(Mutex::new(running)) };
        it.change(|_| {})?;
        Ok(it)
    }

    fn change(&self, change: impl FnOnce(&mut Running)) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        let text = serde_json::to_vec_pretty(&*running)?;
        let fresh = self.path.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(fresh, &*self.path)
    }

    /// A process was started.
    pub fn process(&self, pid: u32) -> io::Result<()> {
        // One that ended already is nothing to clean up.
        let Ok(process) = ProcessId::of(pid) else { return Ok(()) };
        self.change(|running| {
            running.processes.retain(|known| known.is_alive());
            running.processes.insert(process);
        })
    }

    /// A namespace is about to be made.
    pub fn namespace(&self, name: &str) -> io::Result<()> {
        self.change(|running| {
            running.namespaces.insert(name.to_owned());
        })
    }

    /// A namespace is gone.
    pub fn namespace_gone(&self, name: &str) -> io::Result<()> {
        self.change(|running| {
            running.namespaces.remove(name);
        })
    }

    /// Everything is gone: forgets the list.
    pub fn end(&self) -> io::Result<()> {
        std::fs::remove_file(&*self.path)
    }
}

/// The time, as a name of a folder that sorts: `20260131T235959Z`.
pub fn utc_now() -> String {
    #[expect(clippy::disallowed_methods, reason = "people find their run by it")]
    let now = std::time::SystemTime::now();
    humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "")
}

/// Whether there is a program of that name.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Makes the directory of a new run.
pub fn new_run(store: &Path, name: &str, time: &str) -> io::Result<PathBuf> {
    for attempt in 0_u32.. {
        // Two runs may begin in the same second.
        let suffix = if attempt == 0 { String::new() } else { format!("-{attempt}") };
        let path = store.join(name).join(format!("{time}{suffix}"));
        std::fs::create_dir_all(path.parent().unwrap_or(store))?;
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Directories of all runs.
pub fn runs(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut runs = Vec::new();
    for name in folders(store)? {
        runs.extend(folders(&name)?);
    }
    Ok(runs)
}

/// What was judged of a run, if it was.
pub fn verdict(run: &Path) -> Option<String> {
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(run.join(RESULTS)).ok()?).ok()?;
    results["verdict"].as_str().map(str::to_owned)
}

/// Directories of runs that did not come to their end, and whether their harness still goes on.
pub fn unfinished(store: &Path) -> io::Result<BTreeMap<PathBuf, bool>> {
    let mut found = BTreeMap::new();
    for run in runs(store)? {
        if let Some(running) = read_running(&run)? {
            found.insert(run, running.harness.is_alive());
        }
    }
    Ok(found)
}

/// Takes away what a killed run left; says what was done.
pub fn clean(run: &Path) -> io::Result<Vec<String>> {
    let Some(running) = read_running(run)? else { return Ok(Vec::new()) };
    let mut done = Vec::new();
    for process in running.processes.into_iter().filter(|process| process.is_alive()) {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::KILL)?;
            done.push(format!("killed process {}", process.pid));
        }
    }
    for name in running.namespaces {
        if !Path::new("/run/netns").join(&name).exists() {
            continue;
        }
        let status = std::process::Command::new("ip").args(["netns", "del", &name]).status()?;
        let outcome = if status.success() { "removed" } else { "could not remove" };
        done.push(format!("{outcome} network namespace {name}"));
    }
    let disks = run.join(DISKS);
    if disks.exists() {
        done.extend(crate::disk::clean(&disks));
    }
    std::fs::remove_file(run.join(RUNNING))?;
    Ok(done)
}

fn read_running(run: &Path) -> io::Result<Option<Running>> {
    match std::fs::read(run.join(RUNNING)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(of) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_run_is_cleaned_and_a_living_one_is_not_listed_as_dead() {
        let store = tempfile::tempdir().unwrap();
        let run = new_run(store.path(), "register-none", "20260101T000000Z").unwrap();
        let other = new_run(store.path(), "register-none", "20260101T000000Z").unwrap();
        assert_ne!(run, other);
        let leftovers = Leftovers::begin(&run).unwrap();
        assert_eq!(unfinished(store.path()).unwrap(), BTreeMap::from([(run.clone(), true)]));

        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        leftovers.process(child.id()).unwrap();
        // A process of the same number that started at another time is somebody else's.
        let reused = ProcessId { pid: std::process::id(), started: 1 };
        leftovers
            .change(|running| {
                running.harness = reused;
                running.processes.insert(reused);
            })
            .unwrap();
        assert_eq!(unfinished(store.path()).unwrap(), BTreeMap::from([(run.clone(), false)]));
        assert_eq!(clean(&run).unwrap(), [format!("killed process {}", child.id())]);
        // It is dead before anybody has waited for it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while ProcessId::of(child.id()).is_ok() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(ProcessId::of(child.id()).is_err());
        assert!(!child.wait().unwrap().success());
        assert_eq!(clean(&run).unwrap(), Vec::<String>::new());
        assert!(unfinished(store.path()).unwrap().is_empty());
    }

    #[test]
    fn no_store_is_an_empty_one() {
        assert!(unfinished(Path::new("does/not/exist")).unwrap().is_empty());
    }
}
