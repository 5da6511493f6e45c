//! What is measured: nodes that the user named, or a cluster of our own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ovncp::client::Error;
use rustix::thread::CpuSet;
use serde::Serialize;

use super::{Aim, BenchArgs};
use crate::cli::dev::cluster::{Cluster, tail};
use crate::cli::dev::layout::{Layout, Wishes};
use crate::cli::dev::observe::{self, Answer};
use crate::cli::failure::{Exit, Failure};

/// For an own cluster to form, and to come back after a fail-over.
const READY_WITHIN: Duration = Duration::from_secs(60);
const READY_CHECK: Duration = Duration::from_millis(20);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// What is not measured yet is tried for so long.
pub(super) const PREPARE_PATIENCE: Duration = Duration::from_secs(30);
pub(super) const PREPARE_PAUSE: Duration = Duration::from_millis(100);
/// Clock ticks per second in /proc, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Target {
    endpoints: Vec<String>,
    own: Option<Own>,
    cores: Option<Cores>,
    http: reqwest::Client,
}

/// CPU time of all own nodes when something began.
#[derive(Clone, Copy)]
pub(super) struct Meter {
    cpu: Option<f64>,
}

/// What the own nodes cost, all of them together; unknown for nodes that the user named.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    /// CPU seconds for 100,000 operations.
    pub(super) cpu_seconds_per_100k: Option<f64>,
    /// Resident memory at the end.
    pub(super) memory_mb: Option<f64>,
}

/// What they used since then.
#[derive(Clone, Copy)]
pub(super) struct Used {
    cpu: Option<f64>,
    memory_mb: Option<f64>,
}

impl Meter {
    pub(super) fn read(self, target: &Target) -> Used {
        let cpu = self.cpu.zip(target.cpu_seconds()).map(|(before, after)| after - before);
        Used { cpu, memory_mb: target.memory_mb() }
    }
}

impl Used {
    pub(super) fn per(self, operations: u64) -> Cost {
        let cpu = self.cpu.filter(|_| operations > 0);
        let cpu_seconds_per_100k = cpu.map(|cpu| cpu * 100_000.0 / operations as f64);
        Cost { cpu_seconds_per_100k, memory_mb: self.memory_mb }
    }
}

/// Cores of the own nodes and of the load, apart from each other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cores {
    pub(super) nodes: Vec<usize>,
    pub(super) load: usize,
}

impl Cores {
    /// The last core for the load, which has one thread; all others for the nodes. None where there is but one.
    fn split() -> Option<Cores> {
        let own = rustix::thread::sched_getaffinity(None).ok()?;
        let mut nodes: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| own.is_set(*core)).collect();
        let load = nodes.pop().filter(|_| !nodes.is_empty())?;
        Some(Cores { nodes, load })
    }

    /// Has this thread, and every process that it starts from now on, run on these cores only.
    fn pin(cores: &[usize]) -> Result<(), Failure> {
        let mut set = CpuSet::new();
        cores.iter().for_each(|core| set.set(*core));
        let pinned = rustix::thread::sched_setaffinity(None, &set);
        pinned.map_err(|e| Failure::io("run on some cores only", &e.into()))
    }
}

/// What one own node takes; unknown for nodes that the user named.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sizes {
    /// Resident memory.
    pub(super) memory_mb: Option<f64>,
    /// Segments of the log on disk.
    pub(super) log_mb: Option<f64>,
    /// Snapshots on disk.
    pub(super) snapshot_mb: Option<f64>,
}

struct Own {
    cluster: Cluster,
    dir: PathBuf,
    /// Removes the data at the end.
    _temporary: Option<tempfile::TempDir>,
}

