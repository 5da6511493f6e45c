//! A real HAProxy and a real Nginx, with the configurations of `deploy/`, in front of three real nodes: sessions stay
//! where they are, move when their node is drained, and come back when it is killed. No message is lost or doubled.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::support::socket::{Heard, Socket};
use crate::support::{Cluster, HTTP_PORT, PATIENCE, subnet, unique};

/// The channel of the tests.
const CHANNEL: &str = "orders";
/// Messages before and after each thing that happens to the client's node.
const MESSAGES: u64 = 40;
/// Sessions whose affinity is looked at.
const SESSIONS: usize = 6;
/// Between two messages: they must meet the events, not precede them.
const SPACING: Duration = Duration::from_millis(20);

/// A proxy of this test.
struct Proxy {
    child: Child,
    authority: String,
    folder: TempDir,
}

impl Proxy {
    fn haproxy(cluster: &Cluster) -> Option<Self> {
        let authority = format!("{}.200:{HTTP_PORT}", subnet());
        let mut command = program("haproxy", "-v")?;
        command.arg("-db").arg("-f").arg(deploy("haproxy/haproxy.cfg"));
        command.env("OVNCP_HTTP_BIND", &authority);
        command.env("OVNCP_STATS_BIND", authority.replace(&HTTP_PORT.to_string(), "8404"));
        for (number, node) in (1..).zip(&cluster.nodes) {
            command.env(format!("OVNCP_NODE_{number}"), format!("{}:{HTTP_PORT}", node.options.ip));
        }
        Some(Self::start(command, authority, tempfile::tempdir().expect("temporary folder")))
    }

    fn nginx(cluster: &Cluster) -> Option<Self> {
        let authority = format!("{}.200:{HTTP_PORT}", subnet());
        let mut command = program("nginx", "-v")?;
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = std::fs::read_to_string(deploy("nginx/nginx.conf")).expect("configuration");
        for (number, node) in (1..).zip(&cluster.nodes) {
            let address = format!("{}:{HTTP_PORT}", node.options.ip);
            config = config.replace(&format!("ovncp-{number}:8080"), &address);
        }
        config = config.replace("listen 80;", &format!("listen {authority};"));
        // Only where it may write differs from how it is shipped.
        let place = folder.path().display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = kinds.iter().map(|kind| format!("{kind}_temp_path {place}/{kind}; ")).collect();
        config = config.replacen("http {", &format!("http {{ access_log off; {paths}"), 1);
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).expect("configuration");
        command.arg("-p").arg(folder.path()).arg("-c").arg(file);
        let globals = format!("daemon off; master_process off; error_log stderr; pid {place}/pid;");
        command.arg("-g").arg(globals);
        Some(Self::start(command, authority, folder))
    }

    fn start(mut command: Command, authority: String, folder: TempDir) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).expect("log file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log handle")).stderr(log);
        Self { child: command.spawn().expect("the proxy starts"), authority, folder }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- log of the proxy\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// Its absence fails the test where `tests/setup.sh` could have installed it.
fn program(name: &str, version: &str) -> Option<Command> {
    // Debian keeps them where only root looks.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let make = || {
        let mut command = Command::new(name);
        command.env("PATH", &path);
        command
    };
    let found = make().arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok() {
        return Some(make());
    }
    assert!(
        !Path::new("/etc/debian_version").exists(),
        "{name} is missing: tests/setup.sh (or `make setup`) installs it"
    );
    eprintln!("SKIPPED: {name} is not installed; please install it, and run this test again");
    None
}

/// Path and query of an address.
fn path_of(url: &str) -> String {
    let Some((_, rest)) = url.split_once("://") else { return url.to_owned() };
    rest.find('/').map_or_else(|| "/".to_owned(), |slash| rest[slash..].to_owned())
}

/// What the client has lived through.
#[derive(Clone, Debug, Default)]
struct Life {
    node: String,
    session: String,
    subscribed: bool,
    migrations: u64,
    resumes: u64,
}

/// A client that follows [`CHANNEL`] through one proxy, whatever happens; it tells each message it gets.
async fn follow(authority: Arc<str>, life: watch::Sender<Life>, heard: mpsc::Sender<(u64, Value)>) {
    let mut path = format!("/ws?user={}", unique("user"));
    let mut next = None::<u64>;
    loop {
        let mut socket = Socket::open(&authority, &path).await;
        let resume = socket.welcomed("resume_url").to_owned();
        life.send_modify(|life| {
            life.node = socket.welcomed("node_id").to_owned();
            life.session = socket.welcomed("session_id").to_owned();
            life.resumes += u64::from(socket.welcome["resumed"] == true);
        });
        if !life.borrow().subscribed {
            socket.subscribe(CHANNEL).await;
            life.send_modify(|life| life.subscribed = true);
        }
        let mut target = resume;
        while let Heard::Frame(frame) = socket.next().await {
            match frame["type"].as_str() {
                Some("event") => {
                    let offset = frame["offset"].as_str().expect("an offset").parse().expect("a number");
                    next = Some(offset + 1);
                    if heard.send((offset, frame["data"].clone())).await.is_err() {
                        return;
                    }
                }
                Some("migrate") => {
                    target = path_of(frame["url"].as_str().expect("an address"));
                    life.send_modify(|life| life.migrations += 1);
                    break;
                }
                Some("reset" | "error") => panic!("{frame}"),
                _ => {}
            }
        }
        let joint = if target.contains('?') { '&' } else { '?' };
        path = next.map_or_else(|| target.clone(), |next| format!("{target}{joint}since={next}"));
    }
}

