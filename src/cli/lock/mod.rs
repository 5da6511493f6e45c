//! `lock` runs a command while holding a lock; `locks` lists them.
//!
//! The promise of `ovncp lock KEY -- CMD`: the command runs only while the lock is certainly held, which the
//! library's guard judges by our own clock. When it is not certain any more, the command's whole process group is
//! ended before the lease is, whatever the reason: a partition, a slow node, a forced release.
//!
//! CAVEATS. A command that leaves its process group, or a SIGSTOP of this process, escapes that. For those there
//! is the fencing token: pass `OVNCP_FENCING_TOKEN` to what the command writes to.

mod group;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ovncp::client::{Call, Client, Error, Guard, Holder, Lease, Lost, Mode};
use serde_json::Value;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

pub(super) use self::group::{ExecUnderArgs, exec_under};

use self::group::Group;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, duration, table, text};

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

/// How long the command may go on after the lock is known to be lost.
const GRACE_AFTER_LOSS: Duration = Duration::from_secs(1);
/// Of the lease, so much is left when SIGKILL ends what SIGTERM did not: a share, and at most this.
const KILL_MARGIN_SHARE: u32 = 10;
const KILL_MARGIN_MAX: Duration = Duration::from_secs(1);
/// To give the lock back at the end; its TTL does it otherwise.
const RELEASE_PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn hold(args: LockArgs, client: Client) -> Outcome {
    let mut signals = Signals::new()?;
    let request = client
        .lock(args.key.clone())
        .owner(args.owner.clone().unwrap_or_else(default_owner))
        .mode(if args.shared { Mode::Shared } else { Mode::Exclusive })
        .ttl(args.ttl)
        .wait(args.wait);
    let acquired = tokio::select! {
        acquired = request.guard() => acquired,
        // Not held, or not known to be: what was granted meanwhile ends with its TTL at the latest.
        number = signals.next() => return Ok(exit_code(128 + number)),
    };
    let guard = acquired.map_err(|error| not_acquired(&args, error))?;
    let token = guard.fencing_token().to_string();
    if !args.quiet {
        let waited = duration(guard.waited());
        eprintln!("ovncp: holding `{}`, fencing token {token}, waited {waited}", args.key);
    }
    match Group::spawn(&args.command, &args.key, &token) {
        Ok(group) => Work { key: args.key, guard, group, signals }.run().await,
        Err(failure) => {
            release(guard, &args.key).await;
            Err(failure)
        }
    }
}

/// A held lock and what runs under it.
struct Work {
    key: String,
    guard: Guard,
    group: Group,
    signals: Signals,
}

/// Why the command no longer runs.
enum End {
    Finished(std::process::ExitStatus),
    Lost(Lost),
}

impl Work {
    async fn run(mut self) -> Outcome {
        match self.watch().await? {
            End::Finished(status) => {
                release(self.guard, &self.key).await;
                Ok(exit_code(group::code(status)))
            }
            End::Lost(why) => {
                eprintln!("ovncp: lost `{}` ({why}): ending the command", self.key);
                let now = Instant::now();
                let kill_at = kill_at(self.guard.lease()).min(now + GRACE_AFTER_LOSS).max(now);
                self.group.end(kill_at).await;
                // It may be held still, if nobody could be asked: then nobody needs to wait for its end.
                release(self.guard, &self.key).await;
                Err(Failure::new(Exit::LockLost, format!("`{}` was lost: {why}", self.key))
                    .help("the command was ended; its work may be half done"))
            }
        }
    }

    /// Until the command ends or the lock is lost.
    async fn watch(&mut self) -> Result<End, Failure> {
        let lost = self.guard.lost();
        tokio::pin!(lost);
        loop {
            tokio::select! {
                biased;
                status = self.group.wait() => {
                    return Ok(End::Finished(status.map_err(|e| Failure::io("wait for the command", &e))?));
                }
                why = &mut lost => return Ok(End::Lost(why)),
                number = self.signals.next() => self.group.signal(number),
            }
        }
    }
}

/// SIGKILL to what is left, with time for it to take effect before the lease ends.
fn kill_at(lease: Lease) -> Instant {
    lease.ends_at() - (lease.ttl() / KILL_MARGIN_SHARE).min(KILL_MARGIN_MAX)
}

/// Gives the lock back; failing that, its TTL will.
async fn release(guard: Guard, key: &str) {
    let released = tokio::time::timeout(RELEASE_PATIENCE, guard.release()).await;
    if !matches!(released, Ok(Ok(()) | Err(Error::NotHolder(_) | Error::NotFound(_)))) {
        eprintln!("ovncp: could not release `{key}`: it ends by itself within its TTL");
    }
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

pub(super) fn default_owner() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let host = rustix::system::uname();
    format!("{user}@{}:{}", host.nodename().to_string_lossy(), std::process::id())
}

/// What is passed on to the command.
struct Signals(Vec<(i32, Listener)>);

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let listen = |kind: SignalKind| Ok((kind.as_raw_value(), signal(kind)?));
        let all: std::io::Result<Vec<_>> = kinds.into_iter().map(listen).collect();
        Ok(Signals(all.map_err(|e| Failure::io("listen to signals", &e))?))
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, listener) in &mut self.0 {
                if listener.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_ended_when_the_lock_is_lost_and_killed_before_the_lease_ends() {
        let now = Instant::now();
        for ttl_ms in [500, 1_000, 30_000, 86_400_000] {
            let lease = Lease::new(now, Duration::from_millis(ttl_ms));
            assert!(lease.lost_at() < kill_at(lease), "{ttl_ms}");
            assert!(kill_at(lease) < lease.ends_at(), "{ttl_ms}");
        }
    }
}
