//! Traces through a real network: what gets through and what does not, what is refused, and what becomes of the daemon.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ovncp_ovn::lab::{Lab, LabSettings, Programs};
use ovncp_ovn::trace::{
    CtFlag, Detail, Freshness, LoadBalancerTarget, MICROFLOW_BYTES_MAX, TraceError, TraceRequest,
    TraceSettings, Tracer,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A switch with two ports. TCP to port 22 of the second is dropped, other IPv4 is allowed.
struct Network {
    // Dropped first to last: the processes, then their directory.
    tracer: Tracer,
    lab: Lab,
    dir: tempfile::TempDir,
}

impl Network {
    /// `None` where OVN is not installed.
    async fn start() -> Option<Network> {
        if let Err(missing) = Programs::find() {
            eprintln!("skipped: {missing}");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("trace").tempdir_in("/tmp").unwrap();
        let lab = Lab::start(LabSettings::new(dir.path())).await.unwrap();
        let mut line = vec!["--wait=sb", "ls-add", "s1"];
        for (port, addresses) in [("p1", "00:00:00:00:00:01 10.0.0.1"), ("p2", "00:00:00:00:00:02 10.0.0.2")]
        {
            line.extend(["--", "lsp-add", "s1", port, "--", "lsp-set-addresses", port, addresses]);
        }
        let acl = ["--", "acl-add", "s1", "to-lport"];
        line.extend([&acl[..], &["1000", "outport == \"p2\" && tcp.dst == 22", "drop"]].concat());
        line.extend([&acl[..], &["900", "outport == \"p2\" && ip4", "allow-related"]].concat());
        lab.nbctl(&line).await.unwrap();
        let tracer = Tracer::new(settings(&lab, dir.path()));
        Some(Network { tracer, lab, dir })
    }

    async fn now(&self, request: &TraceRequest) -> Result<ovncp_ovn::trace::Trace, TraceError> {
        self.tracer.trace(request, Freshness::Now).await
    }
}

fn settings(lab: &Lab, dir: &Path) -> TraceSettings {
    TraceSettings::new(lab.southbound()[0].unix_endpoint(), dir.join("trace"))
}

fn tcp_to(port: u16) -> TraceRequest {
    TraceRequest {
        datapath: Some("s1".to_owned()),
        microflow: format!(
            "inport == \"p1\" && eth.src == 00:00:00:00:00:01 && eth.dst == 00:00:00:00:00:02 && \
             ip4.src == 10.0.0.1 && ip4.dst == 10.0.0.2 && ip.ttl == 64 && tcp && tcp.dst == {port}"
        ),
        ..TraceRequest::default()
    }
}

async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Also when nobody has collected it.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[tokio::test]
async fn allowed_and_dropped_packets_are_told_apart() {
    let Some(network) = Network::start().await else { return };
    let allowed = network.now(&tcp_to(80)).await.unwrap();
    assert_eq!(allowed.summary.outputs, ["p2"], "{}", allowed.text);
    assert!(allowed.summary.packet.contains("tp_dst=80"), "{}", allowed.summary.packet);
    assert!(allowed.text.contains("ingress(dp=") && !allowed.text.contains("priority"), "{}", allowed.text);

    let detailed = TraceRequest { detail: Detail::Detailed, ..tcp_to(22) };
    let dropped = network.now(&detailed).await.unwrap();
    assert!(dropped.summary.is_dropped(), "{}", dropped.text);
    let last = dropped.summary.steps.last().unwrap();
    assert!(last.name.starts_with("ls_out_acl"), "{last:?}");
    assert!(last.matched.as_ref().unwrap().contains("tcp.dst == 22"), "{last:?}");
    assert_eq!(last.pipeline.direction, "egress");
    assert_eq!(last.pipeline.outport.as_deref(), Some("p2"));
    assert!(dropped.text.contains("priority"), "{}", dropped.text);

    // Without a datapath it is that of the inport.
    let anywhere = TraceRequest { datapath: None, detail: Detail::Minimal, ..tcp_to(80) };
    let allowed = network.now(&anywhere).await.unwrap();
    assert_eq!(allowed.summary.outputs, ["p2"]);
    assert!(!allowed.text.contains("ingress"), "{}", allowed.text);
}

#[tokio::test]
async fn answer_is_of_the_network_as_it_is_now() {
    let Some(network) = Network::start().await else { return };
    let known = Freshness::AsOf(Arc::from("first"));
    assert!(network.tracer.trace(&tcp_to(22), known.clone()).await.unwrap().summary.is_dropped());
    let first = network.tracer.daemon_pid().await.unwrap();
    network.lab.nbctl(&["--wait=sb", "acl-del", "s1"]).await.unwrap();

    // The caller knows nothing newer: the same daemon.
    network.tracer.trace(&tcp_to(22), known).await.unwrap();
    assert_eq!(network.tracer.daemon_pid().await, Some(first));

    let known = Freshness::AsOf(Arc::from("second"));
    assert_eq!(network.tracer.trace(&tcp_to(22), known.clone()).await.unwrap().summary.outputs, ["p2"]);
    let second = network.tracer.daemon_pid().await.unwrap();
    assert_ne!(second, first);
    network.tracer.trace(&tcp_to(22), known).await.unwrap();
    assert_eq!(network.tracer.daemon_pid().await, Some(second), "nothing changed, nothing starts");
    network.now(&tcp_to(22)).await.unwrap();
    assert_ne!(network.tracer.daemon_pid().await, Some(second));
    eventually("replaced daemons are gone", || !exists(first) && !exists(second)).await;
}

#[tokio::test]
async fn mistakes_name_their_field() {
    let Some(network) = Network::start().await else { return };
    let refused = async |request: TraceRequest| match network.now(&request).await.unwrap_err() {
        TraceError::Invalid(invalid) => (invalid.field, invalid.reason),
        other => panic!("{other:?} for {request:?}"),
    };
    let with = |microflow: &str| TraceRequest { microflow: microflow.to_owned(), ..tcp_to(80) };
    let (field, reason) = refused(TraceRequest { datapath: Some("nosuch".to_owned()), ..tcp_to(80) }).await;
    assert_eq!((field, reason.as_str()), ("datapath", "unknown datapath \"nosuch\""));
    let (field, reason) = refused(with("inport == \"p1\" && tcp.dst == ")).await;
    assert_eq!(field, "microflow");
    assert!(reason.contains("Syntax error"), "{reason}");
    let (field, _) = refused(TraceRequest { datapath: None, ..with("inport == \"nosuch\" && ip4") }).await;
    assert_eq!(field, "microflow");
    // These end the daemon of OVN 23.03.
    let (field, reason) = refused(with("ip4")).await;
    assert_eq!(field, "microflow");
    assert!(reason.contains("inport") || reason.contains("ingress port"), "{reason}");
    // None of these ever reaches it.
    for smuggled in ["--all", "-x", "", "ip4\0"] {
        assert_eq!(refused(with(smuggled)).await.0, "microflow");
        assert_eq!(
            refused(TraceRequest { datapath: Some(smuggled.into()), ..tcp_to(80) }).await.0,
            "datapath"
        );
    }
    assert_eq!(refused(with(&"(".repeat(MICROFLOW_BYTES_MAX + 1))).await.0, "microflow");
    // As deep as it gets: no matter what ovn-trace makes of it, the next one is answered.
    let _ = network.now(&with(&"(".repeat(MICROFLOW_BYTES_MAX))).await;
    assert_eq!(network.now(&tcp_to(80)).await.unwrap().summary.outputs, ["p2"]);
}

#[tokio::test]
async fn connection_tracking_state_is_for_one_request() {
    let Some(network) = Network::start().await else { return };
    let known = Freshness::AsOf(Arc::from("same"));
    let usual = network.tracer.trace(&tcp_to(80), known.clone()).await.unwrap();
    let pid = network.tracer.daemon_pid().await;
    let state = vec![CtFlag::Trk, CtFlag::New];
    let fresh = TraceRequest { ct: vec![state.clone(), state], ..tcp_to(80) };
    for _ in 0..2 {
        let text = network.tracer.trace(&fresh, known.clone()).await.unwrap().text;
        assert_eq!(text.matches("ct_state=new|trk").count(), 2, "{text}");
    }
    assert_eq!(network.tracer.trace(&tcp_to(80), known.clone()).await.unwrap(), usual);
    assert_eq!(network.tracer.daemon_pid().await, pid, "the shared one was not touched");
    let target = LoadBalancerTarget { address: "10.0.0.2".parse().unwrap(), port: Some(8080) };
    let balanced = TraceRequest { lb_dst: Some(target), ..tcp_to(80) };
    assert_eq!(network.tracer.trace(&balanced, known).await.unwrap().summary.outputs, ["p2"]);
}

#[tokio::test]
async fn killed_daemon_is_replaced_and_none_is_left() {
    let Some(network) = Network::start().await else { return };
    let known = Freshness::AsOf(Arc::from("same"));
    network.tracer.trace(&tcp_to(80), known.clone()).await.unwrap();
    let first = network.tracer.daemon_pid().await.unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The one that finds it gone is answered all the same.
    assert_eq!(network.tracer.trace(&tcp_to(80), known.clone()).await.unwrap().summary.outputs, ["p2"]);
    network.tracer.trace(&tcp_to(80), known).await.unwrap();
    let second = network.tracer.daemon_pid().await.unwrap();
    assert_ne!(first, second);
    let Network { tracer, lab, dir } = network;
    drop(tracer);
    eventually("both are gone", || !exists(first) && !exists(second)).await;
    let folder = dir.path().join("trace");
    eventually("nothing is left", || std::fs::read_dir(&folder).unwrap().next().is_none()).await;
    drop(lab);
}

#[tokio::test]
async fn many_at_once_share_a_daemon_and_one_mistake_hurts_nobody_else() {
    let Some(network) = Network::start().await else { return };
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..12 {
        let tracer = network.tracer.clone();
        let bad = number % 4 == 3;
        let request =
            if bad { TraceRequest { microflow: "ip4".to_owned(), ..tcp_to(80) } } else { tcp_to(80) };
        tasks.spawn(async move { (bad, tracer.trace(&request, Freshness::Now).await) });
    }
    while let Some(joined) = tasks.join_next().await {
        match joined.unwrap() {
            (false, answer) => assert_eq!(answer.unwrap().summary.outputs, ["p2"]),
            (true, Err(TraceError::Invalid(invalid))) => assert_eq!(invalid.field, "microflow"),
            (true, other) => panic!("{other:?}"),
        }
    }
    let narrow =
        Tracer::new(TraceSettings { concurrent_max: 0, ..settings(&network.lab, network.dir.path()) });
    let busy = narrow.trace(&tcp_to(80), Freshness::Now).await.unwrap_err();
    assert!(matches!(busy, TraceError::Busy { max: 0 }), "{busy}");
}

#[tokio::test]
async fn missing_database_and_missing_program_are_told() {
    let Some(network) = Network::start().await else { return };
    let nowhere = format!("unix:{}", network.dir.path().join("nowhere.sock").display());
    let mut away = TraceSettings::new(nowhere.clone(), network.dir.path().join("away"));
    away.timeout = Duration::from_secs(1);
    let tracer = Tracer::new(away.clone());
    let error = tracer.trace(&tcp_to(80), Freshness::Now).await.unwrap_err();
    assert!(matches!(&error, TraceError::Unavailable { reason } if reason.contains(&nowhere)), "{error}");
    // Told at once while it waits before the next try.
    let error = tracer.trace(&tcp_to(80), Freshness::Now).await.unwrap_err();
    assert!(matches!(error, TraceError::Unavailable { .. }), "{error}");
    eventually("the starts were given up", || std::fs::read_dir(&away.dir).unwrap().next().is_none()).await;

    let other = TraceSettings { program: Some(PathBuf::from("/nonexistent/ovn-trace")), ..away };
    let error = Tracer::new(other).trace(&tcp_to(80), Freshness::Now).await.unwrap_err();
    assert!(matches!(error, TraceError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn idle_daemon_is_ended_and_comes_back() {
    let Some(network) = Network::start().await else { return };
    let idle_max = Duration::from_millis(100);
    let tracer = Tracer::new(TraceSettings { idle_max, ..settings(&network.lab, network.dir.path()) });
    for _ in 0..2 {
        assert_eq!(tracer.trace(&tcp_to(80), Freshness::Now).await.unwrap().summary.outputs, ["p2"]);
        let begun = Instant::now();
        while tracer.daemon_pid().await.is_some() {
            assert!(begun.elapsed() < PATIENCE, "it stays though nobody asks");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Says where the network of the other process shall be.
const OTHER: &str = "OVNCP_TEST_TRACE_OWNER";

/// No test by itself: the process that `daemon_ends_with_the_process_that_owns_it` kills.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn owner_of_a_daemon() {
    if std::env::var_os(OTHER).is_none() {
        return;
    }
    let network = Network::start().await.unwrap();
    network.now(&tcp_to(80)).await.unwrap();
    println!("\npid {} {}", network.tracer.daemon_pid().await.unwrap(), network.dir.path().display());
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn daemon_ends_with_the_process_that_owns_it() {
    if let Err(missing) = Programs::find() {
        return eprintln!("skipped: {missing}");
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_of_a_daemon", "--ignored", "--nocapture"])
        .env(OTHER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said =
        lines.filter_map(|line| Some(line.strip_prefix("pid ")?.to_owned())).next().expect("it started");
    let (pid, dir) = said.split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();
    assert!(is_running(pid));
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the daemon ends with its owner", || !is_running(pid)).await;
    let folder = Path::new(dir).join("trace");
    eventually("nothing is left", || std::fs::read_dir(&folder).unwrap().next().is_none()).await;
    std::fs::remove_dir_all(dir).unwrap();
}
