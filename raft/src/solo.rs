//! A state without a log, so that edges can be built before storage lands. Removed with the first real group.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ovncp_state::command::{FormCluster, JoinNode, RenewLock};
use ovncp_state::reply::Renewed;
use ovncp_state::{
    ClusterId, Command, Entry, EventOffset, Incarnation, LogIndex, Millis, NodeId, Refusal, Reply, Request,
    State,
};
use tokio::sync::watch;

use crate::error::{ProposeError, ReadError};
use crate::group::{Committed, Identity};
use crate::settings::GroupConfig;
use crate::status::{GroupStatus, Phase};
use crate::waiters::Waiters;

pub(crate) struct Solo {
    config: GroupConfig,
    state: Mutex<State>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) events: watch::Sender<EventOffset>,
    pub(crate) status: watch::Sender<GroupStatus>,
    pub(crate) key: [u8; 32],
    started: tokio::time::Instant,
}

impl Solo {
    pub(crate) fn new(config: GroupConfig) -> Self {
        let form = FormCluster {
            cluster_id: ClusterId(rand::random()),
            formed_at_unix_ms: 0,
            voters_target: config.voters_target,
            nodes: vec![JoinNode {
                name: config.name.clone(),
                incarnation: Incarnation([1; 16]),
                info: config.info.clone(),
            }],
        };
        let status = GroupStatus {
            node_id: Some(NodeId(1)),
            phase: Phase::Serving,
            term: 1,
            leader: Some(NodeId(1)),
            is_leader: true,
            quorum_ack_age_ms: Some(0),
            last_log: LogIndex(0),
            committed: LogIndex(0),
            applied: LogIndex(0),
            snapshot: LogIndex(0),
            voters: vec![NodeId(1)],
            learners: Vec::new(),
            peers: Vec::new(),
            state_hash: None,
        };
        let solo = Self {
            config,
            state: Mutex::new(State::new()),
            waiters: Arc::default(),
            events: watch::Sender::new(EventOffset(0)),
            status: watch::Sender::new(status),
            key: rand::random(),
            started: tokio::time::Instant::now(),
        };
        let _ = solo.apply(Request::from(Command::FormCluster(form)));
        solo
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn apply(&self, request: Request) -> Result<Committed, ProposeError> {
        let mut state = self.lock();
        let index = LogIndex(state.applied().0 + 1);
        let at = Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let applied = state.apply(Entry { index, at, request });
        let next = state.cluster().events.1;
        drop(state);
        for notice in applied.notices {
            self.waiters.notify(notice);
        }
        self.events.send_if_modified(|known| std::mem::replace(known, next) != next);
        self.status.send_modify(|status| {
            status.last_log = index;
            status.committed = index;
            status.applied = index;
        });
        Ok(Committed { index, reply: applied.reply })
    }

    pub(crate) fn renew(&self, renewal: RenewLock) -> Result<Result<Renewed, Refusal>, ProposeError> {
        match self.apply(Request::from(Command::RenewLocks(vec![renewal])))?.reply {
            Reply::Renewed(mut results) => results.pop().ok_or(ProposeError::Unknown),
            Reply::Refused(refusal) => Ok(Err(refusal)),
            _ => Err(ProposeError::Unknown),
        }
    }

    pub(crate) async fn wait_applied(&self, index: LogIndex, timeout: Duration) -> Result<(), ReadError> {
        let mut status = self.status.subscribe();
        let reached = status.wait_for(|status| status.applied >= index);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Lagging),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            name: self.config.name.clone(),
            node_id: Some(NodeId(1)),
            cluster_id: self.lock().cluster().cluster_id,
            incarnation: Incarnation([1; 16]),
            boot: 1,
        }
    }

    pub(crate) fn stop(&self) {
        self.status.send_modify(|status| status.phase = Phase::Stopped { reason: "shut down".to_owned() });
    }
}
