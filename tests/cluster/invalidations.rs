//! Invalidations while nodes are killed: what a reader of each node saw, offset by offset.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ovncp::client::{Cleared, Client, Consistency, Followed, Follower};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::support::{Cluster, Node, NodeOptions, PATIENCE};

/// Snapshots every few hundred entries, so that a node comes back through one.
fn with_frequent_snapshots(options: &mut NodeOptions) {
    options.set("OVNCP_RAFT_SNAPSHOT_ENTRIES", "100");
    options.set("OVNCP_RAFT_SNAPSHOT_KEEP", "20");
}

fn client<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Client {
    let endpoints = nodes.into_iter().map(|node| node.url(""));
    Client::builder().endpoints(endpoints).deadline(PATIENCE).build().expect("a client")
}

/// Appends entries one after the other, each with a pattern of its own, until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    appended: Arc<AtomicUsize>,
    /// Offsets by pattern, as they were answered.
    task: JoinHandle<BTreeMap<String, u64>>,
}

impl Writer {
    fn start(number: usize, client: Client) -> Self {
        let (stop, appended) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (told, count) = (Arc::clone(&stop), Arc::clone(&appended));
        let task = tokio::spawn(async move {
            let mut answered = BTreeMap::new();
            while !told.load(Ordering::Relaxed) {
                let pattern = format!("writer-{number}:{}:*", answered.len());
                let done = client.invalidate([pattern.clone()]).send().await;
                answered.insert(pattern, done.expect("some node appends it in time").offset);
                count.fetch_add(1, Ordering::Relaxed);
            }
            answered
        });
        Self { stop, appended, task }
    }
}

/// Follows the log through the endpoints of one client, whatever becomes of them.
#[derive(Clone)]
struct Reader(Arc<Mutex<Vec<(u64, String)>>>);

impl Reader {
    fn start(mut follower: Follower) -> Self {
        let reader = Self(Arc::default());
        let seen = Arc::clone(&reader.0);
        tokio::spawn(async move {
            loop {
                match follower.next().await {
                    Ok(Followed::Entries(entries)) => {
                        let entries =
                            entries.into_iter().map(|entry| (entry.offset, entry.patterns.concat()));
                        seen.lock().await.extend(entries);
                    }
                    Ok(Followed::Reset { first }) => panic!("a reset to {first}: everything is kept"),
                    // Its node is dead: it comes back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        reader
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reader_sees_every_entry_once_while_nodes_are_killed() {
    let mut cluster = Cluster::start_with(3, with_frequent_snapshots).await;
    let all = client(&cluster.nodes);
    let begin = || Some("0:0".to_owned());
    // One reader of each node, and one that goes wherever somebody answers.
    let mut readers: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| Reader::start(client([node]).follow_invalidations(begin())))
        .collect();
    readers.push(Reader::start(all.follow_invalidations(begin())));
    let writers: Vec<_> = (0..3).map(|number| Writer::start(number, client(&cluster.nodes))).collect();
    let progress = async |cluster: &Cluster, more: usize| {
        let count = || writers.iter().map(|writer| writer.appended.load(Ordering::Relaxed)).sum::<usize>();
        let goal = count() + more;
        cluster.until("the writers go on", || async { (count() >= goal).then_some(()) }).await;
    };
    progress(&cluster, 50).await;
    for round in 0..5 {
        let victim = if round % 2 == 0 { cluster.leader().await } else { cluster.follower().await };
        let name = cluster.nodes[victim].name().to_owned();
        cluster.nodes[victim].kill();
        // A barrier names the dead node; the entry is in the log all the same.
        let barrier = all.invalidate([format!("barrier-{round}")]);
        let late = barrier.wait(Cleared::All, Duration::from_millis(200)).send().await.expect("a majority");
        assert!(!late.complete && late.missing.contains(&name), "{name} is dead: {late:?}");
        progress(&cluster, 120).await;
        cluster.nodes[victim].start();
        cluster.all_ready().await;
        progress(&cluster, 30).await;
    }
    // Back again, everybody has cleared everything.
    let whole = all.invalidate(["whole"]).wait(Cleared::All, Duration::from_secs(40)).send().await;
    assert!(whole.as_ref().is_ok_and(|done| done.complete && done.applied_by.len() == 3), "{whole:?}");
    let mut answered = BTreeMap::new();
    for writer in writers {
        writer.stop.store(true, Ordering::Relaxed);
        answered.extend(writer.task.await.expect("a writer"));
    }
    let page = all.invalidations(None, 1, Duration::ZERO, Consistency::Linearizable).await.expect("a page");
    let end: usize = page.next.strip_prefix("0:").expect("epoch 0").parse().expect("an offset");
    let mut stories = Vec::new();
    for (number, reader) in readers.iter().enumerate() {
        let what = format!("reader {number} has seen everything up to {end}");
        let seen = cluster.until(&what, || async {
            let seen = reader.0.lock().await;
            (seen.len() >= end).then(|| seen.clone())
        });
        stories.push(seen.await);
    }
    compare(&stories, &answered, end);
    cluster.converged().await;
}

/// Each story is the whole log without a gap or a repeat, and they are one; each answered entry is where it was said to
/// be, and nowhere else.
fn compare(stories: &[Vec<(u64, String)>], answered: &BTreeMap<String, u64>, end: usize) {
    for story in stories {
        assert_eq!(story.len(), end);
        for (place, (offset, _)) in story.iter().enumerate() {
            assert_eq!(*offset, place as u64, "a gap or a repeat");
        }
        assert_eq!(story, &stories[0], "nodes differ");
    }
    let mut places = BTreeMap::new();
    for (offset, pattern) in &stories[0] {
        assert_eq!(places.insert(pattern, offset), None, "{pattern} is in the log twice");
    }
    for (pattern, offset) in answered {
        assert_eq!(places.get(pattern), Some(&offset), "{pattern}");
    }
}
