//! The parts of `plan.json` that a judgement depends on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was planned, as far as checks and report need it. Unknown fields are ignored: the plan is the runner's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanFacts {
    /// Name of the workload.
    pub workload: String,
    /// Names of the faults that were to be made.
    pub nemeses: Vec<String>,
    /// How long clients were to work.
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub time: Duration,
    /// Clients at once.
    pub clients: u32,
    /// What randomness started from.
    pub seed: u64,
    /// Nodes at the start. None: there was no cluster, the history is made up.
    pub nodes: u32,
    /// Kind of network.
    pub net: String,
    /// Kind of disk.
    pub disk: String,
    /// The bug that was put in, if any.
    pub mutant: Option<String>,
    /// The command that makes the run again, if the runner wrote it down.
    pub replay: Option<String>,
}

impl PlanFacts {
    /// The command that makes this run again.
    pub fn command(&self) -> String {
        if let Some(replay) = &self.replay {
            return replay.clone();
        }
        let mut words = vec!["ovncp-jepsen run".to_owned()];
        let mut option = |name: &str, value: String| {
            if !value.is_empty() && value != "0" {
                words.push(format!("--{name} {value}"));
            }
        };
        option("workload", self.workload.clone());
        option("nemesis", self.nemeses.join(","));
        option("time", self.time.as_secs().to_string());
        option("clients", self.clients.to_string());
        option("seed", self.seed.to_string());
        option("nodes", self.nodes.to_string());
        option("net", self.net.clone());
        option("disk", self.disk.clone());
        option("mutant", self.mutant.clone().unwrap_or_default());
        words.join(" ")
    }
}

/// Seconds as a number, or serde's own shape of a `Duration`.
fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let found = match &value {
        Value::Number(number) => {
            number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        Value::Object(_) => Duration::deserialize(&value).ok(),
        _ => None,
    };
    found.ok_or_else(|| serde::de::Error::custom(format!("time {value}: seconds, or secs and nanos")))
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
