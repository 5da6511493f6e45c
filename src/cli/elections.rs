//! `elections`: who leads what, and leading from a shell.

use std::process::ExitCode;
use std::time::Duration;

use ovncp::client::{Call, Client, Error, Holder, Term};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, fields, print_line, table, text};
use super::watch;
use super::work::{Held, Signals, Work, default_name, exit_code};

/// Show, observe and hold named elections.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp elections list
  ovncp elections show scheduler
  ovncp elections observe scheduler           who leads, as it changes; says when nobody does
  ovncp elections campaign scheduler          wait, lead until Ctrl-C, then resign
  ovncp elections campaign scheduler --wait 1h -- ./scheduler.sh

campaign ends with 5 when the election was not won in time, and with 6 when the term was lost. A command after `--` runs
as under `ovncp lock`: it sees OVNCP_ELECTION and OVNCP_FENCING_TOKEN, its exit code is the result, and when the term is
lost its whole process group is ended before the next leader can be elected.")]
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
    /// Wait to lead, then lead until Ctrl-C or SIGTERM, or while a command runs
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
    #[arg(long, conflicts_with = "command")]
    once: bool,
    /// With a command: say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The command to run while leading, and its arguments; without one nothing but leading is done
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
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
            client.election(&name).resign(&secret).await.map_err(|error| match error {
                Error::NotHolder(problem) => Failure::new(Exit::LockLost, problem.to_string()),
                other => other.into(),
            })?;
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

async fn campaign(args: &CampaignArgs, client: &Client, format: Format) -> Outcome {
    let mut signals = Signals::new()?;
    let value = args.value.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    let campaign = client
        .election(&args.name)
        .campaign()
        .candidate(args.candidate.clone().unwrap_or_else(default_name))
        .ttl(args.ttl)
        .wait(args.wait);
    let campaign = match value {
        Some(value) => campaign.value(value),
        None => campaign,
    };
    if args.once {
        let term = tokio::select! {
            term = campaign.win() => term.map_err(|error| not_elected(args, error))?,
            // What was won meanwhile ends with its TTL at the latest.
            number = signals.next() => return Ok(exit_code(128 + number)),
        };
        format.print(&shown(&term), term_table)?;
        return Ok(ExitCode::SUCCESS);
    }
    let leadership = tokio::select! {
        leadership = campaign.lead() => leadership.map_err(|error| not_elected(args, error))?,
        number = signals.next() => return Ok(exit_code(128 + number)),
    };
    let token = leadership.fencing_token();
    let won = json!({
        "name": args.name, "candidate": leadership.candidate(), "fencing_token": token.to_string(),
    });
    let line = format!("leading {}, token {token}", args.name);
    let work = Work::new(&args.name, Held::Term(leadership), signals);
    if args.command.is_empty() {
        match format {
            Format::Table => print_line(&line),
            other => other.print(&won, term_table)?,
        }
        return work.idle().await;
    }
    if !args.quiet {
        eprintln!("ovncp: {line}");
    }
    work.run(&args.command, &[("OVNCP_ELECTION", &args.name)]).await
}

fn shown(term: &Term) -> Value {
    json!({
        "name": term.name,
        "candidate": term.candidate,
        "fencing_token": term.fencing_token.to_string(),
        "ttl_ms": u64::try_from(term.lease.ttl().as_millis()).unwrap_or(u64::MAX),
        "secret": term.secret,
    })
}

fn term_table(term: &Value) -> String {
    let rows = ["name", "candidate", "fencing_token", "ttl_ms", "secret"];
    fields(&rows.map(|field| (field, text(term, field))))
}

fn not_elected(args: &CampaignArgs, error: Error) -> Failure {
    let late = |leader: &Option<Holder>| {
        let by = leader.as_ref().map_or_else(String::new, |leader| format!(": {} leads", leader.owner));
        let waited = humantime::format_duration(args.wait);
        Failure::new(Exit::NotAcquired, format!("the election {} was not won within {waited}{by}", args.name))
            .help("wait longer with --wait, or look at it with `ovncp elections show`")
    };
    match &error {
        Error::ElectionHeld { leader, .. } | Error::ElectionTimeout { leader, .. } => late(leader),
        Error::LockLost(_) => late(&None),
        // Won, and over before anything ran under it.
        Error::NotHolder(problem) => {
            Failure::new(Exit::LockLost, format!("the term was lost: {problem}")).help("nothing was run")
        }
        _ => error.into(),
    }
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
