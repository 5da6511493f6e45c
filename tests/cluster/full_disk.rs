//! A full disk: no acknowledged write is lost, the node says why, and it serves again once there is room.

use std::path::Path;
use std::process::Command;

use crate::support::{Cluster, unique};

/// A small file system in memory, unmounted at the end.
struct SmallDisk<'a> {
    folder: &'a Path,
}

impl<'a> SmallDisk<'a> {
    /// `None` where mounting is not possible (not root, or a container without the right).
    fn mount(folder: &'a Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("mount point");
        let options = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { folder })
    }

    /// Leaves no free byte, and returns the file that does so.
    fn fill(&self) -> std::path::PathBuf {
        use std::io::Write;
        let path = self.folder.join("somebody-elses-file");
        let mut file = std::fs::File::create(&path).expect("filler");
        let block = vec![0_u8; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: a node may still have files open when a test fails.
        let _ = Command::new("umount").arg("-l").arg(self.folder).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_a_full_disk_stops_acknowledging_and_recovers_with_room() {
    let mut cluster = Cluster::prepare(3, |_| {});
    let folder = cluster.nodes[2].data_dir().to_path_buf();
    let Some(disk) = SmallDisk::mount(&folder, 64) else {
        eprintln!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    cluster.nodes.iter_mut().for_each(crate::support::Node::start);
    cluster.all_ready().await;
    let filler = disk.fill();

    // Write until the full node has used up what it had set aside and says so; the other two go on.
    let value = vec![b'x'; 60_000];
    let mut written = 0_u32;
    let start = tokio::time::Instant::now();
    loop {
        let path = format!("/api/v1/cluster/kv/bulk-{written}");
        let answer = cluster.nodes[0].put(&path, &value, &[]).await;
        if answer.is_some_and(|answer| matches!(answer.status, 200 | 201 | 204)) {
            written += 1;
        }
        let ready = cluster.nodes[2].get("/health/ready").await;
        match ready {
            Some(answer) if answer.status == 503 => {
                let text = answer.body.to_string().to_lowercase();
                if text.contains("full") || text.contains("space") {
                    break;
                }
            }
            // A node that stops its process over it must say why, too.
            None if cluster.nodes[2].log().contains("space") => break,
            _ => {}
        }
        assert!(start.elapsed() < crate::support::PATIENCE, "never full after {written} writes");
    }
    assert!(written > 0);
    let probe = unique("others-serve");
    cluster
        .until("the other two still serve", || async {
            let answer = cluster.nodes[0].put(&format!("/api/v1/cluster/kv/{probe}"), b"1", &[]).await?;
            matches!(answer.status, 200 | 201 | 204).then_some(())
        })
        .await;

    // Room again: by itself, or with one restart.
    std::fs::remove_file(filler).expect("make room");
    if cluster.nodes[2].ended().is_none() && !cluster.nodes[2].is_ready().await {
        cluster.nodes[2].terminate();
    }
    if !cluster.nodes[2].is_running() {
        cluster.nodes[2].start();
    }
    cluster.all_ready().await;
    cluster.converged().await;
    for number in 0..written {
        let path = format!("/api/v1/cluster/kv/bulk-{number}?consistency=local");
        let answer = cluster.nodes[2].get(&path).await.expect("an answer");
        assert_eq!(answer.status, 200, "acknowledged write {number} of {written} is lost");
    }
    drop(cluster);
}
