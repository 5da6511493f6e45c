//! What is made of OVN's databases: the topology, the stream of changes, backup and restore, the southbound views.

use std::time::Duration;

use ovncp_ovn::lab::{Lab, LabSettings, Members, Programs};
use reqwest::Method;
use serde_json::{Value, json};

use crate::network::Setup;
use crate::socket::Socket;
use crate::support::{Net, TestNode};

const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! setup {
    () => {
        match Setup::start().await {
            Some(setup) => setup,
            None => return,
        }
    };
}

/// A stream of changes, read block by block.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(setup: &Setup, query: &str, last: Option<&str>) -> Self {
        Self::at(&setup.node, query, last).await
    }

    async fn at(node: &TestNode, query: &str, last: Option<&str>) -> Self {
        let call = node.call(Method::GET, &format!("/api/v1/ovn/events{query}"));
        let call = if let Some(last) = last { call.header("last-event-id", last) } else { call };
        let response = call.open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = Self { response, text: String::new() };
        let (_, kind, _) = stream.block().await;
        assert_eq!(kind, "", "the first block only says where the stream is");
        stream
    }

    /// `id`, `event` and `data` of the next block.
    async fn block(&mut self) -> (String, String, Value) {
        let next = async {
            loop {
                if let Some((block, rest)) = self.text.split_once("\n\n") {
                    let field = |name: &str| {
                        block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
                    };
                    let data = serde_json::from_str(field("data: ")).unwrap_or_default();
                    let block = (field("id: ").to_owned(), field("event: ").to_owned(), data);
                    self.text = rest.to_owned();
                    return block;
                }
                let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a block")
    }

    /// The next change of this kind. ovn-northd writes, too: whether ports are up, and its options.
    async fn change(&mut self, op: &str, table: &str) -> (String, Value) {
        loop {
            let (id, kind, data) = self.block().await;
            if kind == op && (table.is_empty() || data["table"] == table) {
                return (id, data);
            }
        }
    }
}

const NETWORK: [&str; 3] = [
    "ls-add blue -- lsp-add blue vm1 -- ls-add green -- lsp-add green vm2",
    "lr-add r -- lrp-add r r-blue 02:00:00:00:01:01 10.0.1.1/24 -- lrp-add r r-green 02:00:00:00:02:01 10.0.2.1/24",
    "lsp-add blue blue-r -- lsp-set-type blue-r router -- lsp-set-options blue-r router-port=r-blue \
     -- lsp-add green green-r -- lsp-set-type green-r router -- lsp-set-options green-r router-port=r-green",
];

async fn nbctl(setup: &Setup, words: &str) {
    setup.nbctl(&words.split_whitespace().collect::<Vec<_>>()).await;
}

async fn network(setup: &Setup) {
    for words in NETWORK {
        nbctl(setup, words).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_topology_has_links_ways_and_loose_ends() {
    let setup = setup!();
    network(&setup).await;
    let topology = setup.get("/topology").await.expect(200);
    let mut nodes = names(&topology["nodes"]);
    nodes.sort_unstable();
    assert_eq!((nodes, topology["links"].as_array().unwrap().len()), (vec!["blue", "green", "r"], 2));
    assert_eq!((&topology["dangling"], &topology["ports"]), (&json!([]), &Value::Null));
    let with_ports = setup.get("/topology?detail=ports,load_balancers").await.expect(200);
    assert_eq!(with_ports["ports"].as_array().unwrap().len(), 6);

    let path = setup.get("/topology/path?from=vm1&to=vm2").await.expect(200);
    let hops = ["vm1", "blue", "blue-r", "r-blue", "r", "r-green", "green-r", "green", "vm2"];
    assert_eq!((&path["connected"], names(&path["hops"])), (&json!(true), hops.to_vec()));

    // What anybody changes is seen by the very next read, though the graph is cached.
    for round in 0..20 {
        nbctl(&setup, &format!("lsp-add blue more{round}")).await;
        let ports = setup.get("/topology").await.expect(200)["nodes"].clone();
        let blue = ports.as_array().unwrap().iter().find(|node| node["name"] == "blue").unwrap().clone();
        assert_eq!(blue["ports"], 3 + round);
    }
    nbctl(&setup, "lrp-del r-green").await;
    let topology = setup.get("/topology").await.expect(200);
    let loose = &topology["dangling"][0];
    assert_eq!(
        (&loose["port_name"], &loose["problem"], &loose["names"]),
        (&json!("green-r"), &json!("missing_router_port"), &json!("r-green"))
    );
    let path = setup.get("/topology/path?from=vm1&to=vm2").await.expect(200);
    assert_eq!((&path["connected"], &path["reason"]), (&json!(false), &json!("not_connected")));

    let unknown = setup.get("/topology/path?from=vm1&to=nobody").await.problem(404, "unknown_resource");
    assert_eq!(unknown["field"], "to");
    setup.get("/topology?detail=everything").await.problem(422, "invalid_argument");
    setup.get("/topology/path?from=vm1").await.problem(400, "malformed_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_anybody_are_told_in_order_and_resumed() {
    let setup = setup!();
    let mut all = Stream::open(&setup, "", None).await;
    let mut ports = Stream::open(&setup, "?tables=Logical_Switch_Port", None).await;
    let mut socket = Socket::open(&setup.node, "").await;
    socket.ask(json!({"type": "subscribe", "channels": ["ovn"]}), "subscribed").await;

    setup.nbctl(&["ls-add", "blue"]).await;
    let (first, data) = all.change("insert", "Logical_Switch").await;
    assert_eq!((&data["name"], &data["columns"]), (&json!("blue"), &json!(["name"])));
    let mut heard = socket.event("ovn").await;
    while heard["table"] != "Logical_Switch" {
        heard = socket.event("ovn").await;
    }
    assert_eq!(heard, data, "the same over both");
    // Who was told reads what is new.
    let topology = setup.get("/topology?consistency=local").await.expect(200);
    assert_eq!(names(&topology["nodes"]), ["blue"]);

    setup.nbctl(&["lsp-add", "blue", "p"]).await;
    assert_eq!(ports.change("insert", "Logical_Switch_Port").await.1["name"], "p");
    // Two rows of one transaction: who has seen the first of them is told both again.
    let mut resumed = Stream::open(&setup, "?tables=Logical_Switch,Logical_Switch_Port", Some(&first)).await;
    let told = [resumed.block().await, resumed.block().await];
    let position = told[0].2["position"].as_str().unwrap();
    assert_eq!(told[1].2["position"], position, "{told:?}");
    assert_ne!(told[0].0, position, "{told:?}");
    let mut tables = told.each_ref().map(|(_, kind, data)| (kind.as_str(), data["table"].as_str().unwrap()));
    tables.sort_unstable();
    assert_eq!(tables, [("insert", "Logical_Switch_Port"), ("update", "Logical_Switch")]);
    let mut again = Stream::open(&setup, "?tables=Logical_Switch_Port", Some(&told[0].0)).await;
    assert_eq!(again.change("insert", "Logical_Switch_Port").await.1["name"], "p");

    setup.nbctl(&["ls-del", "blue"]).await;
    let (_, data) = ports.change("delete", "Logical_Switch_Port").await;
    assert_eq!((&data["name"], &data["columns"]), (&json!("p"), &json!([])));

    let mut lost = Stream::open(&setup, "?since=00000000-0000-0000-0000-00000000abcd", None).await;
    assert_eq!(lost.block().await.1, "reset");
    setup.nbctl(&["ls-add", "green"]).await;
    assert_eq!(lost.change("insert", "Logical_Switch").await.1["name"], "green", "it goes on");
    setup.get("/ovn/events?since=nonsense").await.problem(422, "invalid_argument");
    setup.get("/ovn/events?tables=Teapot").await.problem(422, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_back_and_what_is_broken_does_not() {
    let setup = setup!();
    network(&setup).await;
    // What ovn-northd writes at its start is in the backup, too.
    setup.nbctl(&["--wait=sb", "sync"]).await;
    let backup = setup.get("/ovn/backup").await.expect(200);
    let shown = setup.nbctl(&["show"]).await;
    nbctl(&setup, "ls-del blue -- lr-del r -- ls-add later -- set logical_switch green name=red").await;
    let changed = setup.nbctl(&["show"]).await;

    let plan = setup.post("/ovn/restore?dry_run=true", backup.clone()).await.expect(200);
    assert_eq!((&plan["dry_run"], &plan["updated"], &plan["deleted"]), (&json!(true), &json!(1), &json!(1)));
    let changes = plan["changes"].as_array().unwrap();
    let renamed = changes.iter().find(|change| change["action"] == "update").unwrap();
    assert_eq!(renamed["columns"], json!({"name": {"before": "red", "after": "green"}}));
    assert_eq!(setup.nbctl(&["show"]).await, changed, "nothing was done");

    let mut other = backup.clone();
    other["tables"]["Logical_Switch"][0]["name"] = json!("forged");
    let refused = setup.post("/ovn/restore", other).await.problem(422, "invalid_resource");
    assert!(refused["stated"].as_str().unwrap().starts_with("sha256:"), "{refused}");
    setup.post("/ovn/restore", json!({"tables": {}})).await.problem(422, "invalid_resource");
    let call = setup.call(Method::POST, "/ovn/restore").header("content-type", "application/json");
    call.body("{\"format\": \"ovncp-ovn-ba").send().await.problem(400, "malformed_json");
    assert_eq!(setup.nbctl(&["show"]).await, changed, "nothing was done");

    let done = setup.post("/ovn/restore", backup.clone()).await.expect(200);
    assert_eq!((&done["dry_run"], &done["remaining"]), (&json!(false), &json!(0)));
    assert_eq!(setup.nbctl(&["show"]).await, shown);
    let again = setup.post("/ovn/restore", backup.clone()).await.expect(200);
    assert_eq!((&again["created"], &again["updated"], &again["deleted"]), (&json!(0), &json!(0), &json!(0)));
    let after = setup.get("/ovn/backup").await.expect(200);
    assert_eq!(after["tables"], backup["tables"], "our own rows are in neither");

    // The lock of restores is nobody else's, and it is free again.
    let key = "ovncp.ovn%3Arestore";
    setup.node.acquire(key, json!({"owner": "me"})).await.problem(422, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_southbound_database_can_be_looked_at() {
    let setup = setup!();
    network(&setup).await;
    setup.nbctl(&["--wait=sb", "sync"]).await;
    let datapaths = setup.get("/ovn/sb/datapaths").await.expect(200);
    assert_eq!(datapaths["count"], 3);
    let blue = setup.get("/ovn/sb/datapaths?external_ids.name=blue").await.expect(200);
    assert_eq!(blue["count"], 1);
    let id = blue["rows"][0]["id"].as_str().unwrap();
    let one = setup.get(&format!("/ovn/sb/datapaths/{id}")).await.expect(200);
    assert_eq!(one, blue["rows"][0]);
    let port = setup.get("/ovn/sb/port-bindings?logical_port=vm1").await.expect(200);
    assert_eq!(port["rows"][0]["datapath"], id);

    // Pages are disjoint and complete.
    let whole = setup.get("/ovn/sb/flows?limit=1000&pipeline=egress").await.expect(200);
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = setup.get(&format!("/ovn/sb/flows?limit=7&pipeline=egress{cursor}")).await.expect(200);
        ids.extend(page["rows"].as_array().unwrap().iter().map(|row| row["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<_> = whole["rows"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert!(ids.len() > 7 && ids == expected, "{} and {}", ids.len(), expected.len());

    setup.get("/ovn/sb/teapots").await.problem(404, "unknown_table");
    setup.get("/ovn/sb/flows?teapot=1").await.problem(422, "invalid_argument");
    setup.get("/ovn/sb/datapaths?external_ids=x").await.problem(422, "invalid_argument");
    setup.get("/ovn/sb/flows/nonsense").await.problem(404, "unknown_resource");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_tells_the_same_changes_and_goes_on_where_another_ended() {
    if let Err(missing) = Programs::find() {
        return eprintln!("skipped: {missing}");
    }
    let directory = tempfile::Builder::new().prefix("net").tempdir_in("/tmp").unwrap();
    let lab = Lab::start(LabSettings::northbound_only(directory.path(), Members::Clustered)).await.unwrap();
    let endpoints: Vec<_> = lab.northbound().iter().map(|server| server.tcp_endpoint()).collect();
    let nodes = Net::unused().start_three(&[("ovn.northbound.endpoints", &endpoints.join(","))]).await;
    let mut streams = Vec::new();
    for node in &nodes {
        let begun = std::time::Instant::now();
        while node.get("/health/ready?for=api").await.status != 200 {
            assert!(begun.elapsed() < PATIENCE, "{} comes in sync", node.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        streams.push(Stream::at(node, "?tables=Logical_Switch_Port", None).await);
    }

    nodes[0].post("/api/v1/switches", json!({"name": "blue"})).await.expect(201);
    for port in 0..12 {
        let name = format!("p{port}");
        let (writer, reader) = (&nodes[port % 3], &nodes[(port + 1) % 3]);
        writer.post("/api/v1/switches/blue/ports", json!({"name": name})).await.expect(201);
        // Whoever was answered may ask any node.
        reader.get(&format!("/api/v1/ports/{name}")).await.expect(200);
    }
    nodes[1].call(Method::DELETE, "/api/v1/ports/p3").send().await.expect(204);

    let mut told = Vec::new();
    for stream in &mut streams {
        let mut seen = Vec::new();
        while seen.len() < 13 {
            let (id, op, data) = stream.block().await;
            if !op.is_empty() {
                seen.push((id, op, data["name"].clone()));
            }
        }
        told.push(seen);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
    assert_eq!((told[0][12].1.as_str(), &told[0][12].2), ("delete", &json!("p3")));
    let mut resumed = Stream::at(&nodes[2], "?tables=Logical_Switch_Port", Some(&told[0][6].0)).await;
    for expected in &told[0][7..] {
        let (id, op, data) = resumed.block().await;
        assert_eq!((id, op, data["name"].clone()), *expected);
    }
}
