//! Servers that behave badly: a script instead of an ovsdb-server.

use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::database::Database;
use ovncp_ovn::error::TransactError;
use ovncp_ovn::operation::Operation;
use ovncp_ovn::wire::endpoint::Endpoint;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::support::{PATIENCE, settings, until};

const ROW: Uuid = Uuid::from_u128(1);

/// One connection of the client, seen from the server.
struct Peer {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Peer {
    /// The next message of the client; none when it has gone.
    async fn next(&mut self) -> Option<Json> {
        loop {
            let mut messages = serde_json::Deserializer::from_slice(&self.unread).into_iter::<Json>();
            if let Some(Ok(message)) = messages.next() {
                let end = messages.byte_offset();
                self.unread.drain(..end);
                return Some(message);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).await {
                Ok(count @ 1..) => self.unread.extend_from_slice(&buffer[..count]),
                _ => return None,
            }
        }
    }

    /// The next call of this method; others are passed over.
    async fn call(&mut self, method: &str) -> Json {
        loop {
            let message = self.next().await.expect("the client stays");
            if message["method"] == method {
                return message;
            }
        }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self, call: &Json, result: Json) {
        self.say(&json!({"id": call["id"], "result": result, "error": null}).to_string()).await;
    }

    async fn update(&mut self, monitor: &str, rows: Json) {
        let params = json!([monitor, Uuid::nil().to_string(), rows]);
        self.say(&json!({"id": null, "method": "update3", "params": params}).to_string()).await;
    }

    /// Everything until the client is in sync with one row.
    async fn greet(&mut self) {
        let schema = json!({"name": "OVN_Northbound", "version": "1.0.0", "tables": {
            "Logical_Switch": {"isRoot": true, "columns": {"name": {"type": "string"}}}}});
        let call = self.call("monitor_cond_since").await;
        assert_eq!(call["params"][0], "_Server");
        let row = json!({"name": "OVN_Northbound", "model": "standalone", "connected": true, "leader": true,
            "schema": schema.to_string()});
        let rows = json!({"Database": {ROW.to_string(): {"initial": row}}});
        self.answer(&call, json!([false, Uuid::nil().to_string(), rows])).await;
        let call = self.call("monitor_cond_since").await;
        assert_eq!(call["params"][0], "OVN_Northbound");
        let rows = json!({"Logical_Switch": {ROW.to_string(): {"initial": {"name": "a"}}}});
        self.answer(&call, json!([false, Uuid::nil().to_string(), rows])).await;
    }
}

struct Fake {
    listener: UnixListener,
    endpoint: Endpoint,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fake.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self { listener, endpoint: Endpoint::Unix(path), _directory: directory }
    }

    async fn accept(&self) -> Peer {
        let accepted =
            tokio::time::timeout(PATIENCE, self.listener.accept()).await.expect("the client comes");
        Peer { stream: accepted.unwrap().0, unread: Vec::new() }
    }

    /// A client that is in sync, and its connection.
    async fn client(&self) -> (Database, Peer) {
        let database = Database::open(settings(vec![self.endpoint.clone()]));
        let mut peer = self.accept().await;
        peer.greet().await;
        database.wait_synced(PATIENCE).await.unwrap();
        (database, peer)
    }
}

fn name(database: &Database) -> Option<String> {
    let read = database.read(|contents| {
        let table = contents.table("Logical_Switch")?;
        table.name_of(table.row(ROW)?).map(str::to_owned)
    });
    read.flatten()
}

fn comment() -> Vec<Operation> {
    vec![Operation::Comment("x".to_owned())]
}

fn spawn_transact(database: &Database) -> tokio::task::JoinHandle<Result<usize, TransactError>> {
    let database = database.clone();
    tokio::spawn(async move { database.transact(comment()).await.map(|results| results.len()) })
}

#[tokio::test]
async fn an_error_answers_its_call_and_nothing_else() {
    let fake = Fake::new();
    let (database, mut peer) = fake.client().await;
    let (first, second) = (spawn_transact(&database), spawn_transact(&database));
    let (one, two) = (peer.call("transact").await, peer.call("transact").await);
    // Out of order, in one write, with what nobody asked for in between.
    let error =
        json!({"id": two["id"], "error": {"error": "permission error", "details": "no"}, "result": null});
    let stray = json!({"id": 4711, "result": [], "error": null});
    let unknown = json!({"id": null, "method": "locked", "params": ["l"]});
    let result = json!({"id": one["id"], "result": [{}], "error": null});
    peer.say(&format!("{error}{stray} {unknown}\n{result}")).await;
    let outcomes = [first.await.unwrap(), second.await.unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Ok(1)).count(), 1, "{outcomes:?}");
    assert!(
        outcomes.iter().any(|outcome| matches!(outcome, Err(TransactError::Rejected(_)))),
        "{outcomes:?}"
    );
    assert_eq!(database.metrics().notifications_unknown.get(), 1);
    assert_eq!(database.metrics().sessions_lost.get(), 0);
}