impl Target {
    pub(super) async fn prepare(args: &BenchArgs, endpoints: Vec<String>) -> Result<Target, Failure> {
        let http = reqwest::Client::builder().no_proxy().timeout(ASK_TIMEOUT).build().unwrap_or_default();
        if !endpoints.is_empty() {
            let endpoints = endpoints.into_iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
            return Ok(Target { endpoints, own: None, cores: None, http });
        }
        let (dir, temporary) = match &args.data_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let made = scratch_dir().map_err(|e| Failure::io("make a temporary directory", &e))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let wishes = Wishes { nodes: Some(usize::from(args.nodes)), http: Some(0), ..Wishes::default() };
        let mut cluster = Cluster::new(Layout::prepare(&dir, wishes)?);
        let requests_max = args.requests_max.or_else(|| args.scenario.requests_max());
        cluster
            .environment
            .extend(requests_max.map(|max| ("OVNCP_CONCURRENT_REQUESTS_MAX", max.to_string())));
        let cores = if args.split_cores { Cores::split() } else { None };
        if let Some(cores) = &cores {
            Cores::pin(&cores.nodes)?;
        }
        cluster.start_all()?;
        if let Some(cores) = &cores {
            Cores::pin(&[cores.load])?;
        }
        let endpoints = cluster.layout.endpoints();
        let own = Own { cluster, dir, _temporary: temporary };
        let mut target = Target { endpoints, own: Some(own), cores, http };
        target.until_ready().await?;
        Ok(target)
    }

