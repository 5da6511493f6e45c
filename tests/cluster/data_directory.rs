//! Data directories that are copied, shared or damaged are refused, loudly and at the start.

use std::path::{Path, PathBuf};

use crate::support::{Cluster, Node};

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create folder");
    for entry in std::fs::read_dir(from).expect("read folder") {
        let entry = entry.expect("folder entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy file");
        }
    }
}

/// Waits until the process ended by itself with a failure, and returns what it printed.
async fn refused(cluster: &mut Cluster, position: usize) -> String {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(status) = cluster.nodes[position].ended() {
            assert!(!status.success(), "ended with {status}");
            return cluster.nodes[position].log();
        }
        assert!(
            start.elapsed() < crate::support::PATIENCE,
            "still runs: {}",
            cluster.nodes[position].log_tail(40)
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let mut options = cluster.nodes[0].options.clone();
    options.ip = format!("{}.77", crate::support::subnet());
    let data_dir = options.data_dir.clone();
    cluster.nodes[0].clear_log();
    cluster.nodes.push(Node::new(options));
    cluster.nodes[1].start();
    let log = refused(&mut cluster, 1).await;
    assert!(log.contains(&data_dir.display().to_string()), "names no directory: {log}");
    assert!(cluster.nodes[0].is_ready().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_directory_is_refused_by_the_peers() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let held = cluster.acquire("kept", "me").await;
    let original = cluster.nodes[follower].data_dir().to_path_buf();
    let copy = cluster.folder.path().join("copy");
    copy_folder(&original, &copy);
    // The same name and identity, elsewhere, while the original lives.
    let mut options = cluster.nodes[follower].options.clone();
    let subnet = options.ip.rsplit_once('.').expect("an address").0.to_owned();
    options.ip = format!("{subnet}.99");
    options.data_dir = copy;
    cluster.nodes.push(Node::new(options));
    let copied = cluster.nodes.len() - 1;
    cluster.nodes[copied].start();
    cluster
        .until("the copy is refused and says so", || async {
            let log = cluster.nodes[copied].log();
            (log.contains("copied") || log.contains("second process")).then_some(())
        })
        .await;
    assert!(!cluster.nodes[copied].is_ready().await, "the copy serves");
    cluster.nodes[copied].kill();
    cluster.nodes.pop();
    cluster.all_ready().await;
    cluster.release(&held).await;
    cluster.converged().await;
}

/// Files of the write-ahead log, oldest first.
fn log_files(data_dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data_dir.join("log"))
        .expect("the log's folder")
        .map(|entry| entry.expect("folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_with_file_and_offset() {
    let mut cluster = Cluster::start(3).await;
    for number in 0..50 {
        let lock = cluster.acquire(&format!("fill-{number}"), "me").await;
        cluster.release(&lock).await;
    }
    let follower = cluster.follower().await;
    cluster.nodes[follower].kill();
    let files = log_files(cluster.nodes[follower].data_dir());
    let damaged = files.first().expect("a log file");
    let mut bytes = std::fs::read(damaged).expect("read the log");
    // Well before the tail: the records of fifty locks follow.
    let at = 1_500;
    bytes[at] ^= 0x10;
    std::fs::write(damaged, &bytes).expect("write the damaged log");
    cluster.nodes[follower].clear_log();
    cluster.nodes[follower].start();
    let log = refused(&mut cluster, follower).await;
    let name = damaged.file_name().and_then(|name| name.to_str()).expect("a file name");
    assert!(log.contains(name) && log.contains("offset"), "names no file and offset: {log}");
    // Nothing was repaired behind the operator's back, and the others serve.
    assert_eq!(std::fs::read(damaged).expect("read the log"), bytes);
    cluster.acquire("still-serving", "me").await;
}
