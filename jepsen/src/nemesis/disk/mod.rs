//! Faults of disks: power loss, syncs that fail or take long, no room, damaged files.
//!
//! What a node has to do about each of them is known, so the fault looks at it: a node whose sync failed must say
//! so and serve nothing, one whose files are damaged must not start and name file and offset. A node that does
//! otherwise is a finding, whatever the history says.

mod damage;
mod full;
mod power;
mod syncs;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;

use super::{Begun, Effect, Env, FaultError, NemesisKind};
use crate::cluster::NodeError;
use crate::disk::{DiskError, DiskKind, injection};

/// How long a node may take to say what is wrong with its disk. Generous: the machine may be busy, and a node that
/// has not said it by then is reported as a fault of the product.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a node.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How a node logs the end of its storage: the words of the log, of the state machine, and of all who ask later.
const STOPPED: [&str; 3] = ["the log stopped", "the state machine stopped", "storage stopped"];
/// How a process begins to say why it ends without having served.
const NOT_STARTED: &str = "error:";
/// What a refused sync is called there.
const EIO: &str = "(os error 5)";

/// A fault at work.
#[derive(Debug)]
pub enum Running {
    /// Nodes without power.
    Power(power::Down),
    /// A node whose syncs fail or take long.
    Syncs(syncs::Injected),
    /// A node without room.
    Full(full::Full),
    /// A node that was started on damaged files.
    Damage(damage::Damaged),
}

impl From<DiskError> for FaultError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Missing { .. } | DiskError::NotPossible(_) => Self::NotPossible(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Says why a fault can never be made in this run, if so.
pub(super) fn possible(kind: NemesisKind, env: &Env) -> Result<(), String> {
    let needs_loop = || match env.disks.kind() {
        DiskKind::Loop => Ok(()),
        DiskKind::Dir => Err("needs a file system per node (--disk loop, as root)".to_owned()),
    };
    let needs_trace = || injection::possible().map_err(|error| error.to_string());
    match kind {
        NemesisKind::PowerOne | NemesisKind::PowerAll => needs_loop(),
        NemesisKind::FsyncEio | NemesisKind::FsyncSlow => needs_trace(),
        NemesisKind::DiskFull => needs_loop().or_else(|_| needs_trace()),
        _ => Ok(()),
    }
}

/// Begins a fault of this family.
pub(super) async fn start(
    kind: NemesisKind,
    env: &mut Env,
    rng: &mut StdRng,
) -> Result<Begun<Running>, FaultError> {
    match kind {
        NemesisKind::PowerOne => power::one(env, rng).await,
        NemesisKind::PowerAll => power::all(env).await,
        NemesisKind::FsyncEio => syncs::fail(env, rng).await,
        NemesisKind::FsyncSlow => syncs::slow(env, rng).await,
        NemesisKind::DiskFull => full::start(env, rng).await,
        NemesisKind::BitFlip | NemesisKind::Truncate => damage::start(kind, env, rng).await,
        other => Err(FaultError::Failed(format!("{} is no fault of disks", other.name()))),
    }
}

/// Ends a fault of this family.
pub(super) async fn heal(running: Running, env: &mut Env) -> Result<Effect, FaultError> {
    match running {
        Running::Power(down) => power::heal(&down, env),
        Running::Syncs(injected) => syncs::heal(injected, env).await,
        Running::Full(full) => full::heal(full, env).await,
        Running::Damage(damaged) => damage::heal(damaged, env).await,
    }
}

/// Runs what waits for the kernel or for a program where nobody minds.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, FaultError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| FaultError::Failed(panic.to_string()))?.map_err(FaultError::from)
}

/// What a node has logged since a moment.
#[derive(Debug)]
struct Since {
    log: PathBuf,
    at: u64,
}

impl Since {
    fn now(env: &Env, node: &str) -> Result<Self, FaultError> {
        let log = env.cluster.node(node)?.log().to_path_buf();
        let at = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        Ok(Self { log, at })
    }

    /// The first line that has all these words.
    fn line_with(&self, words: &[&str]) -> Option<String> {
        self.line(|line| words.iter().all(|word| line.contains(word)))
    }

    fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut bytes = Vec::new();
        let mut file = File::open(&self.log).ok()?;
        file.seek(SeekFrom::Start(self.at)).ok()?;
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().find(|line| wanted(line)).map(str::to_owned)
    }

    /// Where the node says that its storage stopped, or, when it was only about to start, why it does not.
    fn stopped(&self) -> Option<String> {
        let stopped = STOPPED.iter().find_map(|words| self.line_with(&[words]));
        stopped.or_else(|| self.line(|line| line.starts_with(NOT_STARTED) && line.contains(EIO)))
    }
}

/// Waits until the node has logged that its storage stopped; what it said, and whether it is ready all the same.
async fn refusal(env: &Env, node: &str, since: &Since) -> Result<(Option<String>, bool), FaultError> {
    let url = env.cluster.url(node)?.to_owned();
    let waited = tokio::time::timeout(REFUSAL_LIMIT, async {
        loop {
            if let Some(line) = since.stopped() {
                return line;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    let said = waited.await.ok();
    // A stopped process is not ready either; one that says that it stopped and serves on would be a lie.
    let ready = env.cluster.admin().is_ready(&url).await;
    Ok((said, ready))
}

/// Ends a node in whatever state it is, and starts it again.
async fn restart(env: &mut Env, node: &str) -> Result<Option<String>, FaultError> {
    let trouble = match env.cluster.terminate(node).await {
        // It may have ended by itself, and it does not end with success after its storage failed.
        Ok(_) | Err(NodeError::NotRunning(_)) => None,
        Err(stubborn @ NodeError::Stubborn { .. }) => Some(stubborn.to_string()),
        Err(error) => return Err(error.into()),
    };
    env.cluster.kill(node).await?;
    env.start(node)?;
    Ok(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_that_it_stopped_or_that_it_does_not_start() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let since = Since { log: file.path().to_owned(), at: 0 };
        for (text, told) in [
            ("INFO serving\n", false),
            // It went on all the same.
            ("WARN a sync failed: Input/output error (os error 5)\n", false),
            ("error: listen on 127.0.0.1:1: address in use (os error 98)\n", false),
            ("ERROR the log stopped: sync wal-3\n", true),
            ("error: the data directory /x: sync wal-3: Input/output error (os error 5)\n", true),
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(since.stopped().is_some(), told, "{text}");
        }
    }
}
