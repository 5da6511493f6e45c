//! The clients of a run and the probe that asks who leads.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{Plan, RunError};
use crate::history::Recorder;
use crate::mutants::TIME_OUT_FAILS;
use crate::nemesis::Env;
use crate::workload::{self, ClientContext, Pace, Shared, WorkloadError};

/// How long clients may take to end the operation that they are at, waiting and time-outs included.
const STOP_PATIENCE: Duration = Duration::from_secs(40);
/// Numbers of those that are no clients, for their randomness.
const PROBE: u32 = u32::MAX;
const FINISH: u32 = u32::MAX - 1;

/// All of them.
pub(super) struct Clients {
    recorder: Recorder,
    nodes: watch::Receiver<Vec<workload::Endpoint>>,
    admin_token: String,
    shared: Arc<Shared>,
    seed: u64,
    time_out_fails: bool,
    working: JoinSet<Result<(), WorkloadError>>,
    probe: JoinHandle<Result<(), WorkloadError>>,
    stop_working: watch::Sender<bool>,
    stop_probe: watch::Sender<bool>,
}

impl Clients {
    /// Lets them go.
    pub(super) fn start(plan: &Plan, recorder: &Recorder, env: &Env) -> Self {
        let mut it = Self {
            recorder: recorder.clone(),
            nodes: env.cluster.endpoints(),
            admin_token: env.cluster.admin().token().to_owned(),
            shared: Arc::new(Shared::new(plan.clients)),
            seed: plan.seed,
            time_out_fails: plan.mutant.as_deref() == Some(TIME_OUT_FAILS),
            working: JoinSet::new(),
            probe: tokio::spawn(async { Ok(()) }),
            stop_working: watch::channel(false).0,
            stop_probe: watch::channel(false).0,
        };
        for number in 0..plan.clients {
            let context = it.context(number, Pace::new(plan.rate), it.stop_working.subscribe());
            it.working.spawn(workload::client(plan.workload, context));
        }
        let context = it.context(PROBE, Pace::new(0.0), it.stop_probe.subscribe());
        it.probe = tokio::spawn(workload::probe(context));
        it
    }

    fn context(&self, number: u32, pace: Pace, stop: watch::Receiver<bool>) -> ClientContext {
        ClientContext {
            number,
            recorder: self.recorder.clone(),
            nodes: self.nodes.clone(),
            // The number is mixed in by a prime, so that neighbouring seeds share no client.
            rng: StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number))),
            stop,
            pace,
            admin_token: Some(self.admin_token.clone()),
            shared: Arc::clone(&self.shared),
            time_out_fails: self.time_out_fails,
        }
    }

    /// Ends the clients, each after the operation that it is at.
    pub(super) async fn stop(&mut self) -> Result<(), RunError> {
        self.stop_working.send_replace(true);
        let all = async {
            while let Some(ended) = self.working.join_next().await {
                ended.map_err(|error| RunError::Stage(format!("a client: {error}")))??;
            }
            Ok(())
        };
        tokio::time::timeout(STOP_PATIENCE, all)
            .await
            .map_err(|_| RunError::Stage(format!("clients did not end within {STOP_PATIENCE:?}")))?
    }

    /// Reads the end state.
    pub(super) async fn finish(&self, plan: &Plan) -> Result<(), RunError> {
        let context = self.context(FINISH, Pace::new(0.0), self.stop_working.subscribe());
        Ok(workload::finish(plan.workload, context).await?)
    }

    /// Ends the probe.
    pub(super) async fn end_probe(self) -> Result<(), RunError> {
        self.stop_probe.send_replace(true);
        self.probe.await.map_err(|error| RunError::Stage(format!("the probe: {error}")))??;
        Ok(())
    }
}
