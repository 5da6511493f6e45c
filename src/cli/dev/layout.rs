//! Which nodes a local cluster has: their names, ports and directories, chosen once and kept in the data
//! directory, so that a later start continues the same cluster.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::failure::{Exit, Failure};

/// More would only show how busy one machine is.
pub(crate) const NODES_MAX: usize = 10;
const HTTP_BASE: u16 = 8080;
const METRICS_BASE: u16 = 9090;
const PEER_BASE: u16 = 7400;
/// Where `--http-port 0` looks for free ports: below the range that outgoing connections take theirs from.
const PRIVATE_PORTS: std::ops::Range<u16> = 20_000..32_000;
const PRIVATE_PORT_TRIES: usize = 200;
/// The kept choice, in the data directory.
const LAYOUT_FILE: &str = "nodes.json";

/// One node of the local cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) http: u16,
    pub(crate) metrics: u16,
    pub(crate) peer: u16,
}

/// All nodes and the directory that holds theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) nodes: Vec<NodePlan>,
}

/// What was asked on the command line; `None` leaves the choice to us.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) nodes: Option<usize>,
    pub(crate) http: Option<u16>,
    pub(crate) metrics: Option<u16>,
    pub(crate) peer: Option<u16>,
}

impl NodePlan {
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", Ipv4Addr::LOCALHOST, self.http)
    }
}

impl Layout {
    /// The cluster that `dir` holds, or a new one. Ports that are taken by now are replaced: a node is known by
    /// its name, not by its address.
    pub(crate) fn prepare(dir: &Path, wishes: Wishes) -> Result<Layout, Failure> {
        fs::create_dir_all(dir).map_err(|e| Failure::io(format!("create {}", dir.display()), &e))?;
        let dir = dir.canonicalize().map_err(|e| Failure::io(format!("open {}", dir.display()), &e))?;
        let kept = load(&dir)?;
        let count = match (&kept, wishes.nodes) {
            (Some(kept), Some(asked)) if kept.len() != asked => {
                let message =
                    format!("{} holds a cluster of {} nodes, not {asked}", dir.display(), kept.len());
                return Err(
                    Failure::new(Exit::Usage, message).help("leave out --nodes, or use another --data-dir")
                );
            }
            (Some(kept), _) => kept.len(),
            (None, asked) => asked.unwrap_or(3),
        };
        let kept = kept.unwrap_or_default();
        let private = wishes.http == Some(0);
        let ports = |flag, asked: Option<u16>, base, kept: Vec<u16>| {
            let asked = if private { asked.or(Some(0)) } else { asked };
            Ports { flag, asked, base, kept }
        };
        let of = |pick: fn(&NodePlan) -> u16| kept.iter().map(pick).collect::<Vec<_>>();
        let http = ports("--http-port", wishes.http, HTTP_BASE, of(|n| n.http)).choose(count, &[])?;
        let metrics =
            ports("--metrics-port", wishes.metrics, METRICS_BASE, of(|n| n.metrics)).choose(count, &http)?;
        let used = [http.clone(), metrics.clone()].concat();
        let peer = ports("--peer-port", wishes.peer, PEER_BASE, of(|n| n.peer)).choose(count, &used)?;
        let nodes = (0..count).map(|i| NodePlan {
            // The formation rule compares names as text, so that all are equally long.
            name: format!("node-{:0width$}", i + 1, width = count.to_string().len()),
            http: http[i],
            metrics: metrics[i],
            peer: peer[i],
        });
        let layout = Layout { nodes: nodes.collect(), dir };
        layout.save()?;
        Ok(layout)
    }

    /// What `--peers` of every node says.
    pub(crate) fn peers(&self) -> String {
        let peers = self.nodes.iter().map(|n| format!("{}={}:{}", n.name, Ipv4Addr::LOCALHOST, n.peer));
        peers.collect::<Vec<_>>().join(",")
    }

    /// What the node keeps.
    pub(crate) fn data_dir(&self, index: usize) -> PathBuf {
        self.dir.join(&self.nodes[index].name).join("data")
    }

    /// What the node says.
    pub(crate) fn log_file(&self, index: usize) -> PathBuf {
        self.dir.join(&self.nodes[index].name).join("log")
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(NodePlan::url).collect()
    }

    fn save(&self) -> Result<(), Failure> {
        for index in 0..self.nodes.len() {
            let dir = self.data_dir(index);
            fs::create_dir_all(&dir).map_err(|e| Failure::io(format!("create {}", dir.display()), &e))?;
        }
        write_json(&self.dir.join(LAYOUT_FILE), &self.nodes)
    }
}

/// Replaces a file by a whole new one: a reader sees the old or the new text.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| Failure::io(format!("write {}", path.display()), e);
    let text = serde_json::to_string_pretty(value).map_err(|e| failed(&e.into()))?;
    let beside = path.with_extension("json.new");
    fs::write(&beside, text + "\n").map_err(|e| failed(&e))?;
    fs::rename(&beside, path).map_err(|e| failed(&e))
}