/// Publishes a message through any node; a retry carries the same key.
async fn publish(cluster: &Cluster, number: u64) -> u64 {
    let key = unique("publish");
    let body = json!({"to": {"channel": CHANNEL}, "data": {"number": number}});
    cluster
        .until("a message is published", || async {
            for node in cluster.nodes.iter().filter(|node| node.is_running()) {
                let answer = node.post_with_key("/api/v1/cluster/messages", &body, &key).await;
                if let Some(answer) = answer.filter(|answer| answer.status == 200 || answer.status == 201) {
                    return answer.body["offset"].as_str().and_then(|offset| offset.parse().ok());
                }
            }
            None
        })
        .await
}

async fn publish_some(cluster: &Cluster, published: &mut Vec<(u64, Value)>) {
    for _ in 0..MESSAGES {
        let number = published.len() as u64;
        published.push((publish(cluster, number).await, json!({"number": number})));
        tokio::time::sleep(SPACING).await;
    }
}

fn position(cluster: &Cluster, name: &str) -> usize {
    cluster.nodes.iter().position(|node| node.name() == name).expect("a node of this cluster")
}

/// New clients that come back with what they were given land where they were.
async fn sessions_stay(proxy: &Proxy, by_session_alone: bool) {
    for _ in 0..SESSIONS {
        let mut path = format!("/ws?user={}", unique("user"));
        let (mut node, mut session) = (None::<String>, None::<String>);
        for _ in 0..3 {
            let socket = Socket::open(&proxy.authority, &path).await;
            if let (Some(node), Some(session)) = (&node, &session) {
                assert_eq!(socket.welcomed("node_id"), node, "{path}");
                assert_eq!(socket.welcomed("session_id"), session, "{path}");
                assert_eq!(socket.welcome["resumed"], true, "{}", socket.welcome);
            }
            node = Some(socket.welcomed("node_id").to_owned());
            session = Some(socket.welcomed("session_id").to_owned());
            path = if by_session_alone {
                format!("/ws?session={}", socket.welcomed("session_id"))
            } else {
                path_of(socket.welcomed("resume_url"))
            };
        }
    }
}

async fn lives(seen: &mut watch::Receiver<Life>, what: &str, condition: impl FnMut(&Life) -> bool) {
    let seen = tokio::time::timeout(PATIENCE, seen.wait_for(condition)).await;
    seen.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}")).expect("the client lives");
}

async fn through(cluster: &mut Cluster, proxy: &Proxy) {
    let (life, mut seen) = watch::channel(Life::default());
    let (heard, mut messages) = mpsc::channel(1_024);
    let client = tokio::spawn(follow(proxy.authority.as_str().into(), life, heard));
    let mut published = Vec::new();
    lives(&mut seen, "the client subscribes", |life| life.subscribed).await;

    publish_some(cluster, &mut published).await;
    let first = seen.borrow().node.clone();

    // Its node is drained: the client is told, goes, and nobody is sent there any more.
    let drained = position(cluster, &first);
    let drain = format!("/api/v1/cluster/nodes/{first}/drain");
    let answer = cluster.nodes[drained].post(&drain, &json!({})).await.expect("an answer");
    assert!(answer.status < 300, "{answer:?}");
    publish_some(cluster, &mut published).await;
    lives(&mut seen, "the client leaves the drained node", |life| life.migrations > 0 && life.node != first)
        .await;
    for _ in 0..SESSIONS {
        let socket = Socket::open(&proxy.authority, &format!("/ws?user={}", unique("user"))).await;
        assert_ne!(socket.welcomed("node_id"), first, "a draining node takes no sessions");
    }
    cluster
        .until("the drain is done", || async {
            let answer = cluster.nodes[drained].get(&drain).await?;
            (answer.status == 200 && answer.body["left"] == 0).then_some(())
        })
        .await;
    let resume = format!("/api/v1/cluster/nodes/{first}/resume");
    let answer = cluster.nodes[drained].post(&resume, &json!({})).await.expect("an answer");
    assert!(answer.status < 300, "{answer:?}");
    cluster.all_ready().await;

    // Its node dies.
    let second = seen.borrow().node.clone();
    let resumes = seen.borrow().resumes;
    let killed = position(cluster, &second);
    cluster.nodes[killed].kill();
    publish_some(cluster, &mut published).await;
    lives(&mut seen, "the client resumes elsewhere", |life| life.resumes > resumes && life.node != second)
        .await;
    publish_some(cluster, &mut published).await;
    cluster.nodes[killed].start();
    cluster.all_ready().await;

    let mut received = Vec::new();
    while received.len() < published.len() {
        let message = tokio::time::timeout(PATIENCE, messages.recv()).await;
        let message = message.unwrap_or_else(|_| {
            panic!("{} of {} messages arrived: {:?}", received.len(), published.len(), received.last())
        });
        received.push(message.expect("the client lives"));
    }
    assert_eq!(received, published, "every message once and in order");
    // One that was doubled would come now, with the next one.
    let last = (publish(cluster, u64::MAX).await, json!({"number": u64::MAX}));
    let message = tokio::time::timeout(PATIENCE, messages.recv()).await.expect("in time");
    assert_eq!(message, Some(last));
    client.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_keeps_moves_and_resumes_sessions() {
    let mut cluster = Cluster::start(3).await;
    let Some(proxy) = Proxy::haproxy(&cluster) else { return };
    sessions_stay(&proxy, true).await;
    sessions_stay(&proxy, false).await;
    through(&mut cluster, &proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_keeps_moves_and_resumes_sessions() {
    let mut cluster = Cluster::start(3).await;
    let Some(proxy) = Proxy::nginx(&cluster) else { return };
    sessions_stay(&proxy, false).await;
    through(&mut cluster, &proxy).await;
}