    /// Where the own cluster writes.
    pub(super) fn data_dir(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.dir.as_path())
    }

    /// The own cluster, which may be killed.
    pub(super) fn cluster(&mut self) -> Option<&mut Cluster> {
        self.own.as_mut().map(|own| &mut own.cluster)
    }

    /// Waits until every node of the own cluster is ready and all name one leader.
    pub(super) async fn until_ready(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let answers = self.ask_all().await;
            let leader = answers.first().and_then(|answer| answer.as_ref()?.leader.clone());
            let agreed = |answer: &Option<Answer>| {
                answer.as_ref().is_some_and(|answer| answer.ready && answer.leader == leader)
            };
            if leader.is_some() && answers.iter().all(agreed) {
                return Ok(());
            }
            if let Some(own) = &mut self.own {
                // A node that cannot start is reported by its own words.
                if let Some(ended) = own.cluster.reap().first() {
                    let log = tail(&own.cluster.layout.log_file(ended.index), 5).join("\n  ");
                    return Err(Failure::new(
                        Exit::Failure,
                        format!("a node ended by itself; its log ends:\n  {log}"),
                    ));
                }
            }
            if begun.elapsed() > READY_WITHIN {
                let message = format!("the cluster is not ready after {} s", READY_WITHIN.as_secs());
                return Err(
                    Failure::new(Exit::NoQuorum, message).help("see `ovncp status` and the nodes' logs")
                );
            }
            tokio::time::sleep(READY_CHECK).await;
        }
    }

    async fn ask_all(&self) -> Vec<Option<Answer>> {
        futures_util::future::join_all(self.endpoints.iter().map(|url| observe::ask(&self.http, url))).await
    }

    /// Index of the node that leads, as a majority sees it.
    pub(super) async fn leader(&self) -> Result<usize, Failure> {
        let answers = self.ask_all().await;
        let newest = answers.iter().flatten().max_by_key(|answer| (answer.term, answer.leader.is_some()));
        let nobody = || {
            Failure::new(Exit::NoQuorum, "no node knows a leader")
                .help("`ovncp status` shows how the cluster is")
        };
        let leader = newest.and_then(|answer| answer.leader.clone()).ok_or_else(nobody)?;
        let at = answers.iter().position(|answer| answer.as_ref().is_some_and(|a| a.node == leader));
        at.ok_or_else(|| {
            Failure::new(Exit::Failure, format!("the leader {leader} is none of the endpoints"))
                .help("name every node with --endpoint")
        })
    }

    /// `host:port` of the nodes that clients speak to.
    pub(super) async fn addresses(&self, aim: Aim) -> Result<Vec<String>, Failure> {
        let mut all = self.endpoints.iter().map(|url| address(url)).collect::<Result<Vec<_>, _>>()?;
        match aim {
            Aim::All => Ok(all),
            Aim::Leader => Ok(vec![all.swap_remove(self.leader().await?)]),
            Aim::Follower => {
                all.remove(self.leader().await?);
                if all.is_empty() {
                    return Err(Failure::new(Exit::Usage, "there is no follower").help("name more nodes"));
                }
                Ok(all)
            }
        }
    }

    /// CPU time of all own nodes.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let cluster = &self.own.as_ref()?.cluster;
        (0..cluster.layout.nodes.len()).map(|index| cpu_seconds(cluster.pid(index)?)).sum()
    }

    /// Which cores have what, where they are split.
    pub(super) fn cores(&self) -> Option<Cores> {
        self.cores.clone()
    }

    /// Resident memory of all own nodes.
    pub(super) fn memory_mb(&self) -> Option<f64> {
        let cluster = &self.own.as_ref()?.cluster;
        (0..cluster.layout.nodes.len()).map(|index| memory_mb(cluster.pid(index)?)).sum()
    }

    /// What the own node at this position takes now.
    pub(super) fn sizes(&self, position: usize) -> Sizes {
        let Some(own) = &self.own else { return Sizes::default() };
        let data = own.cluster.layout.data_dir(position);
        Sizes {
            memory_mb: own.cluster.pid(position).and_then(memory_mb),
            log_mb: files_mb(&data.join("log")),
            snapshot_mb: files_mb(&data.join("snapshot")),
        }
    }

    /// One client for each node, that asks no other.
    pub(super) fn clients(&self) -> Result<Vec<ovncp::client::Client>, Failure> {
        let client = |url| ovncp::client::Client::builder().endpoint(url).build();
        Ok(self.endpoints.iter().map(client).collect::<Result<_, _>>()?)
    }

    /// Term and applied index, as the newest leader sees them.
    pub(super) async fn progress(&self) -> Result<(u64, u64), Failure> {
        let client = ovncp::client::Client::builder().endpoints(&self.endpoints).build()?;
        let view = client.cluster().view().await?;
        Ok((view.term, view.applied_index))
    }

    /// Has another node lead; answers when the try began that did it. What stands in the way for a moment (no
    /// other voter is caught up) is waited for.
    pub(super) async fn hand_over(&self) -> Result<Instant, Failure> {
        let mut builder = ovncp::client::Client::builder().endpoints(&self.endpoints);
        if let Some(token) = std::env::var("OVNCP_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.token(token);
        }
        let cluster = builder.build()?.cluster();
        let first = Instant::now();
        loop {
            let begun = Instant::now();
            match cluster.transfer_leader(None).await {
                Ok(_) => return Ok(begun),
                Err(Error::Refused(_) | Error::NoLeader(_)) if first.elapsed() < PREPARE_PATIENCE => {
                    tokio::time::sleep(PREPARE_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the own nodes cost from now on.
    pub(super) fn meter(&self) -> Meter {
        Meter { cpu: self.cpu_seconds() }
    }

    /// Ends the own nodes at once: nothing of theirs is needed any more, and what they acknowledged is on disk.
    pub(super) fn stop(&mut self) {
        self.own = None;
    }
}

fn address(url: &str) -> Result<String, Failure> {
    let bare = url.strip_prefix("http://").unwrap_or(url);
    if bare.contains('/') || !bare.contains(':') {
        return Err(Failure::new(Exit::Usage, format!("`{url}` is not an endpoint"))
            .help("write it like http://127.0.0.1:8080"));
    }
    Ok(bare.to_owned())
}

/// A directory on a disk: fsync costs nothing in memory, and figures from there would flatter.
pub(super) fn scratch_dir() -> std::io::Result<tempfile::TempDir> {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let on_disk = places.iter().find(|place| super::environment::is_on_disk(place));
    tempfile::Builder::new().prefix("ovncp-bench-").tempdir_in(on_disk.unwrap_or(&places[0]))
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted after it: utime is 14, stime 15 (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

fn memory_mb(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1_024.0)
}

/// Bytes of the files in a directory.
fn files_mb(dir: &Path) -> Option<f64> {
    let sizes = std::fs::read_dir(dir).ok()?.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len()));
    Some(sizes.sum::<u64>() as f64 / (1_024.0 * 1_024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_cpu_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(memory_mb(pid).unwrap() > 0.1);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![0; 512 * 1_024]).unwrap();
        std::fs::write(dir.path().join("b"), vec![0; 512 * 1_024]).unwrap();
        assert_eq!(files_mb(dir.path()), Some(1.0));
    }

    #[test]
    fn addresses_come_from_plain_urls_only() {
        assert_eq!(address("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(address("[::1]:8080").unwrap(), "[::1]:8080");
        assert!(address("https://x").is_err());
        assert!(address("http://x:1/path").is_err());
    }
}