fn load(dir: &Path) -> Result<Option<Vec<NodePlan>>, Failure> {
    let path = dir.join(LAYOUT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::io(format!("read {}", path.display()), &e)),
    };
    let nodes: Vec<NodePlan> = serde_json::from_str(&text).map_err(|e| {
        Failure::new(Exit::Failure, format!("{} is damaged: {e}", path.display()))
            .help("restore it, or use another --data-dir")
    })?;
    if nodes.is_empty() || nodes.len() > NODES_MAX {
        let message =
            format!("{} names {} nodes; 1 to {NODES_MAX} are possible", path.display(), nodes.len());
        return Err(Failure::new(Exit::Failure, message).help("restore it, or use another --data-dir"));
    }
    Ok(Some(nodes))
}

/// How one kind of port is chosen for all nodes.
pub(super) struct Ports {
    /// What the user can change it with.
    pub(super) flag: &'static str,
    /// `0` for private ones.
    pub(super) asked: Option<u16>,
    pub(super) base: u16,
    pub(super) kept: Vec<u16>,
}

impl Ports {
    pub(super) fn choose(&self, count: usize, used: &[u16]) -> Result<Vec<u16>, Failure> {
        match self.asked {
            Some(0) => self.private(count, used),
            Some(base) => self.exactly(base, count),
            None => self.next_free(count, used),
        }
    }

    fn exactly(&self, base: u16, count: usize) -> Result<Vec<u16>, Failure> {
        let flag = self.flag;
        let wanted =
            (0..count).map(|i| base.checked_add(u16::try_from(i).ok()?)).collect::<Option<Vec<u16>>>();
        let wanted = wanted.ok_or_else(|| {
            Failure::new(Exit::Usage, format!("{flag} {base} leaves no room for {count} ports"))
                .help("choose a lower one")
        })?;
        match wanted.iter().find(|port| !is_free(**port)) {
            None => Ok(wanted),
            Some(port) => Err(Failure::new(Exit::Failure, format!("port {port} is taken ({flag} {base})"))
                .help(format!(
                    "`ss -ltnp sport = :{port}` shows by whom; leave {flag} out to take the next free ones"
                ))),
        }
    }

    /// What was used last time or the usual ports, skipping those that are taken.
    fn next_free(&self, count: usize, used: &[u16]) -> Result<Vec<u16>, Failure> {
        let mut chosen: Vec<u16> = Vec::with_capacity(count);
        let mut candidates = self.base..=u16::MAX;
        for index in 0..count {
            let free = |port: &u16| !chosen.contains(port) && !used.contains(port) && is_free(*port);
            let kept = self.kept.get(index).copied().filter(|port| free(port));
            // The kept ports of later nodes stay theirs.
            let fresh = || candidates.by_ref().find(|port| !self.kept.contains(port) && free(port));
            let port = kept.or_else(fresh).ok_or_else(|| {
                Failure::new(Exit::Failure, format!("no free port from {} on", self.base))
                    .help(format!("choose another range with {}", self.flag))
            })?;
            chosen.push(port);
        }
        Ok(chosen)
    }

    /// Consecutive ports that nobody else is likely to choose at the same moment.
    fn private(&self, count: usize, used: &[u16]) -> Result<Vec<u16>, Failure> {
        for _ in 0..PRIVATE_PORT_TRIES {
            let base = rand::random_range(PRIVATE_PORTS);
            let ports: Vec<u16> = (base..).take(count).collect();
            if ports.iter().all(|port| !used.contains(port) && is_free(*port)) {
                return Ok(ports);
            }
        }
        Err(Failure::new(Exit::Failure, format!("no {count} free ports in {PRIVATE_PORTS:?}"))
            .help(format!("name one with {}", self.flag)))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(nodes: Option<usize>) -> Wishes {
        Wishes { nodes, http: Some(0), ..Wishes::default() }
    }

    #[test]
    fn second_start_continues_with_the_same_names_and_ports() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::prepare(dir.path(), private(Some(3))).unwrap();
        let second = Layout::prepare(dir.path(), Wishes::default()).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.nodes.len(), 3);
        assert!(first.data_dir(0).is_dir());
    }

    #[test]
    fn taken_port_is_replaced_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::prepare(dir.path(), private(None)).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first.nodes[1].http)).unwrap();
        let second = Layout::prepare(dir.path(), Wishes::default()).unwrap();
        assert_ne!(first.nodes[1].http, second.nodes[1].http);
        assert_eq!((&first.nodes[0], &first.nodes[2]), (&second.nodes[0], &second.nodes[2]));
    }

    #[test]
    fn asked_port_that_is_taken_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let wishes = Wishes { http: Some(port), nodes: Some(1), ..Wishes::default() };
        let failure = Layout::prepare(dir.path(), wishes).unwrap_err();
        assert!(failure.to_string().contains(&format!("port {port} is taken")), "{failure}");
    }

    #[test]
    fn other_number_of_nodes_than_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Layout::prepare(dir.path(), private(Some(3))).unwrap();
        let failure = Layout::prepare(dir.path(), private(Some(5))).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn names_sort_as_they_count() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path(), private(Some(NODES_MAX))).unwrap();
        let names: Vec<_> = layout.nodes.iter().map(|node| node.name.as_str()).collect();
        assert!(names.is_sorted() && names.len() == NODES_MAX, "{names:?}");
    }

    #[test]
    fn all_ports_of_a_layout_differ() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path(), private(Some(5))).unwrap();
        let mut ports: Vec<u16> = layout.nodes.iter().flat_map(|n| [n.http, n.metrics, n.peer]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 15);
    }
}