#[tokio::test]
async fn the_server_may_ask_back() {
    let fake = Fake::new();
    let (_database, mut peer) = fake.client().await;
    peer.say(r#"{"method":"echo","id":"echo","params":["are","you","there"]}"#).await;
    assert_eq!(
        peer.next().await,
        Some(json!({"id": "echo", "result": ["are", "you", "there"], "error": null}))
    );
    peer.say(r#"{"method":"steal","id":[7],"params":[]}"#).await;
    assert_eq!(peer.next().await, Some(json!({"id": [7], "result": null, "error": "unknown method"})));
}

#[tokio::test]
async fn a_message_may_come_byte_by_byte() {
    let fake = Fake::new();
    let (database, mut peer) = fake.client().await;
    let rows = json!({"Logical_Switch": {ROW.to_string(): {"modify": {"name": "b}\"\\"}}}});
    let update = json!({"id": null, "method": "update3",
        "params": ["OVN_Northbound", Uuid::nil().to_string(), rows]});
    for byte in update.to_string().bytes() {
        peer.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    until("the update is applied", || name(&database).as_deref() == Some("b}\"\\")).await;
}

#[tokio::test]
async fn a_server_that_closes_leaves_the_outcome_open() {
    let fake = Fake::new();
    let (database, mut peer) = fake.client().await;
    let waiting = spawn_transact(&database);
    peer.call("transact").await;
    drop(peer);
    let outcome = waiting.await.unwrap();
    assert!(matches!(outcome, Err(TransactError::OutcomeUnknown { .. })), "{outcome:?}");
    // Nobody greets: until then nothing is sent.
    let _silent = fake.accept().await;
    let outcome = database.transact(comment()).await;
    assert!(matches!(outcome, Err(TransactError::Unavailable { .. })), "{outcome:?}");
    assert_eq!(name(&database).as_deref(), Some("a"), "what was read stays readable");
}

#[tokio::test]
async fn who_speaks_something_else_is_left_and_tried_again() {
    let fake = Fake::new();
    for nonsense in ["HTTP/1.1 400 Bad Request\r\n\r\n", "{\"id\":1,]", "[1,2]", "{\"id\":0,\"result\":[}]"] {
        let (database, mut peer) = fake.client().await;
        peer.say(nonsense).await;
        until("the server is left", || database.metrics().sessions_lost.get() == 1).await;
        let problem = database.status().problem.unwrap_or_default();
        assert!(problem.contains("does not speak JSON-RPC"), "{nonsense}: {problem}");
        let mut peer = fake.accept().await;
        peer.greet().await;
        database.wait_synced(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn an_update_that_cannot_be_is_not_shown_in_part() {
    let fake = Fake::new();
    let (database, mut peer) = fake.client().await;
    let second = Uuid::from_u128(2).to_string();
    let rows = json!({"Logical_Switch": {
        ROW.to_string(): {"modify": {"name": "half"}}, second: {"modify": {"name": "never was"}}}});
    peer.update("OVN_Northbound", rows).await;
    until("the session is lost", || database.metrics().sessions_lost.get() == 1).await;
    assert_eq!(name(&database), None, "nothing is better than half a transaction");
    let mut peer = fake.accept().await;
    peer.greet().await;
    database.wait_synced(PATIENCE).await.unwrap();
    assert_eq!(name(&database).as_deref(), Some("a"));
}

#[tokio::test]
async fn a_monitor_that_is_taken_away_is_asked_for_again() {
    let fake = Fake::new();
    let (database, mut peer) = fake.client().await;
    peer.say(r#"{"id":null,"method":"monitor_canceled","params":["OVN_Northbound"]}"#).await;
    let mut peer = fake.accept().await;
    peer.greet().await;
    until("it is in sync again", || database.metrics().resyncs_full.get() == 2).await;
    // Leadership is told by an update of `_Server`.
    let waiting = spawn_transact(&database);
    let call = peer.call("transact").await;
    peer.update("_Server", json!({"Database": {ROW.to_string(): {"delete": null}}})).await;
    until("nothing more is sent", || !database.status().in_sync).await;
    let refused = database.transact(comment()).await;
    assert!(matches!(refused, Err(TransactError::Unavailable { .. })), "{refused:?}");
    peer.answer(&call, json!([{}])).await;
    let outcome = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(
        matches!(outcome, Ok(1) | Err(TransactError::OutcomeUnknown { .. })),
        "what was sent is given a moment: {outcome:?}"
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let fake = Fake::new();
    let mut short = settings(vec![fake.endpoint.clone()]);
    short.connect_timeout = Duration::from_millis(200);
    let database = Database::open(short);
    let _silent = fake.accept().await;
    until("it is given up", || database.status().problem.is_some_and(|problem| problem.contains("silent")))
        .await;
    let refused = database.wait_synced(Duration::from_millis(1)).await;
    assert!(matches!(refused, Err(TransactError::Unavailable { .. })), "{refused:?}");
}

#[tokio::test]
async fn transactions_that_nobody_answers_fill_a_bounded_queue() {
    let fake = Fake::new();
    let (database, _peer) = fake.client().await;
    let many: Vec<_> = (0..2_000).map(|_| spawn_transact(&database)).collect();
    let mut refused = 0;
    for (index, waiting) in many.into_iter().enumerate() {
        // The first ones wait for answers that never come.
        if index >= 1_900 {
            let outcome = tokio::time::timeout(PATIENCE, waiting).await.expect("answered at once").unwrap();
            assert!(matches!(outcome, Err(TransactError::QueueFull { .. })), "{outcome:?}");
            refused += 1;
        }
    }
    assert_eq!(refused, 100);
}
