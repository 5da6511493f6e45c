//! A real Prometheus scrapes real nodes, also through elections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ovncp::telemetry::metrics::{AREAS, Declared, GUIDE_EXCEPTIONS, Kind};
use ovncp_ovn::lab::{Lab, LabSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Cluster, METRICS_PORT, NodeOptions, PATIENCE, subnet, unique};

/// Scrape jobs over the same nodes. Each takes its time, so that a busy machine fails none; together they scrape
/// all the time, so that some of them meet every election.
const JOBS: usize = 8;
/// Interval and time-out of one job.
const SCRAPE_SECONDS: u64 = 5;

/// Whether the program is there. Its absence fails the test where `tests/setup.sh` could have installed it.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok() {
        return true;
    }
    assert!(
        !Path::new("/etc/debian_version").exists(),
        "{program} is missing: tests/setup.sh (or `make setup`) installs it"
    );
    eprintln!("SKIPPED: {program} is not installed; please install Prometheus, and run this test again");
    false
}

/// A Prometheus of this test.
struct Prometheus {
    child: Child,
    url: String,
    client: reqwest::Client,
    folder: TempDir,
}

impl Prometheus {
    fn start(targets: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let listen = format!("{}.200:9090", subnet());
        let jobs: Vec<_> = (0..JOBS)
            .map(|job| json!({"job_name": format!("ovncp-{job}"), "static_configs": [{"targets": targets}]}))
            .collect();
        let interval = format!("{SCRAPE_SECONDS}s");
        let config = json!({
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": jobs,
        });
        // JSON is YAML.
        std::fs::write(folder.path().join("prometheus.yml"), config.to_string()).expect("configuration");
        let log = File::create(folder.path().join("log")).expect("log file");
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=debug"])
            .arg(format!("--web.listen-address={listen}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log handle"))
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("HTTP client");
        Self { child, url: format!("http://{listen}"), client, folder }
    }

    async fn get(&self, path: &str) -> Option<String> {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }

    /// Results of an instant query: labels and value each.
    async fn query(&self, query: &str) -> Option<Vec<(Value, f64)>> {
        let url = format!("{}/api/v1/query", self.url);
        let url = reqwest::Url::parse_with_params(&url, [("query", query)]).expect("a valid address");
        let answer: Value = self.client.get(url).send().await.ok()?.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let results = answer["data"]["result"].as_array()?.iter();
        let value = |result: &Value| result["value"][1].as_str().and_then(|value| value.parse().ok());
        results.map(|result| Some((result["metric"].clone(), value(result)?))).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of prometheus\n{}", self.log());
        }
    }
}

fn target(cluster: &Cluster, position: usize) -> String {
    format!("{}:{METRICS_PORT}", cluster.nodes[position].options.ip)
}

async fn scrape(cluster: &Cluster, position: usize) -> String {
    let client = &cluster.nodes[position].client;
    let response = client.get(format!("http://{}/metrics", target(cluster, position))).send().await;
    let response = response.expect("a living node answers every scrape");
    assert_eq!(response.status().as_u16(), 200);
    response.text().await.expect("a whole answer")
}

/// Feeds `promtool check metrics` and answers what it complains about.
fn complaints(text: &str) -> Vec<String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()
}

/// Name of a family, type, and the labels of its samples, from the text format.
fn families(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut families = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            current = name.to_owned();
            families.insert(current.clone(), (kind.to_owned(), Vec::new()));
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&current), "{line} stands in the family {current}");
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            let names = labels.map_or(Vec::new(), |(labels, _)| {
                let pairs = labels.split("\",").map(|pair| pair.split('=').next().unwrap_or_default());
                pairs.map(str::to_owned).filter(|name| name != "le" && name != "quantile").collect()
            });
            families.get_mut(&current).expect("announced by its type").1 = names;
        }
    }
    families
}

/// What is shown is what is declared, and what docs/metrics.md therefore says; whether it is all of it.
fn is_all_that_is_declared(texts: &[String]) -> bool {
    let declared: BTreeMap<&str, &Declared> =
        AREAS.iter().flat_map(|(_, area)| area.iter()).map(|metric| (metric.name, *metric)).collect();
    let mut seen = BTreeMap::new();
    for text in texts {
        seen.extend(families(text));
    }
    for (name, (kind, labels)) in &seen {
        let metric = declared.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not declared"));
        let shown = (kind.as_str(), labels.as_slice());
        assert_eq!(shown, (metric.kind.as_str(), &*owned(metric.labels)), "{name}");
    }
    let is_missing = |metric: &&&Declared| !seen.contains_key(metric.name) && !is_of_a_cache(metric);
    let missing: Vec<_> = declared.values().filter(is_missing).map(|metric| metric.name).collect();
    if !missing.is_empty() {
        eprintln!("not shown yet: {missing:?}");
    }
    missing.is_empty()
}

