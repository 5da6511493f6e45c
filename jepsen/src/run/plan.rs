//! What a run is to be; kept beside its history, so that it can be judged and made again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::DiskKind;
use crate::nemesis::{NemesisKind, schedule};
use crate::net::NetKind;
use crate::workload::WorkloadKind;

/// All faults that can be made.
pub const MIXED: &str = "mixed";
/// Moments of the schedule that a fault needs to be sure of its turn: some pass because enough is at work, and some
/// faults have to wait until no node is down.
const MOMENTS_PER_FAULT: usize = 3;

/// Parameters of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What clients do.
    pub workload: WorkloadKind,
    /// How the faults were asked for: `mixed`, `none`, or names with commas.
    pub nemesis: String,
    /// The faults, those left out that cannot be made in this run.
    pub nemeses: Vec<NemesisKind>,
    /// How long clients work.
    pub time: Duration,
    /// Clients at once.
    pub clients: u32,
    /// Where all chance comes from.
    pub seed: u64,
    /// Nodes at the start.
    pub nodes: u8,
    /// What stands between the nodes.
    pub net: NetKind,
    /// What the nodes write to.
    pub disk: DiskKind,
    /// Operations per second of one client at most; 0 for no bound.
    pub rate: f64,
    /// The nodes' binary.
    pub binary: PathBuf,
    /// A bug that is put in, to see whether it is found.
    pub mutant: Option<String>,
    /// Whether the disks are kept at the end.
    pub keep_disks: bool,
    /// The command that makes this run again.
    pub replay: String,
    /// What is not as it was asked for, and why.
    pub notices: Vec<String>,
}

impl Plan {
    /// Name of its folder in the store.
    pub fn name(&self) -> String {
        let workload = serde_json::to_value(self.workload).unwrap_or_default();
        format!("{}-{}", workload.as_str().unwrap_or_default(), self.nemesis.replace(',', "+"))
    }

    /// Says that something is not as it was asked for, now and in the plan.
    pub fn notice(&mut self, text: String) {
        eprintln!("note    {text}");
        self.notices.push(text);
    }

    /// Names of the nodes at the start.
    pub fn names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("n{number}")).collect()
    }

    /// Writes it as JSON. A mixed run that is too short to see every fault promises none by name.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut plan = serde_json::to_value(self)?;
        let moments = schedule::slots(self.seed, self.time).len();
        if self.nemesis == MIXED && moments < MOMENTS_PER_FAULT * self.nemeses.len() {
            plan["nemeses"] = serde_json::json!([MIXED]);
        }
        std::fs::write(path, serde_json::to_vec_pretty(&plan)?)
    }
}
