//! What `ovncp dev` prints: a table once, then a line per event. Plain lines when stdout is no terminal, JSON
//! lines with `-o json`.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{self, Cluster};
use super::layout::Layout;
use super::ovn::Ovn;
use super::story::{Mood, Notice, Story};
use crate::cli::output::{Format, duration, print_line, table};

pub(super) struct Screen {
    format: Format,
    temporary: bool,
    colour: bool,
    begun: Instant,
}

impl Screen {
    pub(super) fn new(format: Format, temporary: bool) -> Screen {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let colour = std::io::stdout().is_terminal() && !plain;
        Screen { format, temporary, colour, begun: Instant::now() }
    }

    fn for_people(&self) -> bool {
        self.format == Format::Table
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn opening(&self, layout: &Layout) {
        if self.for_people() {
            let kept = if self.temporary {
                "temporary: removed at the end, kept with --data-dir"
            } else {
                "kept: the next start continues with it"
            };
            let title = format!("ovncp {}", env!("CARGO_PKG_VERSION"));
            print_line(&format!("{}  starting {} nodes", self.paint("1", &title), layout.nodes.len()));
            print_line(&format!("data in {} ({kept})\n", layout.dir.display()));
        }
    }

    pub(super) fn table(&self, cluster: &Cluster, ovn: &Ovn, story: &Story, took: Duration) {
        let rows: Vec<Row> =
            (0..cluster.layout.nodes.len()).map(|index| row(cluster, story, index)).collect();
        if !self.for_people() {
            let nodes: Vec<Value> = rows.iter().map(Row::json).collect();
            let none = match ovn {
                Ovn::None(why) => Some(why),
                Ovn::Private(_) => None,
            };
            let value = json!({"event": "table", "nodes": nodes, "ovn": ovn.file(), "ovn_none": none});
            return self.machine_line(value);
        }
        let header = ["NODE", "ROLE", "STATUS", "URL", "PID", "DATA"];
        let cells = rows.iter().map(Row::cells);
        let text = table(&header, cells);
        for line in text.lines() {
            let led = line.split_whitespace().nth(1) == Some("leader");
            print_line(&if led { self.paint("1;32", line) } else { line.to_owned() });
        }
        self.ovn_table(ovn);
        let url = cluster.layout.nodes.last().map(|node| node.url()).unwrap_or_default();
        let ready = story.ready();
        let state = match story.leader() {
            Some((leader, term)) if story.is_settled() => {
                format!("{ready} of {} nodes ready, {leader} leads in term {term}", rows.len())
            }
            _ => format!("{ready} of {} nodes ready, no leader yet", rows.len()),
        };
        print_line(&format!("\n{state} ({} after the start)", duration(took)));
        print_line(&format!("\n{}", self.paint("1", "Take a lock, on any node:")));
        print_line(&format!(
            "  curl -sS -X POST {url}/api/v1/cluster/locks/demo/acquire \\\n       \
             -H 'content-type: application/json' -d '{{\"owner\":\"me\",\"ttl_ms\":30000}}'"
        ));
        print_line(&format!("\n{}", self.paint("1", "Look around:")));
        let first = cluster.layout.nodes.first().map(|node| node.url()).unwrap_or_default();
        let endpoints = if first == crate::cli::ENDPOINT_DEFAULT {
            String::new()
        } else {
            format!(" --endpoint {first}")
        };
        // As this process was called: `cargo run` leaves no `ovncp` in the PATH.
        let program = std::env::args().next().unwrap_or_else(|| "ovncp".to_owned());
        print_line(&format!("  {program} status{endpoints}"));
        print_line(&format!("  {first}/api/docs"));
        if let Some(northbound) = ovn.file().map(|file| file.northbound) {
            print_line(&format!("  ovn-nbctl --db={northbound} show"));
        }
        print_line(&format!("  tail -f {}", cluster.layout.dir.join("node-*/log").display()));
        print_line("\nKill a node (kill -9 PID) and watch. Ctrl-C stops all of them.\n");
    }

    fn ovn_table(&self, ovn: &Ovn) {
        match ovn {
            Ovn::None(why) => print_line(&format!("\n{}: {why}", self.paint("1", "OVN"))),
            Ovn::Private(private) => {
                let cells = private.lines().into_iter().map(|line| {
                    let pid = line.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
                    vec![line.what.to_owned(), line.endpoint, pid, line.data]
                });
                print_line("");
                print_line(table(&["OVN", "ENDPOINT", "PID", "DATA"], cells).trim_end());
            }
        }
    }

    pub(super) fn ovn(&self, sentence: &str) {
        if !self.for_people() {
            return self.machine_line(json!({"event": "ovn", "text": sentence}));
        }
        self.line(&self.paint("33", sentence));
    }

    pub(super) fn notice(&self, notice: &Notice) {
        if !self.for_people() {
            return self.machine_line(notice.json());
        }
        let code = match notice.mood() {
            Mood::Good => "32",
            Mood::Bad => "31",
            Mood::Neutral => "33",
        };
        self.line(&self.paint(code, &notice.text()));
    }

    pub(super) fn planned(&self, node: &str, pause: Option<Duration>) {
        if self.for_people() {
            self.line(&match pause {
                Some(pause) => format!("{node} is started again in {} s", pause.as_secs()),
                None => format!("{node} stays down (--no-restart)"),
            });
        }
    }

    pub(super) fn whole(&self, nodes: usize, leader: Option<&(String, u64)>) {
        if let (true, Some((leader, term))) = (self.for_people(), leader) {
            self.line(&format!("all {nodes} nodes ready, {leader} leads in term {term}"));
        }
    }

    pub(super) fn log_tail(&self, path: &Path, lines: usize) {
        let tail = cluster::tail(path, lines);
        if self.for_people() {
            self.line(&format!("the end of {}:", path.display()));
            tail.iter().for_each(|line| print_line(&format!("           | {line}")));
        } else {
            self.machine_line(json!({"event": "log", "path": path, "lines": tail}));
        }
    }

    pub(super) fn stopping(&self, running: usize) {
        if self.for_people() {
            self.line(&format!("stopping {running} nodes (Ctrl-C again kills them)"));
        }
    }

    pub(super) fn stopped(&self, killed: usize, took: Duration, layout: &Layout) {
        if !self.for_people() {
            return self.machine_line(json!({"event": "stopped", "killed": killed}));
        }
        let how = if killed == 0 { String::new() } else { format!(", {killed} had to be killed") };
        let data = if self.temporary {
            "data removed".to_owned()
        } else {
            format!("data kept in {}", layout.dir.display())
        };
        self.line(&format!("stopped in {}{how}; {data}", duration(took)));
    }

    /// A line with the time since the start.
    fn line(&self, text: &str) {
        let at = format!("[{:8.3}]", self.begun.elapsed().as_secs_f64());
        print_line(&format!("{} {text}", self.paint("2", &at)));
    }

    fn machine_line(&self, mut value: Value) {
        value["at_ms"] = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).into();
        print_line(&match self.format {
            Format::Yaml => {
                format!("---\n{}", serde_saphyr::to_string(&value).unwrap_or_default().trim_end())
            }
            _ => value.to_string(),
        });
    }
}

struct Row {
    name: String,
    role: &'static str,
    status: String,
    url: String,
    pid: Option<u32>,
    data: String,
}

fn row(cluster: &Cluster, story: &Story, index: usize) -> Row {
    let node = &cluster.layout.nodes[index];
    let leads = story.leader().is_some_and(|(leader, _)| *leader == node.name);
    let status = match (cluster.pid(index), story.is_ready(index), story.reason(index)) {
        (None, ..) => "down".to_owned(),
        (Some(_), true, _) => "ready".to_owned(),
        (Some(_), false, None) => "starting".to_owned(),
        (Some(_), false, Some(reason)) => format!("starting: {reason}"),
    };
    Row {
        name: node.name.clone(),
        role: if leads { "leader" } else { "follower" },
        status,
        url: node.url(),
        pid: cluster.pid(index),
        data: cluster.layout.data_dir(index).display().to_string(),
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        vec![
            self.name.clone(),
            self.role.to_owned(),
            self.status.clone(),
            self.url.clone(),
            pid,
            self.data.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.name, "role": self.role, "status": self.status,
            "url": self.url, "pid": self.pid, "data_dir": self.data,
        })
    }
}