/// A node shows them once somebody has asked for a cached view: what each one shows is tested where it is declared.
fn is_of_a_cache(metric: &Declared) -> bool {
    metric.labels == ["cache"]
}

fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

/// Work on one node that makes it count something of everything. `None` when something came in between, as an
/// election does, or when the node does not count yet.
async fn work(cluster: &Cluster, position: usize) -> Option<()> {
    let node = &cluster.nodes[position];
    let lock = format!("/api/v1/cluster/locks/{}", unique("switch%3A"));
    let held = node.post(&format!("{lock}/acquire"), &json!({"owner": "me"})).await?;
    let proof = json!({"secret": held.body["secret"].as_str()?});
    let refused = node.post(&format!("{lock}/acquire"), &json!({"owner": "you"})).await?;
    let renewed = node.post(&format!("{lock}/renew"), &proof).await?;
    let released = node.post(&format!("{lock}/release"), &proof).await?;
    let said = json!({"patterns": ["switch:*"]});
    let invalidated = node.post("/api/v1/cluster/invalidations", &said).await?;
    let counted = scrape(cluster, position).await;
    let counted = counted.lines().any(|line| {
        let count = line.strip_prefix("ovncp_lock_ends_total{cause=\"released\"} ");
        count.is_some_and(|count| count != "0")
    });
    let statuses = (refused.status, renewed.status, released.status, invalidated.status);
    (statuses == (409, 200, 204, 200) && counted).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_scrapes_every_living_node_through_elections() {
    if !is_installed("prometheus") || !is_installed("promtool") {
        return;
    }
    if !is_installed("ovsdb-server") || !is_installed("ovn-northd") {
        return;
    }
    let directory = tempfile::Builder::new().prefix("net").tempdir_in("/tmp").unwrap();
    let ovn = Lab::start(LabSettings::new(directory.path())).await.expect("a private OVN");
    let (northbound, southbound) = (ovn.northbound()[0].unix_endpoint(), ovn.southbound()[0].unix_endpoint());
    // Every node builds snapshots at once.
    let frequent = |options: &mut NodeOptions| {
        options.set("OVN_NORTHBOUND_DB", &northbound);
        options.set("OVN_SOUTHBOUND_DB", &southbound);
        options.set("OVNCP_RAFT_SNAPSHOT_ENTRIES", "5");
        options.set("OVNCP_RAFT_SNAPSHOT_KEEP", "5");
    };
    let mut cluster = Cluster::start_with(3, frequent).await;
    for position in 0..3 {
        let what = format!("node {position} does and counts its work");
        cluster.until(&what, || work(&cluster, position)).await;
    }
    let targets: Vec<_> = (0..3).map(|position| target(&cluster, position)).collect();
    let prometheus = Prometheus::start(&targets);
    let all_up = || async {
        let up = prometheus.query("up == 1").await?;
        (up.len() == 3 * JOBS).then_some(())
    };
    cluster.until("every target is up", all_up).await;

    let texts = cluster
        .until("together the nodes show whatever is declared", || async {
            let texts = [scrape(&cluster, 0).await, scrape(&cluster, 1).await, scrape(&cluster, 2).await];
            is_all_that_is_declared(&texts).then_some(texts)
        })
        .await;
    for text in &texts {
        let complaints = complaints(text);
        let unexpected =
            |line: &&String| !GUIDE_EXCEPTIONS.iter().any(|name| line.starts_with(&format!("{name} ")));
        let unexpected: Vec<_> = complaints.iter().filter(unexpected).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        assert_eq!(complaints.len(), GUIDE_EXCEPTIONS.len(), "{complaints:?}");
    }
    check_guide(&cluster, &prometheus).await;

    // A planned hand-over, then the death of the leader, with scrapes going on all the time.
    let former = cluster.leader().await;
    let successor = json!({"target": cluster.nodes[(former + 1) % 3].name()});
    cluster
        .until("leadership is handed over", || async {
            let answer = cluster.nodes[former].post("/api/v1/cluster/leader/transfer", &successor).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    let killed = cluster.leader().await;
    cluster.nodes[killed].kill();
    let living: Vec<_> = (0..3).filter(|position| *position != killed).collect();
    cluster
        .until("a living node shows that it leads", || async {
            for position in &living {
                if scrape(&cluster, *position).await.lines().any(|line| line == "ovncp_raft_is_leader 1") {
                    return Some(());
                }
            }
            None
        })
        .await;
    let labels = cluster
        .until("prometheus sees the dead node, and one leader in each job", || async {
            let down = prometheus.query("up == 0").await?;
            let leaders = prometheus.query("count by (job) (ovncp_raft_is_leader == 1)").await?;
            let settled = leaders.len() == JOBS && leaders.iter().all(|(_, count)| *count == 1.0);
            let (labels, _) = prometheus.query("ovncp_raft_is_leader{job=\"ovncp-0\"} == 1").await?.pop()?;
            (settled && down.len() == JOBS).then_some(labels)
        })
        .await;
    assert_ne!(labels["instance"], targets[killed], "{labels}");
    check_no_failed_scrape(&prometheus, &targets, killed).await;
}

/// The guide's names and labels, as a dashboard asks for them.
async fn check_guide(cluster: &Cluster, prometheus: &Prometheus) {
    for (query, count) in [
        ("ovncp_cluster_nodes_total{status=\"active\"} == 3", 3),
        ("ovncp_cluster_node_info{node_id=\"node-1\",hostname=~\".+\",ip=~\"127.+\"} == 1", 3),
        ("ovncp_cluster_leader{node_id=~\"node-.\"} == 1", 3),
        ("ovncp_distributed_locks_acquired_total{node_id=~\"node-.\"}", 3),
        // One node holds the election for the upkeep of OVN.
        ("ovncp_distributed_locks_held{node_id=~\"node-.\"} <= 1", 3),
        ("sum(ovncp_ovn_in_sync{job=\"ovncp-0\"}) == 6", 1),
        ("ovncp_distributed_lock_wait_seconds{quantile=\"0.99\"}", 3),
        ("ovncp_distributed_lock_wait_seconds_sum", 3),
        ("ovncp_distributed_lock_wait_seconds_count", 3),
        // One entry per node in `work`, cleared on each of three.
        ("ovncp_cache_invalidation_events_total{node_id=~\"node-.\"} >= 3", 3),
        ("ovncp_cache_invalidation_latency_seconds{quantile=\"0.99\"}", 3),
        ("ovncp_cache_invalidation_latency_seconds_count >= 1", 3),
        // Each of three nodes ended at least one, and none is counted twice.
        ("sum(ovncp_lock_ends_total{cause=\"released\",job=\"ovncp-0\"}) >= 3", 1),
        (
            "sum(ovncp_lock_ends_total{job=\"ovncp-0\"}) <= sum(ovncp_distributed_locks_acquired_total{job=\"ovncp-0\"})",
            1,
        ),
        ("sum(ovncp_lock_hold_seconds_count{class=\"switch\",job=\"ovncp-0\"}) >= 3", 1),
        ("count(ovncp_raft_peer_lag_entries{job=\"ovncp-0\"}) == 2", 1),
        ("ovncp_raft_state{state=\"leader\"} == 1", 1),
    ] {
        // By instance where the answer is per node, whatever job it came by.
        cluster
            .until(&format!("{count} nodes answer {query}"), || async {
                let seen = prometheus.query(query).await?;
                let instances: BTreeSet<_> =
                    seen.iter().map(|(labels, _)| labels["instance"].to_string()).collect();
                (instances.len() == count).then_some(())
            })
            .await;
    }
    let counters =
        AREAS.iter().flat_map(|(_, area)| area.iter()).filter(|metric| metric.kind == Kind::Counter);
    for metric in counters.filter(|metric| !is_of_a_cache(metric)) {
        let metadata = prometheus.get(&format!("/api/v1/metadata?metric={}", metric.name)).await;
        let metadata: Value = serde_json::from_str(&metadata.expect("metadata")).expect("JSON");
        let known = &metadata["data"][metric.name][0];
        assert_eq!((&known["type"], &known["help"]), (&json!("counter"), &json!(metric.help)), "{metadata}");
    }
}

/// Whatever happened to leaders, each scrape of a living node was taken whole.
async fn check_no_failed_scrape(prometheus: &Prometheus, targets: &[String], killed: usize) {
    for (labels, worst) in prometheus.query("min_over_time(up[1h])").await.expect("an answer") {
        let dead = labels["instance"] == targets[killed];
        assert_eq!(worst, if dead { 0.0 } else { 1.0 }, "{labels}");
    }
    let own = prometheus.get("/metrics").await.expect("prometheus' own metrics");
    for dropped in ["sample_duplicate_timestamp", "sample_out_of_order", "sample_out_of_bounds"] {
        let line = format!("prometheus_target_scrapes_{dropped}_total 0");
        assert!(own.lines().any(|found| found == line), "{dropped}");
    }
}

#[test]
fn alert_rules_are_valid_and_name_real_metrics() {
    if !is_installed("promtool") {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in [["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]] {
        let output =
            Command::new("promtool").args(arguments).current_dir(&folder).output().expect("promtool runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    let rules = std::fs::read_to_string(folder.join("rules.yml")).expect("the rules");
    let declared: Vec<_> = AREAS.iter().flat_map(|(_, area)| area.iter()).map(|metric| metric.name).collect();
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("ovncp_") || word.starts_with("process_")) {
        let name = word.strip_suffix("_bucket").unwrap_or(word);
        assert!(declared.contains(&name), "the rules name {word}, which is no metric");
    }
}
