//! Probes. They need no authentication and are answered under overload too.
//!
//! - live: this process makes progress. Depends on nothing outside it, so that a node without a leader is not
//!   restarted for it.
//! - ready: this node can serve: a leader is known, it is a member, it keeps up, takes sockets, does not stop.
//! - startup: it has recovered, joined and caught up once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ovncp_ovn::database::DatabaseStatus;
use ovncp_raft::group::Group;
use ovncp_raft::status::{GroupStatus, Integrity, Phase};
use ovncp_state::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::Query;
use super::pulse::Pulse;
use crate::services::network::Network;
use crate::services::sessions::Standing;

/// How often the event loop shows that it runs.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(250);
/// Silence of the event loop after which the process counts as stuck.
const BEAT_AGE_MAX: Duration = Duration::from_secs(10);
/// Time that the consensus core may take to take up a question.
const RAFT_AGE_MAX: Duration = Duration::from_secs(30);
/// Time that one batch of the log may take to be durable.
const DISK_AGE_MAX: Duration = Duration::from_secs(30);
/// Entries this node may be behind and still be ready.
const LAG_ENTRIES_MAX: u64 = 10_000;
/// Silence of the leader (of the quorum, on the leader) after which nobody counts on it.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(3);

/// What the probes look at.
#[derive(Clone)]
pub struct Health {
    group: Group,
    network: Network,
    draining: watch::Receiver<bool>,
    sockets: watch::Receiver<Standing>,
    event_loop: Pulse,
    raft_core: Pulse,
    started: Arc<AtomicBool>,
}

/// Answer of a probe.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthReport {
    /// `ok` when every check is, else `failing`.
    pub status: CheckStatus,
    /// By name.
    pub checks: BTreeMap<&'static str, Check>,
}

/// One check.
#[derive(Debug, Serialize, ToSchema)]
pub struct Check {
    /// Outcome.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Not so.
    Failing,
}

impl Check {
    fn when(ok: bool, detail: impl Into<String>) -> Self {
        Self { status: if ok { CheckStatus::Ok } else { CheckStatus::Failing }, detail: detail.into() }
    }
}

type Checks = BTreeMap<&'static str, Check>;

impl Health {
    /// Probes of this node.
    #[must_use]
    pub fn new(
        group: Group,
        network: Network,
        draining: watch::Receiver<bool>,
        sockets: watch::Receiver<Standing>,
    ) -> Self {
        let (event_loop, raft_core) = (Pulse::new(), Pulse::new());
        Self { group, network, draining, sockets, event_loop, raft_core, started: Arc::default() }
    }

    /// Feels for ever that the event loop and the consensus core run, and tells once that the node serves.
    pub async fn beat(self, on_start: impl FnOnce(NodeId)) {
        let group = self.group.clone();
        let core = self.raft_core.clone().feel(BEAT_INTERVAL, async move || group.probe().await);
        tokio::join!(self.event_loop_beats(on_start), core);
    }

    async fn event_loop_beats(&self, on_start: impl FnOnce(NodeId)) {
        let mut on_start = Some(on_start);
        let mut interval = tokio::time::interval(BEAT_INTERVAL);
        loop {
            interval.tick().await;
            self.event_loop.beat();
            let status = self.group.status();
            self.note_start(&status.phase);
            if status.phase == Phase::Serving
                && let Some(id) = status.node_id
                && let Some(on_start) = on_start.take()
            {
                on_start(id);
            }
        }
    }

    fn note_start(&self, phase: &Phase) -> bool {
        if *phase == Phase::Serving {
            self.started.store(true, Ordering::Relaxed);
        }
        self.started.load(Ordering::Relaxed)
    }

    fn live(&self, status: &GroupStatus) -> Checks {
        let vitals = Vitals {
            event_loop: self.event_loop.age(),
            raft_core: self.raft_core.age(),
            disk_batch: self.group.storage().batch_age,
        };
        vitals.checks(&status.phase)
    }

    fn startup(&self, status: &GroupStatus) -> Checks {
        let started = self.note_start(&status.phase);
        BTreeMap::from([("startup", Check::when(started, describe(&status.phase)))])
    }

