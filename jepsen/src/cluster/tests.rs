//! A shell script stands in for the binary: what is tested is the handling of processes.

use std::os::unix::fs::PermissionsExt;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    folder: tempfile::TempDir,
    cluster: Cluster,
    pids: Pids,
}

fn cluster(script: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("node");
    std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let settings = Settings {
        binary,
        logs: folder.path().to_path_buf(),
        peers: "n1=127.0.0.1:7400".to_owned(),
        admin_token: "token".to_owned(),
        environment: vec![("OVNCP_LOG".to_owned(), "debug".to_owned())],
    };
    let (pids, leftovers) = (Pids::default(), Leftovers::begin(folder.path()).unwrap());
    let mut cluster = Cluster::new(settings, Arc::clone(&pids), leftovers);
    let place = Place { listen: "127.0.0.1".into(), advertised: "127.0.0.2".into(), wrapper: Vec::new() };
    cluster.add("n1", &place, &folder.path().join("disk/n1"));
    Fixture { folder, cluster, pids }
}

impl Fixture {
    async fn until_logged(&self, text: &str) -> String {
        let log = self.cluster.node("n1").unwrap().log().to_path_buf();
        let found = async {
            loop {
                let all = std::fs::read_to_string(&log).unwrap_or_default();
                if all.contains(text) {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the line is logged")
    }

    async fn until_ended(&mut self) -> Ended {
        let ended = async {
            loop {
                if let Some(ended) = self.cluster.reap().pop() {
                    return ended;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the node ends")
    }
}

#[tokio::test]
async fn a_node_is_told_who_it_is_and_dies_when_it_is_killed() {
    let mut it = cluster("env; echo started; exec sleep 600");
    it.cluster.start_with("n1", &[("LD_PRELOAD_LIKE".to_owned(), "x".to_owned())]).unwrap();
    let log = it.until_logged("started").await;
    for line in ["NODE_ID=n1", "NODE_IP=127.0.0.2", "OVNCP_LISTEN_ADDRESS=127.0.0.1", "LD_PRELOAD_LIKE=x"] {
        assert!(log.contains(line), "{line} in {log}");
    }
    assert!(log.contains("OVNCP_LOG=debug") && !log.contains("CARGO"), "{log}");
    assert!(it.folder.path().join("disk/n1").is_dir());
    assert_eq!(it.pids.lock().unwrap().get("n1").copied(), it.cluster.pid("n1"));
    assert!(matches!(it.cluster.start_with("n1", &[]), Err(NodeError::Running(_))));

    it.cluster.kill("n1").await.unwrap();
    assert!(!it.cluster.is_running("n1") && it.pids.lock().unwrap().is_empty());
    it.cluster.kill("n1").await.unwrap();
    it.cluster.start_with("n1", &[]).unwrap();
    assert_eq!(it.cluster.node("n1").unwrap().starts(), 2);
}

#[tokio::test]
async fn a_node_that_is_terminated_ends_in_its_own_way() {
    let mut it = cluster("trap 'exit 7' TERM; echo started; while :; do sleep 0.01; done");
    it.cluster.start_with("n1", &[]).unwrap();
    it.until_logged("started").await;
    let ended = it.cluster.terminate("n1").await.unwrap();
    assert_eq!((ended.status.as_str(), ended.clean, ended.expected), ("exit code 7", false, true));
    assert!(matches!(it.cluster.terminate("n1").await, Err(NodeError::NotRunning(_))));
}

#[tokio::test]
async fn a_node_that_ends_by_itself_is_noticed_with_its_last_words() {
    let mut it = cluster("echo 'the disk is broken'; exit 3");
    it.cluster.start_with("n1", &[]).unwrap();
    let ended = it.until_ended().await;
    assert_eq!((ended.node.as_str(), ended.status.as_str(), ended.expected), ("n1", "exit code 3", false));
    assert_eq!(ended.last_words, "the disk is broken\n");
    assert!(it.pids.lock().unwrap().is_empty());
    it.cluster.start_with("n1", &[]).unwrap();
    it.cluster.may_exit("n1");
    assert!(it.until_ended().await.expected);
}

#[tokio::test]
async fn nodes_are_listed_as_they_come_and_go() {
    let mut it = cluster("exec sleep 600");
    let endpoints = it.cluster.endpoints();
    assert_eq!(endpoints.borrow()[0].url, "http://127.0.0.1:8080");
    it.cluster.forget("n1").await.unwrap();
    assert!(endpoints.borrow().is_empty() && it.cluster.names().is_empty());
    assert_eq!(it.cluster.url("n9").unwrap_err().to_string(), "there is no node n9");
}
