//! What this node's log, disk and snapshots report.

use ovncp_raft::group::Group;
use prometheus::proto::MetricFamily;

use super::buckets::histogram;
use super::declared::declare;

declare! {
    /// The log and the snapshots of this node.
    STORAGE:
    BATCHES = Counter "ovncp_storage_append_batches_total" {} in "batches",
        "Batches of entries written to the log, each with one write and one fdatasync.",
        night "Entries per batch grow with the load; far below ovncp_storage_append_entries_total is good.";
    ENTRIES = Counter "ovncp_storage_append_entries_total" {} in "entries",
        "Entries written to the log.", night "Its rate is the write load of the cluster, the same on every node.";
    BYTES = Counter "ovncp_storage_append_bytes_total" {} in "bytes",
        "Encoded bytes of these entries.", night "Large entries: a client writes large registers or metadata.";
    SYNCS = Histogram "ovncp_storage_sync_seconds" {} in "seconds",
        "Time of each fdatasync of the log.",
        night "Above 10 ms often: the disk is slow or shared. Writes wait for a majority of these, and elections follow above 100 ms.";
    BUSY = Counter "ovncp_storage_writer_busy_seconds_total" {} in "seconds",
        "Time the log writer was at work, waiting for the disk included.",
        night "A rate near 1: the disk is the bound. Fewer other writers on it, or a faster one.";
    BATCH_AGE = Gauge "ovncp_storage_batch_age_seconds" {} in "seconds",
        "How long the batch under way has been under way; 0 while the writer has nothing to do.",
        night "Above a second the disk hangs; /health/live fails at 30 s. Look at the kernel log.";
    SEGMENTS = Gauge "ovncp_storage_segments" {} in "segments",
        "Segments of the log (8 MiB each) that hold something.",
        night "Growing without end: no snapshot is taken, so nothing is purged. See ovncp_raft_snapshot_index.";
    SNAPSHOT_BYTES = Gauge "ovncp_storage_snapshot_bytes" {} in "bytes",
        "Size of the last snapshot this process built; absent before the first.",
        night "It is what a node that lags far behind must receive.";
    SNAPSHOT_AGE = Gauge "ovncp_storage_snapshot_age_seconds" {} in "seconds",
        "Time since this process last built a snapshot; absent before the first.",
        night "Snapshots come every raft.snapshot_entries entries; old with a high write load: they fail.";
    SNAPSHOT_TOOK = Gauge "ovncp_storage_snapshot_build_seconds" {} in "seconds",
        "Time it took to build it; writes go on meanwhile. Absent before the first.",
        night "Longer than the time between two: raise raft.snapshot_entries.";
    FAILED = Gauge "ovncp_storage_failed" {} in "1",
        "1 once a write or sync of this node has failed: it acknowledges nothing until it is started again.",
        night "ovncp status and the log name the file and the error: full disk, or a broken one. Then restart the node.";
}

/// Every family of this file.
pub(crate) fn families(group: &Group) -> Vec<MetricFamily> {
    let figures = group.storage();
    let bounds: Vec<f64> = figures.syncs.bounds.iter().map(std::time::Duration::as_secs_f64).collect();
    let syncs = histogram(&SYNCS, &[], &bounds, &figures.syncs.counts, figures.syncs.sum.as_secs_f64());
    let mut families = vec![
        BATCHES.value(figures.append_batches as f64),
        ENTRIES.value(figures.append_entries as f64),
        BYTES.value(figures.append_bytes as f64),
        SYNCS.family(vec![syncs]),
        BUSY.value(figures.writer_busy.as_secs_f64()),
        BATCH_AGE.value(figures.batch_age.unwrap_or_default().as_secs_f64()),
        SEGMENTS.value(figures.segments as f64),
        FAILED.value(f64::from(u8::from(group.storage_failed()))),
    ];
    if let Some(snapshot) = figures.snapshot {
        families.push(SNAPSHOT_BYTES.value(snapshot.bytes as f64));
        families.push(SNAPSHOT_AGE.value(snapshot.built.elapsed().as_secs_f64()));
        families.push(SNAPSHOT_TOOK.value(snapshot.took.as_secs_f64()));
    }
    families
}
