//! Acquire, renew and release over HTTP, and what their answers prove about the lease.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::LockArgs;
use super::lease::Lease;
use crate::cli::client::{Answer, Call, Client, random_id};
use crate::cli::failure::{Exit, Failure};

/// The server lets nobody wait longer in one request (proxies cut at 50 s).
const WAIT_CHUNK_MAX: Duration = Duration::from_secs(40);
/// What a request may take beyond the waiting it asks for.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Between two tries of a renewal that nobody answered, at most.
const RENEW_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Between two tries of an acquire that nobody answered.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// To give a lock back at the end; its TTL does it otherwise.
const RELEASE_PATIENCE: Duration = Duration::from_secs(3);

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: String,
    pub(super) token: String,
    pub(super) waited: Duration,
    pub(super) lease: Lease,
    secret: String,
}

/// What a renewal came to. There is no third: it is tried until the lease is no longer certain.
#[derive(Debug)]
pub(super) enum Renewal {
    Held(Lease),
    Lost(String),
}

fn path<'a>(key: &'a str, verb: &'a str) -> [&'a str; 6] {
    ["api", "v1", "cluster", "locks", key, verb]
}

/// Waits for the lock as long as `--wait` says.
pub(super) async fn acquire(client: &Client, args: &LockArgs) -> Result<Held, Failure> {
    let begun = Instant::now();
    let secret = random_id();
    loop {
        let left = args.wait.saturating_sub(begun.elapsed());
        let chunk = left.min(WAIT_CHUNK_MAX);
        let sent = Instant::now();
        let answer = ask_until_answered(client, &acquire_call(args, &secret, chunk), chunk).await?;
        match (answer.status, answer.code().as_str()) {
            (status, _) if status.is_success() => {
                return prove(client, granted(args, &answer, &secret, sent, begun)?).await;
            }
            // Granted to an earlier try of this request and gone before we heard of it: ask anew.
            (StatusCode::CONFLICT, "lock_lost") => {}
            (StatusCode::CONFLICT, "lock_held" | "lock_timeout") if begun.elapsed() >= args.wait => {
                return Err(not_acquired(args, &answer));
            }
            (StatusCode::CONFLICT, "lock_held" | "lock_timeout") => {}
            _ => return Err(answer.failure()),
        }
        if begun.elapsed() >= args.wait && !args.wait.is_zero() {
            return Err(not_acquired(args, &answer));
        }
    }
}

/// Repeats one request with its one key, so that a grant that nobody told us of is found again. Only when not
/// even the first try reached anybody is there nothing to find.
async fn ask_until_answered(client: &Client, call: &Call, wait: Duration) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let mut reached = false;
    loop {
        match client.call(call).await {
            Err(failure) if failure.exit == Exit::Unreachable && !reached => return Err(failure),
            Err(failure) if begun.elapsed() >= wait + ANSWER_TIME => return Err(failure),
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            Ok(answer) => return Ok(answer),
        }
        reached = true;
    }
}

fn acquire_call(args: &LockArgs, secret: &str, wait: Duration) -> Call {
    let mode = if args.shared { "shared" } else { "exclusive" };
    let body = json!({
        "owner": args.owner.clone().unwrap_or_else(default_owner),
        "mode": mode,
        "ttl_ms": millis(args.ttl),
        "wait_ms": millis(wait),
        "secret": secret,
    });
    Call::write(Method::POST, path(&args.key, "acquire"))
        .json(&body)
        .try_timeout(wait + ANSWER_TIME)
        .patience(wait + ANSWER_TIME)
}

fn granted(
    args: &LockArgs,
    answer: &Answer,
    secret: &str,
    sent: Instant,
    begun: Instant,
) -> Result<Held, Failure> {
    let grant = answer.json()?;
    let token = match &grant["fencing_token"] {
        Value::String(token) => token.clone(),
        other => other.to_string(),
    };
    let ttl = ttl_of(&grant).unwrap_or(args.ttl);
    // The first try, not the one that was answered: the grant may be that one's.
    let lease = Lease::new(sent, ttl);
    Ok(Held { key: args.key.clone(), token, waited: begun.elapsed(), lease, secret: secret.to_owned() })
}

