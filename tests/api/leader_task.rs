//! A leader task on three nodes: one runs, it moves when its node goes, and two never run together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ovncp::services::elections::Elections;
use ovncp::services::leader_task::{LeaderTask, Office};
use ovncp::services::locks::Locks;
use ovncp::services::{Core, Patience};
use ovncp::telemetry::metrics::LockMetrics;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::TestNode;

const PATIENCE: Duration = Duration::from_secs(120);
/// Its margin is what a busy machine may keep a task waiting: 2 s.
const TTL: Duration = Duration::from_secs(10);

/// What the jobs of all nodes write to. Tokens and who works are checked at every touch.
#[derive(Default)]
struct Desk {
    working: Option<u64>,
    terms: Vec<(u64, String)>,
}

/// Leaves the desk when the job is dropped, as well as when it ends.
struct Seat(Arc<Mutex<Desk>>, u64);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut desk = self.0.lock().unwrap();
        assert_eq!(desk.working, Some(self.1));
        desk.working = None;
    }
}

async fn job(desk: Arc<Mutex<Desk>>, told: watch::Sender<usize>, name: String, mut office: Office) {
    let token = office.token().0;
    let _seat = {
        let mut open = desk.lock().unwrap();
        assert_eq!(open.working, None, "{name} works beside another one");
        assert!(open.terms.last().is_none_or(|(last, _)| *last < token), "an old token came back");
        open.working = Some(token);
        open.terms.push((token, name));
        told.send_replace(open.terms.len());
        Seat(Arc::clone(&desk), token)
    };
    office.ended().await;
    assert!(office.is_over());
    // The first ones do not come to an end by themselves.
    if desk.lock().unwrap().terms.len() == 1 {
        std::future::pending::<()>().await;
    }
}

fn elections(node: &TestNode) -> Elections {
    let patience = Patience { propose: Duration::from_secs(5), read: Duration::from_secs(5) };
    let core = Core::new(node.group.clone(), patience);
    Elections::new(Locks::new(core, Arc::new(LockMetrics::default())))
}

struct Runner {
    name: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_task_runs_on_one_node_only_and_moves() {
    let mut nodes: Vec<_> = TestNode::start_three().await.into();
    let desk: Arc<Mutex<Desk>> = Arc::default();
    let (told, mut terms) = watch::channel(0);
    let mut runners: Vec<_> = nodes
        .iter()
        .map(|node| {
            let task = LeaderTask { name: "job".to_owned(), candidate: node.name.clone(), ttl: TTL };
            let (stop, stopped) = watch::channel(false);
            let (desk, told, name) = (Arc::clone(&desk), told.clone(), node.name.clone());
            let job = move |office| job(Arc::clone(&desk), told.clone(), name.clone(), office);
            let task = tokio::spawn(task.run(elections(node), stopped, job));
            Runner { name: node.name.clone(), stop, task }
        })
        .collect();
    let mut term = async |count: usize| {
        let reached = terms.wait_for(|seen| *seen >= count);
        tokio::time::timeout(PATIENCE, reached).await.expect("the next term begins").unwrap();
        desk.lock().unwrap().terms.last().unwrap().clone()
    };
    // The node of the first term is gone with its group: it cannot renew, and its job ends before another begins.
    let (_, first) = term(1).await;
    let place = nodes.iter().position(|node| node.name == first).unwrap();
    nodes[place].begin_stop();
    nodes.remove(place).stop_begun().await;
    let gone = runners.remove(runners.iter().position(|runner| runner.name == first).unwrap());
    let (_, second) = term(2).await;
    assert_ne!(second, first);
    // The node of the last term stops in order: it resigns, and the other one goes on without waiting for a lease.
    let ran = runners.iter().position(|runner| runner.name == second);
    let stopping = runners.remove(ran.expect("one of the two that are left"));
    stopping.stop.send_replace(true);
    let count = desk.lock().unwrap().terms.len();
    tokio::time::timeout(PATIENCE, stopping.task).await.expect("it stops").unwrap();
    let (_, third) = term(count + 1).await;
    assert_eq!(third, runners[0].name);
    for runner in runners.into_iter().chain([gone]) {
        runner.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, runner.task).await.expect("it stops").unwrap();
    }
    assert_eq!(desk.lock().unwrap().working, None, "nothing runs on");
}

#[tokio::test]
async fn the_report_of_the_cluster_is_an_election_of_its_own() {
    let mut node = TestNode::start_with(&[("cluster.report_interval", "1s")]).await;
    let path = "/api/v1/cluster/elections/ovncp.report";
    let leads = async { while node.get(path).await.expect(200)["leader"]["candidate"] != "node-1" {} };
    tokio::time::timeout(PATIENCE, leads).await.expect("somebody reports");
    node.begin_stop();
    tokio::time::timeout(PATIENCE, node.stop_begun()).await.expect("the report does not hold up the stop");
}
