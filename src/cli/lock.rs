//! `lock` runs a command while holding a lock; `locks` lists them.
//!
//! How a command runs under a lock, and only while it is certainly held, is in `work/`.

use std::process::ExitCode;
use std::time::Duration;

use ovncp::client::{Call, Client, Error, Holder, Mode};
use serde_json::Value;

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, duration, table, text};
use super::work::{Held, Signals, Work, default_name, exit_code};

/// Run a command while holding a lock.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp lock deploy -- ./deploy.sh
  ovncp lock switch:update:42 --ttl 10s --wait 0s -- ovn-nbctl ls-add sw42
  ovncp lock report --shared --wait 1m -- sh -c 'echo token $OVNCP_FENCING_TOKEN'

The command sees OVNCP_LOCK_KEY and OVNCP_FENCING_TOKEN and runs in a process group of its own. Signals are passed
on to it, its exit code is the result, and it cannot read from the terminal (files and pipes are fine).
Ends with 5 when the lock was not acquired in time, and with 6 when it was lost: then the whole process group was
ended before the lock could go to somebody else.")]
pub(crate) struct LockArgs {
    /// What to lock
    key: String,
    /// How long the lock outlives this process when it cannot release it; renewed at a third of it
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How long to wait for the lock; 0s tries once
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Share it with other shared holders
    #[arg(long)]
    shared: bool,
    /// Who holds it, as others see it [default: USER@HOST:PID]
    #[arg(long)]
    owner: Option<String>,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// List locks: holders, tokens, queues.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp locks
  ovncp locks --prefix switch: -o json")]
pub(crate) struct LocksArgs {
    /// What keys begin with
    #[arg(long, default_value = "")]
    prefix: String,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u16,
}

pub(crate) async fn hold(args: LockArgs, client: Client) -> Outcome {
    let mut signals = Signals::new()?;
    let request = client
        .lock(args.key.clone())
        .owner(args.owner.clone().unwrap_or_else(default_name))
        .mode(if args.shared { Mode::Shared } else { Mode::Exclusive })
        .ttl(args.ttl)
        .wait(args.wait);
    let acquired = tokio::select! {
        acquired = request.guard() => acquired,
        // Not held, or not known to be: what was granted meanwhile ends with its TTL at the latest.
        number = signals.next() => return Ok(exit_code(128 + number)),
    };
    let guard = acquired.map_err(|error| not_acquired(&args, error))?;
    if !args.quiet {
        let (token, waited) = (guard.fencing_token(), duration(guard.waited()));
        eprintln!("ovncp: holding `{}`, fencing token {token}, waited {waited}", args.key);
    }
    let variables = [("OVNCP_LOCK_KEY", args.key.as_str())];
    Work::new(&args.key, Held::Lock(guard), signals).run(&args.command, &variables).await
}

fn not_acquired(args: &LockArgs, error: Error) -> Failure {
    let late = |holder: &Option<Holder>| {
        let holder = holder.as_ref().map_or_else(String::new, |holder| format!(", held by {}", holder.owner));
        let waited = humantime::format_duration(args.wait);
        Failure::new(Exit::NotAcquired, format!("`{}` was not acquired within {waited}{holder}", args.key))
            .help(format!("wait longer with --wait, or look at it with `ovncp locks --prefix {}`", args.key))
    };
    match &error {
        Error::LockHeld { holder, .. } | Error::LockTimeout { holder, .. } => late(holder),
        Error::LockLost(_) => late(&None),
        // Granted, and gone before anything ran under it.
        Error::NotHolder(problem) => {
            Failure::new(Exit::LockLost, format!("the lock was lost: {problem}")).help("nothing was run")
        }
        _ => error.into(),
    }
}

pub(crate) async fn list(args: &LocksArgs, client: &Client, format: Format) -> Outcome {
    let call = Call::get(["api", "v1", "cluster", "locks"]).query("limit", args.limit.to_string());
    let call = if args.prefix.is_empty() { call } else { call.query("prefix", args.prefix.clone()) };
    format.print(&client.json::<Value>(&call).await?, locks_table)?;
    Ok(ExitCode::SUCCESS)
}

/// A line per holder; a key that is only waited for has one too.
fn locks_table(view: &Value) -> String {
    let mut rows = Vec::new();
    for lock in view["locks"].as_array().into_iter().flatten() {
        let queue = text(lock, "queue_length");
        let holders = lock["holders"].as_array().cloned().unwrap_or_default();
        if holders.is_empty() {
            rows.push(vec![text(lock, "key"), "-".into(), "-".into(), "-".into(), "-".into(), queue.clone()]);
        }
        for holder in &holders {
            let mut row = vec![text(lock, "key")];
            row.extend(["mode", "owner", "fencing_token", "expires"].map(|field| text(holder, field)));
            row.push(queue.clone());
            rows.push(row);
        }
    }
    let more = if view["next_cursor"].is_null() { "" } else { "\n(more: raise --limit or name a --prefix)" };
    format!("{}{more}", table(&["KEY", "MODE", "OWNER", "TOKEN", "EXPIRES", "QUEUE"], rows))
}
