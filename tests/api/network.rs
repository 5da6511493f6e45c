//! The network's resources over HTTP, with real OVN servers behind the node.

use ovncp_ovn::lab::{Lab, LabSettings, Programs};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNode};

/// A private OVN and a node in front of it.
pub(crate) struct Setup {
    pub(crate) lab: Lab,
    pub(crate) node: TestNode,
    _directory: tempfile::TempDir,
}

impl Setup {
    /// None where OVN is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Option<Self> {
        if let Err(missing) = Programs::find() {
            eprintln!("skipped: {missing}");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("net").tempdir_in("/tmp").unwrap();
        let lab = Lab::start(LabSettings::new(directory.path())).await.unwrap();
        let northbound = lab.northbound()[0].unix_endpoint();
        let southbound = lab.southbound()[0].unix_endpoint();
        let mut all = vec![
            ("ovn.northbound.endpoints", northbound.as_str()),
            ("ovn.southbound.endpoints", southbound.as_str()),
        ];
        all.extend_from_slice(settings);
        let node = TestNode::start_with(&all).await;
        let setup = Self { lab, node, _directory: directory };
        setup.until_ready().await;
        Some(setup)
    }

    async fn until_ready(&self) {
        let begun = std::time::Instant::now();
        while self.node.get("/health/ready?for=api").await.status != 200 {
            assert!(begun.elapsed().as_secs() < 60, "the databases come in sync");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.node.post(&format!("/api/v1{path}"), body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.node.get(&format!("/api/v1{path}")).await
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> crate::support::Call {
        self.node.call(method, &format!("/api/v1{path}"))
    }

    /// What another client of OVN sees.
    pub(crate) async fn nbctl(&self, arguments: &[&str]) -> String {
        self.lab.nbctl(arguments).await.unwrap()
    }
}

macro_rules! setup {
    () => {
        match Setup::start().await {
            Some(setup) => setup,
            None => return,
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_with_ports_is_made_read_changed_and_deleted() {
    let setup = setup!();
    let made = setup.post("/switches", json!({"name": "blue", "external_ids": {"team": "a"}})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/api/v1/switches/{id}"));
    let port = json!({"name": "p1", "addresses": ["0a:00:00:00:00:01 10.0.0.5"]});
    let port = setup.post("/switches/blue/ports", port).await;
    assert_eq!((port.status.as_u16(), &port.json()["switch_id"]), (201, &json!(id)), "{port:?}");

    // Others see it, and this node sees what others do.
    assert!(setup.nbctl(&["show"]).await.contains("port p1"));
    setup.nbctl(&["lsp-add", "blue", "p2"]).await;
    let ports = setup.get("/switches/blue/ports?sort=name").await;
    let names: Vec<_> =
        ports.json()["ports"].as_array().unwrap().iter().map(|port| port["name"].clone()).collect();
    assert_eq!(names, ["p1", "p2"]);

    // A patch touches only what it names; the etag that was read before is stale afterwards.
    let etag = setup.get("/switches/blue").await.header("etag").to_owned();
    setup.nbctl(&["set", "Logical_Switch", "blue", "external_ids:other=1"]).await;
    let patch = |etag: &str| {
        let call = setup
            .call(Method::PATCH, "/switches/blue")
            .json(json!({"external_ids": {"team": null, "b": "2"}}));
        if etag.is_empty() { call } else { call.header("if-match", etag) }
    };
    let stale = patch(&etag).send().await;
    assert_eq!((stale.status.as_u16(), &stale.json()["code"]), (412, &json!("etag_mismatch")), "{stale:?}");
    let changed = patch("").send().await;
    assert_eq!(changed.json()["external_ids"], json!({"other": "1", "b": "2"}), "{changed:?}");

    let gone = setup.call(Method::DELETE, "/switches/blue").send().await;
    assert_eq!(gone.status, 204);
    assert_eq!(setup.get("/ports/p1").await.status, 404, "ports go with their switch");
    assert_eq!(setup.nbctl(&["show"]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_under_the_same_key_happens_once_and_is_answered_alike() {
    let setup = setup!();
    let make = |name: &str| {
        setup
            .call(Method::POST, "/switches")
            .header("idempotency-key", "k")
            .json(json!({"name": name}))
            .send()
    };
    let first = make("blue").await;
    let again = make("blue").await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.header("x-ovncp-replayed"), "true");
    let other = make("red").await;
    assert_eq!((other.status.as_u16(), &other.json()["code"]), (422, &json!("idempotency_key_reused")));
    let remove = || setup.call(Method::DELETE, "/switches/blue").header("idempotency-key", "d").send();
    assert_eq!((remove().await.status.as_u16(), remove().await.status.as_u16()), (204, 204));
    assert_eq!(setup.get("/switches").await.json()["count"], 0);
    // What remembers the keys is no address set of the network.
    assert_eq!(setup.get("/address-sets").await.json()["count"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_fencing_token_gets_412_and_nothing_is_committed() {
    let setup = setup!();
    let acquire = async || {
        let body = json!({"owner": "a", "ttl_ms": 1_000});
        let grant = setup.node.acquire("switch%3Ablue", body).await;
        grant.json()["fencing_token"].as_str().map(str::to_owned)
    };
    let fenced = |token: &str, name: &str| {
        let call = setup.call(Method::POST, "/switches").header("x-ovncp-lock", "switch:blue");
        call.header("x-ovncp-fencing-token", token).json(json!({"name": name})).send()
    };
    let first = acquire().await.expect("the lock is free");
    assert_eq!(fenced(&first, "one").await.status, 201);
    // The holder pauses past its TTL; somebody else takes over and writes.
    let begun = std::time::Instant::now();
    let second = loop {
        if let Some(token) = acquire().await {
            break token;
        }
        assert!(begun.elapsed().as_secs() < 60, "the lease ends");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(fenced(&second, "two").await.status, 201);
    for stale in [first.as_str(), "0", "18446744073709551615"] {
        let refused = fenced(stale, "three").await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["code"]),
            (412, &json!("fenced")),
            "{refused:?}"
        );
    }
    let shown = setup.nbctl(&["show"]).await;
    assert!(shown.contains("(one)") && shown.contains("(two)") && !shown.contains("(three)"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_named_and_leaves_nothing_behind() {
    let setup = setup!();
    setup.post("/switches", json!({"name": "blue"})).await;
    for (path, body, status, pointer) in [
        ("/switches", json!({"name": 3}), 422, "/name"),
        ("/switches", json!({"name": "x", "nope": 1}), 422, "/nope"),
        ("/switches", json!({}), 422, "/name"),
        ("/switches", json!({"name": "blue"}), 409, "/name"),
        (
            "/switches/blue/ports",
            json!({"name": "p", "addresses": ["0a:00:00:00:00:zz"]}),
            422,
            "/addresses/0",
        ),
        ("/switches/blue/ports", json!({"name": "p", "tag": 9999, "parent_name": "q"}), 422, "/tag"),
        (
            "/switches/blue/acls",
            json!({"priority": 1, "direction": "to-lport", "match": "ip4.srk == 1", "action": "allow"}),
            422,
            "/match",
        ),
        (
            "/switches/blue/acls",
            json!({"priority": 40000, "direction": "to-lport", "match": "ip4", "action": "allow"}),
            422,
            "/priority",
        ),
        ("/switches", json!([{"name": "fine"}, {"name": "blue"}]), 409, "/1/name"),
    ] {
        let refused = setup.post(path, body.clone()).await;
        assert_eq!(refused.status.as_u16(), status, "{body}: {refused:?}");
        assert_eq!(refused.json()["problems"][0]["pointer"], pointer, "{body}: {refused:?}");
    }
    assert_eq!(setup.post("/switches/nope/ports", json!({"name": "p"})).await.status, 404);
    let shown = setup.nbctl(&["show"]).await;
    assert!(shown.contains("(blue)") && !shown.contains("(fine)") && !shown.contains("port"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_says_how_far_the_network_came() {
    let setup = setup!();
    let made = setup.post("/switches?wait=sb", json!({"name": "blue"})).await;
    assert_eq!((made.status.as_u16(), made.header("x-ovncp-barrier")), (201, "reached"));
    let southbound = setup.lab.sbctl(&["--bare", "--columns=external_ids", "list", "Datapath_Binding"]).await;
    assert!(southbound.unwrap().contains("name=blue"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_ovn_is_away_writes_fail_fast_and_old_reads_tell_their_age() {
    let mut setup = setup!();
    setup.post("/switches", json!({"name": "blue"})).await;
    setup.lab.northbound_mut()[0].kill();
    let begun = std::time::Instant::now();
    loop {
        let refused = setup.post("/switches", json!({"name": "red"})).await;
        // The moment of the loss may leave a request open; never may it succeed.
        match refused.status.as_u16() {
            503 => break assert_eq!(refused.json()["code"], "ovn_unavailable"),
            504 => assert_eq!(refused.json()["code"], "outcome_unknown"),
            other => panic!("{other}: {refused:?}"),
        }
        assert!(begun.elapsed().as_secs() < 60);
    }
    assert_eq!(setup.get("/switches/blue").await.json()["code"], "ovn_unavailable");
    let old = setup.get("/switches/blue?consistency=local").await;
    assert_eq!((old.status.as_u16(), &old.json()["name"]), (200, &json!("blue")));
    assert!(!old.header("age").is_empty());
    assert_eq!(setup.node.get("/health/ready?for=api").await.status, 503);
    assert_eq!(setup.node.get("/health/ready").await.status, 200, "the cluster itself serves");
    setup.lab.northbound_mut()[0].start().await.unwrap();
    setup.until_ready().await;
    assert_eq!(setup.post("/switches", json!({"name": "red"})).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_set_are_put_in_and_taken_out_one_by_one() {
    let setup = setup!();
    setup.post("/address-sets", json!({"name": "web", "addresses": ["10.0.0.1"]})).await;
    let more = setup.post("/address-sets/web/addresses", json!({"members": ["10.0.0.2", "10.0.0.1"]})).await;
    assert_eq!((more.status.as_u16(), &more.json()["count"]), (200, &json!(2)), "{more:?}");
    let less =
        setup.call(Method::DELETE, "/address-sets/web/addresses").json(json!({"members": ["10.0.0.1"]}));
    assert_eq!(less.send().await.json()["members"], json!(["10.0.0.2"]));
    assert_eq!(setup.get("/address-sets/web/addresses").await.json()["members"], json!(["10.0.0.2"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_table_of_the_schema_is_served_by_the_same_rules() {
    let setup = setup!();
    let tables = setup.get("/ovn/tables").await;
    assert!(tables.json()["tables"].as_array().unwrap().iter().any(|table| table["name"] == "Meter"));
    let copp = setup.post("/ovn/tables/Copp", json!({"name": "c"})).await;
    assert_eq!(copp.status, 201, "{copp:?}");
    assert_eq!(setup.get("/ovn/tables/Copp/c").await.json()["id"], copp.json()["id"]);
    assert_eq!(setup.get("/ovn/tables/Copp").await.json()["rows"][0]["name"], "c");
    assert_eq!(setup.get("/ovn/tables/Nope").await.status, 404);
    let hidden = setup.post("/ovn/tables/Address_Set", json!({"name": "ovncp_fence_0"})).await;
    assert_eq!(hidden.status, 422, "our own rows are no resources: {hidden:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_happens_as_a_whole_or_not_at_all() {
    let setup = setup!();
    let router_port = json!({"name": "r-s", "mac": "0a:00:00:00:00:ff", "networks": ["10.0.0.1/24"]});
    let operations = json!({"operations": [
        {"op": "create", "resource": "switches", "ref": "s", "body": {"name": "s"}},
        {"op": "create", "resource": "routers", "ref": "r", "body": {"name": "r"}},
        {"op": "create", "resource": "router-ports", "body": router_port, "parent": {"ref": "r"}},
        {"op": "create", "resource": "ports", "parent": {"ref": "s"},
            "body": {"name": "s-r", "type": "router", "addresses": ["router"], "options": {"router-port": "r-s"}}},
    ]});
    let made = setup.post("/transactions", operations.clone()).await;
    assert_eq!((made.status.as_u16(), &made.json()["count"]), (200, &json!(4)), "{made:?}");
    let again = setup.post("/transactions", operations).await;
    assert_eq!(again.status, 409, "{again:?}");
    assert!(
        again.json()["problems"][0]["pointer"].as_str().unwrap().starts_with("/operations/0"),
        "{again:?}"
    );
    let shown = setup.nbctl(&["show"]).await;
    assert!(shown.contains("router-port: r-s"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_two_ends_and_both_go_with_the_switch() {
    let setup = setup!();
    setup.post("/switches", json!({"name": "s"})).await.expect(201);
    setup.post("/routers", json!({"name": "r"})).await.expect(201);
    let ends = json!({"mac": "0a:00:00:00:00:ff", "networks": ["10.0.0.1/24"]});
    let ends = setup
        .post("/connections", json!({"switch": "s", "router": "r", "router_port": ends}))
        .await
        .expect(200);
    assert_eq!(ends["count"], 2, "{ends}");
    assert!(setup.nbctl(&["show"]).await.contains("router-port: r-s"));
    setup.call(Method::DELETE, "/switches/s?router_ports=true").send().await.expect(204);
    assert_eq!(setup.get("/router-ports").await.expect(200)["count"], 0);
    assert_eq!(setup.get("/routers/r").await.expect(200)["ports"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_sees_the_acl_that_was_just_made() {
    let setup = setup!();
    setup.post("/switches", json!({"name": "s"})).await.expect(201);
    for (name, address) in [("p1", "0a:00:00:00:00:01 10.0.0.1"), ("p2", "0a:00:00:00:00:02 10.0.0.2")] {
        setup
            .post("/switches/s/ports?wait=sb", json!({"name": name, "addresses": [address]}))
            .await
            .expect(201);
    }
    let microflow = "inport == \"p1\" && eth.src == 0a:00:00:00:00:01 && eth.dst == 0a:00:00:00:00:02 && \
        ip4.src == 10.0.0.1 && ip4.dst == 10.0.0.2 && ip.ttl == 64 && icmp4.type == 8";
    let packet = json!({"datapath": "s", "microflow": microflow});
    let free = setup.post("/trace", packet.clone()).await.expect(200);
    assert_eq!((&free["verdict"], &free["outputs"]), (&json!("delivered"), &json!(["p2"])), "{free}");
    let acl = json!({"priority": 1000, "direction": "to-lport", "match": "outport == \"p2\" && icmp4", "action": "drop"});
    setup.post("/switches/s/acls?wait=sb", acl).await.expect(201);
    let stopped = setup.post("/trace", packet).await.expect(200);
    assert_eq!((&stopped["verdict"], &stopped["outputs"]), (&json!("dropped"), &json!([])), "{stopped}");
    let wrong = setup.post("/trace", json!({"datapath": "nope", "microflow": microflow})).await;
    assert_eq!(wrong.problem(422, "invalid_argument")["field"], "datapath");
}

#[tokio::test]
async fn without_ovn_the_api_says_what_to_configure() {
    let node = TestNode::start().await;
    let refused = node.get("/api/v1/switches").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (503, &json!("ovn_unavailable")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("OVN_NORTHBOUND_DB"), "{refused:?}");
    assert_eq!(node.get("/api/v1/ovn").await.json()["configured"], false);
    assert_eq!(
        node.get("/health/ready?for=api").await.status,
        200,
        "what is not configured is not asked for"
    );
}