/// A grant that was long waited for proves little by its sending time: it is renewed before anything runs.
async fn prove(client: &Client, mut held: Held) -> Result<Held, Failure> {
    if Instant::now() >= held.lease.renew_at() {
        // Nothing runs yet, so the whole TTL from now on may be used to find out.
        let now = Lease::new(Instant::now(), held.lease.ttl());
        held.lease = now;
        match tokio::time::timeout_at(now.end_at().into(), renew(client, &held)).await {
            Ok(Renewal::Held(lease)) => held.lease = lease,
            Ok(Renewal::Lost(why)) => {
                return Err(Failure::new(Exit::LockLost, format!("the lock was lost: {why}")));
            }
            Err(_) => {
                let message = "the lock could not be renewed after it was granted";
                return Err(Failure::new(Exit::LockLost, message).help("see `ovncp status`; nothing was run"));
            }
        }
    }
    Ok(held)
}

/// Renews as often as it takes. The caller stops this when the lease runs out.
///
/// There is no idempotency key: a renewal that is repeated shall renew again, not repeat the old answer.
pub(super) async fn renew(client: &Client, held: &Held) -> Renewal {
    let ttl = held.lease.ttl();
    let pause = (ttl / 20).min(RENEW_PAUSE_MAX);
    loop {
        let call = Call::new(Method::POST, path(&held.key, "renew"))
            .json(&json!({"secret": held.secret, "ttl_ms": millis(ttl)}))
            .try_timeout((ttl / 6).min(ANSWER_TIME))
            .patience(Duration::ZERO);
        match client.call(&call).await {
            Ok(answer) if answer.status.is_success() => {
                let granted = answer.json().ok().and_then(|body| ttl_of(&body)).unwrap_or(ttl);
                return Renewal::Held(Lease::new(answer.sent, granted));
            }
            Ok(answer) if is_lost(answer.status) => {
                return Renewal::Lost(answer.failure().to_string());
            }
            // Nobody there, no leader, overloaded: the time that is left is for further tries.
            Ok(_) | Err(_) => tokio::time::sleep(pause).await,
        }
    }
}

fn is_lost(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::CONFLICT | StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED | StatusCode::GONE
    )
}

/// Gives the lock back; failing that, its TTL will.
pub(super) async fn release(client: &Client, held: &Held) {
    let call = Call::write(Method::POST, path(&held.key, "release"))
        .json(&json!({"secret": held.secret}))
        .patience(RELEASE_PATIENCE);
    let released = tokio::time::timeout(RELEASE_PATIENCE, client.call(&call)).await;
    let known = released.is_ok_and(|answer| answer.is_ok_and(|a| a.status.is_success() || is_lost(a.status)));
    if !known {
        eprintln!("ovncp: could not release `{}`: it ends by itself within its TTL", held.key);
    }
}

fn not_acquired(args: &LockArgs, answer: &Answer) -> Failure {
    let problem = answer.problem();
    let holder = match &problem["holder"] {
        Value::String(owner) => format!(", held by {owner}"),
        Value::Object(holder) => match holder.get("owner").and_then(Value::as_str) {
            Some(owner) => format!(", held by {owner}"),
            None => String::new(),
        },
        _ => String::new(),
    };
    let waited = humantime::format_duration(args.wait);
    Failure::new(Exit::NotAcquired, format!("`{}` was not acquired within {waited}{holder}", args.key))
        .help(format!("wait longer with --wait, or look at it with `ovncp locks --prefix {}`", args.key))
}

fn ttl_of(body: &Value) -> Option<Duration> {
    body["ttl_ms"].as_u64().map(Duration::from_millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn default_owner() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let host = rustix::system::uname();
    format!("{user}@{}:{}", host.nodename().to_string_lossy(), std::process::id())
}
