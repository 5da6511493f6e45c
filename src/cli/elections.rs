//! `elections`: who leads what, and leading from a shell.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ovncp::client::{Call, Client, Error, Lease};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Failure, Outcome};
use super::lock::default_owner;
use super::output::{Format, fields, print_line, table, text};
use super::{random_id, watch};

/// One request waits at most so long (proxies cut at 50 s); a longer wait is several of them.
const WAIT_CHUNK_MAX: Duration = Duration::from_secs(40);
/// Time to give a term back at the end; its TTL does it otherwise.
const RESIGN_TIME: Duration = Duration::from_secs(3);
/// Between two tries of a renewal.
const RENEW_PAUSE: Duration = Duration::from_millis(200);

/// Show, observe and hold named elections.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp elections list
  ovncp elections show scheduler
  ovncp elections observe scheduler           who leads, as it changes; says when nobody does
  ovncp elections campaign scheduler          wait, lead until Ctrl-C, then resign

campaign ends with 5 when the election was not won in time, and with 6 when the term was lost.")]
pub(crate) struct ElectionsArgs {
    #[command(subcommand)]
    command: ElectionsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ElectionsCommand {
    /// List elections that have a leader or candidates
    List {
        /// What names begin with
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u16,
    },
    /// Show who leads and who waits to
    Show {
        /// Name of the election
        name: String,
    },
    /// Show who leads, as it changes
    Observe {
        /// Name of the election
        name: String,
    },
    /// Wait to lead, then lead until Ctrl-C or SIGTERM
    Campaign(CampaignArgs),
    /// End a term begun with `campaign --once`
    Resign {
        /// Name of the election
        name: String,
        /// What `campaign --once` showed
        #[arg(long, env = "OVNCP_ELECTION_SECRET", hide_env_values = true)]
        secret: String,
    },
}

#[derive(Debug, clap::Args)]
struct CampaignArgs {
    /// Name of the election
    name: String,
    /// Who leads, as others see it [default: USER@HOST:PID]
    #[arg(long)]
    candidate: Option<String>,
    /// What others should know of the leader: JSON, or text
    #[arg(long)]
    value: Option<String>,
    /// How long the term outlives this process when it cannot resign; renewed at a third of it
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How long to wait for the term before to end; 0s tries once
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Show the term and its secret and end; it is yours for the TTL
    #[arg(long)]
    once: bool,
}

fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    ["api", "v1", "cluster", "elections"].into_iter().chain(rest.iter().copied()).collect()
}

