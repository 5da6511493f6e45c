//! Closed-loop load on one etcd server, in etcd's best case: one HTTP/2 connection shared by all clients, to the
//! leader. Prints one line of JSON, in the terms of `ovncp bench`.
//!
//! Load generator and servers share the cores, so it does as little as it can: messages are encoded once, answers
//! are checked by their gRPC status (and a lock by `succeeded`), nothing is allocated that need not be.

mod proto;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;
/// What is written, as `ovncp bench` does.
const VALUE_BYTES: usize = 256;
/// Leases outlive every run; nothing here renews them.
const LEASE_SECONDS: u64 = 600;
/// Window for the answers in flight on the connection.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";

/// One call of an operation, and whether its answer must say `succeeded`.
struct Step {
    path: &'static str,
    message: Bytes,
    must_succeed: bool,
}

#[derive(Clone)]
struct Server {
    authority: String,
    sender: SendRequest<Bytes>,
}

impl Server {
    async fn connect(authority: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(stream)
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("the connection ended: {error}");
            }
        });
        Ok(Self { authority: authority.to_owned(), sender })
    }

    async fn call(&self, path: &str, message: Bytes) -> Result<BytesMut, Failure> {
        let request = http::Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (answer, mut body) = self.sender.clone().ready().await?.send_request(request, false)?;
        body.send_data(message, true)?;
        let answer = answer.await?;
        let early = answer.headers().get("grpc-status").cloned();
        let mut stream = answer.into_body();
        let mut whole = BytesMut::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            whole.extend_from_slice(&chunk);
        }
        let trailers = stream.trailers().await?;
        let status = early.or_else(|| trailers.as_ref()?.get("grpc-status").cloned());
        match status {
            Some(status) if status == "0" => Ok(whole),
            status => Err(format!("{path}: grpc-status {status:?}, {trailers:?}").into()),
        }
    }
}

async fn steps(server: &Server, scenario: &str, run: u32, number: usize) -> Result<Vec<Step>, Failure> {
    let step = |path, message: proto::Message| Step { path, message: message.framed(), must_succeed: false };
    let value: Vec<u8> = (0..VALUE_BYTES).map(|i| b'a' + ((i + number) % 26) as u8).collect();
    let key = format!("bench:{run}:{number}");
    match scenario {
        "write" => Ok(vec![step(PUT, proto::put(key.as_bytes(), &value))]),
        "read" => {
            server.call(PUT, proto::put(key.as_bytes(), &value).framed()).await?;
            Ok(vec![step(RANGE, proto::range(key.as_bytes()))])
        }
        "lock" => {
            let granted = server.call(LEASE_GRANT, proto::lease_grant(LEASE_SECONDS).framed()).await?;
            let lease = proto::int_field(&granted, 2).ok_or("no id in the answer to LeaseGrant")?;
            let (prefix, mine) = (format!("{key}/"), format!("{key}/{lease:x}"));
            let mut acquire = step(TXN, proto::lock(prefix.as_bytes(), mine.as_bytes(), lease));
            acquire.must_succeed = true;
            Ok(vec![acquire, step(DELETE, proto::delete(mine.as_bytes()))])
        }
        other => Err(format!("unknown scenario {other:?}: lock, write or read").into()),
    }
}

async fn client(
    server: Server,
    steps: Vec<Step>,
    from: Instant,
    to: Instant,
) -> Result<Histogram<u64>, Failure> {
    let mut latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
    loop {
        let began = Instant::now();
        for step in &steps {
            let answer = server.call(step.path, step.message.clone()).await?;
            if step.must_succeed && proto::int_field(&answer, 2) != Some(1) {
                return Err(format!("{}: not succeeded", step.path).into());
            }
        }
        let now = Instant::now();
        if now >= to {
            return Ok(latencies);
        }
        if began >= from {
            latencies.saturating_record(u64::try_from((now - began).as_micros())?.max(1));
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        let usage = "usage: etcd-load HOST:PORT lock|write|read CLIENTS WARMUP_SECONDS SECONDS";
        args.next().ok_or_else(|| format!("{what} is missing; {usage}"))
    };
    let (endpoint, scenario) = (next("HOST:PORT")?, next("the scenario")?);
    let clients: usize = next("CLIENTS")?.parse()?;
    let (warmup, seconds): (u64, u64) = (next("WARMUP_SECONDS")?.parse()?, next("SECONDS")?.parse()?);
    let server = Server::connect(&endpoint).await?;
    let mut all = Vec::with_capacity(clients);
    for number in 0..clients {
        all.push(steps(&server, &scenario, std::process::id(), number).await?);
    }
    let from = Instant::now() + Duration::from_secs(warmup);
    let to = from + Duration::from_secs(seconds);
    let mut running = JoinSet::new();
    for steps in all {
        running.spawn(client(server.clone(), steps, from, to));
    }
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_US_MAX, 3)?;
    while let Some(ended) = running.join_next().await {
        latencies.add(ended??)?;
    }
    let ms = |us: u64| us as f64 / 1_000.0;
    println!(
        "{{\"scenario\":\"{scenario}\",\"clients\":{clients},\"operations\":{},\"rate\":{:.1},\"p50_ms\":{:.3},\"p99_ms\":{:.3},\"max_ms\":{:.3}}}",
        latencies.len(),
        latencies.len() as f64 / seconds as f64,
        ms(latencies.value_at_quantile(0.5)),
        ms(latencies.value_at_quantile(0.99)),
        ms(latencies.max()),
    );
    Ok(())
}
