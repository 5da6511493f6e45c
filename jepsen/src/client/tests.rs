use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::fake::{Act, Fake};

/// Long enough for any exchange with a node that answers, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// For nodes that never answer.
const IMPATIENCE: Duration = Duration::from_millis(300);

async fn put(url: &str, time_max: Duration) -> Outcome<Answer> {
    let call = Call::put("/api/v1/cluster/kv/r1", "7").header("if-match", "\"4\"");
    Client::new().unwrap().ask(url, &Call { time_max, ..call }).await
}

async fn answered(act: Act) -> Outcome<Answer> {
    let fake = Fake::start([act]).await;
    let outcome = put(&fake.url, PATIENCE).await;
    assert_eq!(fake.requests().len(), 1, "sent once, whatever is answered: {outcome:?}");
    outcome
}

fn fail(code: &str) -> Outcome<Answer> {
    Outcome::Fail(code.to_owned())
}

fn unknown(code: &str) -> Outcome<Answer> {
    Outcome::Unknown(code.to_owned())
}

#[tokio::test]
async fn an_answer_has_its_index_node_and_revision() {
    let headers = "x-ovncp-index: 18\r\nx-ovncp-node: n2\r\netag: \"17\"\r\n";
    let fake = Fake::start([Act::Answer("200 OK", headers, "{\"revision\":\"17\"}")]).await;
    let Outcome::Ok(answer) = put(&fake.url, PATIENCE).await else { panic!("not ok") };
    assert_eq!((answer.index, answer.node.as_deref(), answer.revision), (Some(18), Some("n2"), Some(17)));
    assert_eq!(answer.json()["revision"], "17");
    let request = fake.requests().remove(0);
    assert!(request.starts_with("PUT /api/v1/cluster/kv/r1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("if-match: \"4\"\r\n") && request.ends_with("\r\n\r\n7"), "{request}");
}

#[tokio::test]
async fn refusals_of_the_product_surely_did_not_happen() {
    let problem = |code| match code {
        412 => Act::Answer("412 Precondition Failed", "", "{\"code\":\"revision_mismatch\"}"),
        429 => Act::Answer("429 Too Many Requests", "", "{\"code\":\"queue_full\"}"),
        503 => Act::Answer("503 Service Unavailable", "", "{\"code\":\"no_leader\"}"),
        _ => Act::Answer("409 Conflict", "", "not JSON"),
    };
    assert_eq!(answered(problem(412)).await, fail("revision_mismatch"));
    assert_eq!(answered(problem(429)).await, fail("queue_full"));
    assert_eq!(answered(problem(503)).await, fail("no_leader"));
    assert_eq!(answered(problem(409)).await, fail("http_409"));
}

#[tokio::test]
async fn what_may_have_happened_is_unknown() {
    let unsure = Act::Answer("504 Gateway Timeout", "", "{\"code\":\"outcome_unknown\"}");
    assert_eq!(answered(unsure).await, unknown("outcome_unknown"));
    let defect = Act::Answer("500 Internal Server Error", "", "{\"code\":\"internal_error\"}");
    assert_eq!(answered(defect).await, unknown("internal_error"));
    // Somebody between us and the node, who cannot know.
    let between = Act::Answer("503 Service Unavailable", "", "<html>");
    assert_eq!(answered(between).await, unknown("http_503"));
    let elsewhere = Act::Answer("307 Temporary Redirect", "location: /\r\n", "");
    assert_eq!(answered(elsewhere).await, unknown("http_307"));
}

#[tokio::test]
async fn a_connection_that_breaks_or_lies_leaves_the_outcome_unknown() {
    assert_eq!(answered(Act::CutAfter).await, unknown("connection_lost"));
    assert_eq!(answered(Act::Raw("SSH-2.0-garbage\r\n\r\n")).await, unknown("connection_lost"));
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"revi";
    assert_eq!(answered(Act::Raw(half)).await, unknown("connection_lost"));
    // Whether any byte had left when the peer cut is not to be known.
    let fake = Fake::start([Act::CutBefore]).await;
    assert_eq!(put(&fake.url, PATIENCE).await, unknown("connection_lost"));
}

#[tokio::test]
async fn no_answer_in_time_is_unknown() {
    let fake = Fake::start([Act::Hang]).await;
    assert_eq!(put(&fake.url, IMPATIENCE).await, unknown("timeout"));
    let half = Fake::start([Act::Answer("200 OK", "transfer-encoding: chunked\r\n", "")]).await;
    assert_eq!(put(&half.url, IMPATIENCE).await, unknown("timeout"), "half an answer is none");
}

#[tokio::test]
async fn without_a_connection_nothing_happened() {
    // Bound and not listening: the port refuses, and nobody else can take it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    assert_eq!(put(&url, PATIENCE).await, fail("refused"));
}

#[tokio::test]
async fn a_connection_that_does_not_come_in_time_was_sent_nothing() {
    // Nobody accepts, and the queue of those who want to be accepted is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..8 {
        crowd.spawn(async move { tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await });
    }
    let crowd = crowd.join_all().await;
    assert!(crowd.iter().any(Result::is_err), "the queue is not full: {crowd:?}");
    assert_eq!(put(&format!("http://{address}"), PATIENCE).await, fail("connect_timeout"));
    drop((listener, crowd));
}

#[tokio::test]
async fn a_kept_connection_that_the_node_closed_sends_nothing_twice() {
    let fine = || Act::Answer("200 OK", "", "{}");
    let closing = Act::Raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    let fake = Fake::start([closing, fine(), fine()]).await;
    let client = Client::new().unwrap();
    for sent in 1..=2 {
        let outcome = client.ask(&fake.url, &Call { time_max: PATIENCE, ..Call::put("/x", "1") }).await;
        let whole = matches!(outcome, Outcome::Ok(_)) && fake.requests().len() == sent;
        // The end of the connection may be noticed only after the request was written: then nobody knows.
        assert!(whole || matches!(outcome, Outcome::Unknown(_)), "{outcome:?} {:?}", fake.requests());
        assert!(fake.requests().len() <= sent);
    }
}

#[test]
fn segments_of_paths_keep_their_bytes() {
    assert_eq!(segment("a-1_b.c~"), "a-1_b.c~");
    assert_eq!(segment("a:b/ü%"), "a%3Ab%2F%C3%BC%25");
}