pub(crate) async fn run(args: ElectionsArgs, client: &Client, format: Format) -> Outcome {
    match args.command {
        ElectionsCommand::List { prefix, limit } => {
            let call = Call::get(path(&[])).query("prefix", prefix).query("limit", limit.to_string());
            format.print(&client.json(&call).await?, list_table)?;
        }
        ElectionsCommand::Show { name } => {
            format.print(&client.json(&Call::get(path(&[&name]))).await?, show_table)?;
        }
        ElectionsCommand::Observe { name } => {
            let events = client.stream(path(&[&name, "observe"])).open();
            return watch::follow(events, format, observed).await;
        }
        ElectionsCommand::Campaign(args) => return campaign(&args, client, format).await,
        ElectionsCommand::Resign { name, secret } => {
            let call = Call::post(path(&[&name, "resign"])).json(&json!({"secret": secret}));
            client.call(&call).await.map_err(|error| failure(error, &name))?;
            format.print(&json!({"name": name, "resigned": true}), |_| "resigned".to_owned())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn leader(election: &Value) -> String {
    match &election["leader"] {
        Value::Null => "(nobody)".to_owned(),
        leader => text(leader, "candidate"),
    }
}

fn list_table(page: &Value) -> String {
    let row = |election: &Value| {
        let of_leader = |field: &str| text(&election["leader"], field);
        let waiting = text(election, "candidates_count");
        vec![
            text(election, "name"),
            leader(election),
            of_leader("fencing_token"),
            of_leader("expires"),
            waiting,
        ]
    };
    let rows = page["elections"].as_array().into_iter().flatten().map(row);
    let more = if page["next_cursor"].is_null() { "" } else { "\n(more: raise --limit or name a --prefix)" };
    format!("{}{more}", table(&["ELECTION", "LEADER", "TOKEN", "EXPIRES", "CANDIDATES"], rows))
}

fn show_table(election: &Value) -> String {
    let of_leader = |field: &str| text(&election["leader"], field);
    let head = fields(&[
        ("election", text(election, "name")),
        ("leader", leader(election)),
        ("value", of_leader("value")),
        ("token", of_leader("fencing_token")),
        ("since", of_leader("since")),
        ("expires", of_leader("expires")),
    ]);
    let candidates = election["candidates"].as_array().cloned().unwrap_or_default();
    if candidates.is_empty() {
        return format!("{head}\n\nno candidates wait");
    }
    let row = |one: &Value| {
        ["position", "candidate", "node_id", "since", "deadline"].map(|field| text(one, field)).to_vec()
    };
    let header = ["POSITION", "CANDIDATE", "NODE", "SINCE", "DEADLINE"];
    format!("{head}\n\n{}", table(&header, candidates.iter().map(row)))
}

/// An event of an election as a person reads it.
fn observed(kind: &str, data: &Value) -> String {
    let of_leader = |field: &str| text(&data["leader"], field);
    let ended = text(&data["ended"], "candidate");
    let why = match kind {
        "resigned" => format!(" ({ended} resigned)"),
        "expired" => format!(" (the term of {ended} was not renewed in time)"),
        "deposed" => format!(" ({ended} was deposed: {})", text(&data["ended"], "reason")),
        "withdrawn" => format!(" ({ended} went away)"),
        _ => String::new(),
    };
    if data["leader"].is_null() {
        return format!("nobody leads{why}");
    }
    let value = match &data["leader"]["value"] {
        Value::Null => String::new(),
        value => format!(", {value}"),
    };
    format!("{} leads, token {}{value}", of_leader("candidate"), of_leader("fencing_token"))
}

/// A term that this process holds.
struct Term {
    shown: Value,
    secret: String,
    lease: Lease,
}

async fn campaign(args: &CampaignArgs, client: &Client, format: Format) -> Outcome {
    let listen = |kind| signal(kind).map_err(|e| Failure::io("listen to signals", &e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut stopped = std::pin::pin!(async move {
        tokio::select! { _ = interrupt.recv() => 130, _ = terminate.recv() => 143 }
    });
    let mut term = tokio::select! {
        term = won(args, client) => term?,
        // What was won meanwhile ends with its TTL at the latest.
        code = &mut stopped => return Ok(ExitCode::from(code)),
    };
    if args.once {
        format.print(&term.shown, term_table)?;
        return Ok(ExitCode::SUCCESS);
    }
    term.shown.as_object_mut().map(|shown| shown.remove("secret"));
    match format {
        Format::Table => {
            print_line(&format!("leading {}, token {}", args.name, text(&term.shown, "fencing_token")))
        }
        other => other.print(&term.shown, term_table)?,
    }
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            renewed = kept(args, client, &term) => term.lease = renewed?,
        }
    }
    let call = Call::post(path(&[&args.name, "resign"])).json(&json!({"secret": term.secret}));
    match client.call(&call.deadline(RESIGN_TIME)).await {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(failure(error, &args.name).help("the term ends by itself within its TTL")),
    }
}

fn term_table(term: &Value) -> String {
    let rows = ["name", "candidate", "fencing_token", "ttl_ms", "secret"];
    fields(&rows.map(|field| (field, text(term, field))))
}

/// Campaigns as long as `--wait` says.
async fn won(args: &CampaignArgs, client: &Client) -> Result<Term, Failure> {
    let (begun, secret) = (Instant::now(), random_id());
    let value = args.value.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    let candidate = args.candidate.clone().unwrap_or_else(default_owner);
    loop {
        let wait = args.wait.saturating_sub(begun.elapsed()).min(WAIT_CHUNK_MAX);
        let body = json!({
            "candidate": candidate, "value": value, "ttl_ms": millis(args.ttl), "wait_ms": millis(wait),
            "secret": secret,
        });
        let call = Call::post(path(&[&args.name, "campaign"])).json(&body).waits(wait);
        let sent = Instant::now();
        match client.json::<Value>(&call).await {
            Ok(shown) => {
                let lease = Lease::new(sent, args.ttl);
                let mut term = Term { shown, secret, lease };
                if Instant::now() >= lease.renew_at() {
                    // Won after a long wait: what the sending proves is nearly over, and nothing relies on it yet.
                    term.lease = Lease::new(Instant::now(), args.ttl);
                    term.lease = renewed(args, client, &term).await?;
                }
                return Ok(term);
            }
            Err(error) if is_no_win_yet(&error) && begun.elapsed() < args.wait => {
                // Refused before its wait was over: not at once again.
                if sent.elapsed() < wait {
                    tokio::time::sleep(RENEW_PAUSE).await;
                }
            }
            Err(error) => return Err(failure(error, &args.name)),
        }
    }
}

/// Renews when it is time to.
async fn kept(args: &CampaignArgs, client: &Client, term: &Term) -> Result<Lease, Failure> {
    tokio::time::sleep_until(term.lease.renew_at().into()).await;
    renewed(args, client, term).await
}

/// Renews, as often as it takes until the term counts as lost.
async fn renewed(args: &CampaignArgs, client: &Client, term: &Term) -> Result<Lease, Failure> {
    let renew = async {
        loop {
            let call = Call::post(path(&[&args.name, "renew"])).json(&json!({"secret": term.secret}));
            let (sent, time) = (Instant::now(), args.ttl / 6);
            match client.json::<Value>(&call.try_timeout(time).deadline(time)).await {
                Ok(renewed) => {
                    let ttl = renewed["ttl_ms"].as_u64().map_or(args.ttl, Duration::from_millis);
                    return Ok(Lease::new(sent, ttl));
                }
                Err(error) if error.code() == Some("not_leader") => return Err(failure(error, &args.name)),
                Err(_) => tokio::time::sleep(RENEW_PAUSE.min(time)).await,
            }
        }
    };
    tokio::time::timeout_at(term.lease.lost_at().into(), renew).await.unwrap_or_else(|_| {
        let words = format!("the term of {} could not be renewed in time", args.name);
        Err(Failure::new(Exit::LockLost, words))
    })
}

/// As for a lock: a term that was won and lost before we heard of it, or a wait that a node gave up, is no win.
fn is_no_win_yet(error: &Error) -> bool {
    matches!(error.code(), Some("election_held" | "election_timeout" | "term_lost" | "wait_cancelled"))
}

fn failure(error: Error, name: &str) -> Failure {
    match error.code() {
        Some("election_held" | "election_timeout") => {
            let leader =
                error.problem().and_then(|problem| problem.fields.get("leader")?["candidate"].as_str());
            let by = leader.map_or_else(String::new, |leader| format!(": {leader} leads"));
            Failure::new(Exit::NotAcquired, format!("the election {name} was not won in time{by}"))
                .help("wait longer with --wait, or look at it with `ovncp elections show`")
        }
        Some("not_leader" | "term_lost") => Failure::new(Exit::LockLost, error.to_string()),
        _ => error.into(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_leader_too() {
        let election = json!({"name": "e", "leader": null, "candidates": [], "candidates_count": 0});
        assert!(show_table(&election).contains("leader    (nobody)"), "{}", show_table(&election));
        let page = json!({"elections": [election], "next_cursor": null});
        assert!(list_table(&page).contains("(nobody)"));
        let ended = json!({"leader": null, "ended": {"candidate": "a", "reason": "maintenance"}});
        assert_eq!(observed("deposed", &ended), "nobody leads (a was deposed: maintenance)");
        let state = json!({"leader": {"candidate": "a", "fencing_token": "7", "value": {"url": "u"}}});
        assert_eq!(observed("state", &state), "a leads, token 7, {\"url\":\"u\"}");
    }
}