    fn ready(&self, status: &GroupStatus) -> Checks {
        let lag = status.committed.0.saturating_sub(status.applied.0);
        let member = status.node_id.filter(|id| status.voters.contains(id) || status.learners.contains(id));
        let member = match member {
            Some(id) if status.voters.contains(&id) => Check::when(true, format!("voter {id}")),
            Some(id) => Check::when(true, format!("learner {id}")),
            None => Check::when(false, describe(&status.phase)),
        };
        let serving = self.note_start(&status.phase) && !matches!(status.phase, Phase::Stopped { .. });
        let emptied = status.node_id.is_some_and(|id| self.group.read(|state| state.drain(id).is_some()).1);
        let draining = match (*self.draining.borrow(), emptied) {
            (true, _) => Check::when(false, "this node stops"),
            (false, true) => Check::when(false, "this node is being emptied"),
            (false, false) => Check::when(true, "no"),
        };
        BTreeMap::from([
            ("apply", Check::when(lag <= LAG_ENTRIES_MAX, format!("{lag} committed entries to apply"))),
            ("draining", draining),
            ("leader", leader(status)),
            ("state", state(&status.integrity)),
            ("membership", member),
            ("sockets", sockets(*self.sockets.borrow())),
            ("startup", Check::when(serving, describe(&status.phase))),
        ])
    }
}

impl Health {
    /// What the API needs beyond the group: every database of OVN that is configured.
    fn behind_api(&self) -> Checks {
        let check = |(name, status): (&'static str, DatabaseStatus)| {
            let name = match name {
                "northbound" => "ovn_northbound",
                _ => "ovn_southbound",
            };
            let server = status.endpoint.map_or_else(String::new, |endpoint| format!(" with {endpoint}"));
            let detail = match (status.in_sync, status.problem) {
                (true, _) => format!("in sync{server}"),
                (false, Some(problem)) => problem,
                (false, None) => format!("connecting{server}"),
            };
            (name, Check::when(status.in_sync, detail))
        };
        self.network.status().into_iter().map(check).collect()
    }
}

/// Balancers send sockets to whoever is ready.
fn sockets(standing: Standing) -> Check {
    let (ok, detail) = match standing {
        Standing::Open => (true, "taken"),
        Standing::Starting => (false, "the cluster does not know of this start yet"),
        Standing::Draining => (false, "none are taken while this node is emptied"),
        Standing::Stopping => (false, "none are taken any more"),
        Standing::CutOff => (false, "closed: no majority was in reach"),
    };
    Check::when(ok, detail)
}

/// A state that may be wrong is not served.
fn state(integrity: &Integrity) -> Check {
    match integrity {
        Integrity::Unchecked => Check::when(true, "not compared yet"),
        Integrity::Agrees { at } => Check::when(true, format!("equal to the majority's after entry {at}")),
        Integrity::Held { reason } | Integrity::Quarantined { reason } => Check::when(false, reason.clone()),
    }
}

/// What the liveness probe judges: this process alone, no peer and no leader.
struct Vitals {
    event_loop: Duration,
    raft_core: Duration,
    /// How long the log writer has been at its present batch, if it has one.
    disk_batch: Option<Duration>,
}

impl Vitals {
    fn checks(&self, phase: &Phase) -> Checks {
        let within = |age: Duration, max: Duration, what: &str| {
            Check::when(
                age < max,
                format!("{what} {} ms ago, at most {} ms", age.as_millis(), max.as_millis()),
            )
        };
        let raft = match phase {
            Phase::Stopped { reason } => Check::when(false, format!("stopped: {reason}")),
            _ => within(self.raft_core, RAFT_AGE_MAX, "the consensus core answered"),
        };
        let disk = match self.disk_batch {
            Some(age) => within(age, DISK_AGE_MAX, "the log writer began its batch"),
            None => Check::when(true, "the log writer waits for work"),
        };
        let event_loop = within(self.event_loop, BEAT_AGE_MAX, "ran");
        BTreeMap::from([("disk", disk), ("event_loop", event_loop), ("raft", raft)])
    }
}

fn leader(status: &GroupStatus) -> Check {
    match (status.leader, status.quorum_ack_age_ms) {
        (None, _) => Check::when(false, "no leader is known"),
        (Some(id), Some(age)) => {
            let fresh = u128::from(age) <= LEADER_SILENCE_MAX.as_millis();
            Check::when(fresh, format!("node {id}, heard of {age} ms ago"))
        }
        (Some(id), None) => Check::when(true, format!("node {id}")),
    }
}

fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Recovering => "recovering from its data directory".to_owned(),
        Phase::Forming { waiting_for } => {
            format!("forming a cluster, waiting for {}", waiting_for.join("; "))
        }
        Phase::Joining => "joining, catching up".to_owned(),
        Phase::Serving => "serving".to_owned(),
        Phase::Stopped { reason } => format!("stopped: {reason}"),
    }
}

fn answer(checks: Checks) -> Response {
    let failing = checks.values().any(|check| check.status == CheckStatus::Failing);
    let (code, status) = match failing {
        true => (StatusCode::SERVICE_UNAVAILABLE, CheckStatus::Failing),
        false => (StatusCode::OK, CheckStatus::Ok),
    };
    (code, Json(HealthReport { status, checks })).into_response()
}

/// Whether the process makes progress.
#[utoipa::path(get, path = "/health/live", tag = "health",
    responses((status = 200, body = HealthReport, description = "It does."),
        (status = 503, body = HealthReport, description = "It does not: restart it.")))]
pub async fn live(State(app): State<Shared>) -> Response {
    answer(app.health.live(&app.health.group.status()))
}

/// What must be usable.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadyFor {
    /// Everything behind the API that is configured, PostgreSQL and OVN included.
    Api,
}

/// Query of `/health/ready`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadyQuery {
    /// What must be usable beyond the group.
    #[serde(rename = "for")]
    pub scope: Option<ReadyFor>,
}

/// Whether this node can serve.
#[utoipa::path(get, path = "/health/ready", tag = "health", params(ReadyQuery),
    responses((status = 200, body = HealthReport, description = "It can."),
        (status = 503, body = HealthReport, description = "Send nobody here: the failing checks say why.")))]
pub async fn ready(State(app): State<Shared>, Query(query): Query<ReadyQuery>) -> Response {
    let mut checks = app.health.ready(&app.health.group.status());
    if let Some(ReadyFor::Api) = query.scope {
        checks.extend(app.health.behind_api());
    }
    answer(checks)
}

/// Whether this node has recovered, joined and caught up once.
#[utoipa::path(get, path = "/health/startup", tag = "health",
    responses((status = 200, body = HealthReport, description = "It has."),
        (status = 503, body = HealthReport, description = "Not yet.")))]
pub async fn startup(State(app): State<Shared>) -> Response {
    answer(app.health.startup(&app.health.group.status()))
}

/// All checks; 200 while the process is live.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, body = HealthReport, description = "The process is live; the checks tell the rest."),
        (status = 503, body = HealthReport, description = "The process is stuck or stopped.")))]
pub async fn summary(State(app): State<Shared>) -> Response {
    let status = app.health.group.status();
    let mut checks = app.health.live(&status);
    let is_live = checks.values().all(|check| check.status == CheckStatus::Ok);
    checks.extend(app.health.ready(&status));
    let failing = checks.values().any(|check| check.status == CheckStatus::Failing);
    let report =
        HealthReport { status: if failing { CheckStatus::Failing } else { CheckStatus::Ok }, checks };
    let code = if is_live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(report)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(3);

    fn failing(vitals: &Vitals, phase: &Phase) -> Vec<&'static str> {
        let checks = vitals.checks(phase).into_iter();
        checks.filter(|(_, check)| check.status == CheckStatus::Failing).map(|(name, _)| name).collect()
    }

    #[test]
    fn each_part_that_stands_still_is_named_and_nothing_else() {
        let alive = || Vitals { event_loop: NOW, raft_core: NOW, disk_batch: None };
        for phase in
            [Phase::Recovering, Phase::Joining, Phase::Serving, Phase::Forming { waiting_for: Vec::new() }]
        {
            assert!(failing(&alive(), &phase).is_empty(), "{phase:?} needs no leader to be live");
        }
        assert_eq!(failing(&Vitals { event_loop: BEAT_AGE_MAX, ..alive() }, &Phase::Serving), ["event_loop"]);
        assert_eq!(failing(&Vitals { raft_core: RAFT_AGE_MAX, ..alive() }, &Phase::Serving), ["raft"]);
        assert!(failing(&Vitals { disk_batch: Some(NOW), ..alive() }, &Phase::Serving).is_empty());
        let hung = Vitals { disk_batch: Some(DISK_AGE_MAX), ..alive() };
        assert_eq!(failing(&hung, &Phase::Serving), ["disk"]);
        let stopped = Phase::Stopped { reason: "disk full".to_owned() };
        assert_eq!(failing(&alive(), &stopped), ["raft"]);
    }
}
