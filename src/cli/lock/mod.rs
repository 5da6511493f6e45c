//! `lock` runs a command while holding a lock; `locks` lists them.
//!
//! The promise of `ovncp lock KEY -- CMD`: the command runs only while the lock is certainly held. Certainty
//! comes from our own clock: a lease that was acknowledged is good for its TTL from the moment its request was
//! *sent*. When that time runs out without a newer acknowledgement, the command's whole process group is ended
//! before the TTL is (`lease.rs`), whatever the reason: a partition, a slow node, a forced release.
//!
//! CAVEATS. A command that leaves its process group, or a SIGSTOP of this process, escapes that. For those there
//! is the fencing token: pass `OVNCP_FENCING_TOKEN` to what the command writes to.

mod acquire;
mod group;
mod lease;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

pub(super) use self::group::{ExecUnderArgs, exec_under};

use self::acquire::{Held, Renewal};
use self::group::Group;
use self::lease::Lease;
use super::client::{Call, Client};
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
    pub(super) key: String,
    /// How long the lock outlives this process when it cannot release it; renewed at a third of it
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) ttl: Duration,
    /// How long to wait for the lock; 0s tries once
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
    /// Share it with other shared holders
    #[arg(long)]
    pub(super) shared: bool,
    /// Who holds it, as others see it [default: USER@HOST:PID]
    #[arg(long)]
    pub(super) owner: Option<String>,
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

pub(crate) async fn hold(args: LockArgs, client: Client) -> Outcome {
    let mut signals = Signals::new()?;
    let acquired = tokio::select! {
        held = acquire::acquire(&client, &args) => held,
        // Not held, or not known to be: what was granted meanwhile ends with its TTL at the latest.
        number = signals.next() => return Ok(exit_code(128 + number)),
    };
    let held = acquired?;
    if !args.quiet {
        let waited = duration(held.waited);
        eprintln!("ovncp: holding `{}`, fencing token {}, waited {waited}", held.key, held.token);
    }
    let group = match Group::spawn(&args.command, &held.key, &held.token) {
        Ok(group) => group,
        Err(failure) => {
            acquire::release(&client, &held).await;
            return Err(failure);
        }
    };
    Guard { client: &client, held, group, signals }.run().await
}

/// A held lock and what runs under it.
struct Guard<'a> {
    client: &'a Client,
    held: Held,
    group: Group,
    signals: Signals,
}

/// Why the command no longer runs.
enum End {
    Finished(std::process::ExitStatus),
    Lost(String),
}

enum Step {
    Renewed(Lease),
    Ended(End),
}

impl Guard<'_> {
    async fn run(mut self) -> Outcome {
        let end = self.watch().await?;
        match end {
            End::Finished(status) => {
                acquire::release(self.client, &self.held).await;
                Ok(exit_code(group::code(status)))
            }
            End::Lost(why) => {
                eprintln!("ovncp: lost `{}` ({why}): ending the command", self.held.key);
                let now = Instant::now();
                let kill_at = self.held.lease.kill_at().min(now + GRACE_AFTER_LOSS).max(now);
                self.group.end(kill_at).await;
                // It may be held still, if nobody could be asked: then nobody needs to wait for its end.
                acquire::release(self.client, &self.held).await;
                Err(Failure::new(Exit::LockLost, format!("the lock `{}` was lost: {why}", self.held.key))
                    .help("the command was ended; its work may be half done"))
            }
        }
    }

    /// Renews until the command ends or the lock is lost.
    async fn watch(&mut self) -> Result<End, Failure> {
        loop {
            match self.until_renewed().await? {
                Step::Renewed(lease) => self.held.lease = lease,
                Step::Ended(end) => return Ok(end),
            }
        }
    }

    /// Until the next renewal is acknowledged or there is nothing to renew any more.
    async fn until_renewed(&mut self) -> Result<Step, Failure> {
        let (client, held, lease) = (self.client, &self.held, self.held.lease);
        let renewal = async {
            tokio::time::sleep_until(lease.renew_at().into()).await;
            acquire::renew(client, held).await
        };
        tokio::pin!(renewal);
        loop {
            tokio::select! {
                // In this order: a lease that ran out is over even if an answer came at the same moment.
                biased;
                status = self.group.wait() => {
                    let status = status.map_err(|e| Failure::io("wait for the command", &e))?;
                    return Ok(Step::Ended(End::Finished(status)));
                }
                () = tokio::time::sleep_until(lease.end_at().into()) => {
                    return Ok(Step::Ended(End::Lost("it could not be renewed in time".to_owned())));
                }
                renewed = &mut renewal => return Ok(match renewed {
                    Renewal::Held(lease) => Step::Renewed(lease),
                    Renewal::Lost(why) => Step::Ended(End::Lost(why)),
                }),
                number = self.signals.next() => self.group.signal(number),
            }
        }
    }
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
    let call = if args.prefix.is_empty() { call } else { call.query("prefix", &args.prefix) };
    format.print(&client.json(&call).await?, locks_table)?;
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
