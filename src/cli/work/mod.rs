//! A command that runs under a lock or during a term of office.
//!
//! The promise of `ovncp lock KEY -- CMD` and `ovncp elections campaign NAME -- CMD`: the command runs only while the
//! lock (the term) is certainly held, which the library judges by our own clock. When it is not certain any more, the
//! command's whole process group is ended before the lease is, whatever the reason: a partition, a slow node, a forced
//! release.
//!
//! CAVEATS. A command that leaves its process group, or a SIGSTOP of this process, escapes that. For those there
//! is the fencing token: pass `OVNCP_FENCING_TOKEN` to what the command writes to.

mod group;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ovncp::client::{Error, Guard, Leadership, Lease, Lost};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

pub(super) use self::group::{ExecUnderArgs, exec_under};

use self::group::Group;
use super::failure::{Exit, Failure, Outcome};

/// How long the command may go on after the loss is known.
const GRACE_AFTER_LOSS: Duration = Duration::from_secs(1);
/// Of the lease, so much is left when SIGKILL ends what SIGTERM did not: a share, and at most this.
const KILL_MARGIN_SHARE: u32 = 10;
const KILL_MARGIN_MAX: Duration = Duration::from_secs(1);
/// To give back at the end; the TTL does it otherwise.
const GIVE_BACK_PATIENCE: Duration = Duration::from_secs(3);

/// What a command runs under.
pub(super) enum Held {
    Lock(Guard),
    Term(Leadership),
}

impl Held {
    fn fencing_token(&self) -> u64 {
        match self {
            Held::Lock(guard) => guard.fencing_token(),
            Held::Term(leadership) => leadership.fencing_token(),
        }
    }

    fn lease(&self) -> Lease {
        match self {
            Held::Lock(guard) => guard.lease(),
            Held::Term(leadership) => leadership.lease(),
        }
    }

    async fn lost(&self) -> Lost {
        match self {
            Held::Lock(guard) => guard.lost().await,
            Held::Term(leadership) => leadership.lost().await,
        }
    }

    async fn give_back(self) -> Result<(), Error> {
        match self {
            Held::Lock(guard) => guard.release().await,
            Held::Term(leadership) => leadership.resign().await,
        }
    }
}

/// Something held and what is done under it.
pub(super) struct Work {
    name: String,
    held: Held,
    signals: Signals,
}

/// Why the command no longer runs.
enum End {
    Finished(std::process::ExitStatus),
    Lost(Lost),
}

impl Work {
    pub(super) fn new(name: &str, held: Held, signals: Signals) -> Work {
        Work { name: name.to_owned(), held, signals }
    }

    /// Runs the command, then gives back what it ran under. Its exit code is the result, unless it was ended.
    pub(super) async fn run(mut self, command: &[String], variables: &[(&str, &str)]) -> Outcome {
        let token = self.held.fencing_token().to_string();
        let variables: Vec<_> =
            variables.iter().copied().chain([("OVNCP_FENCING_TOKEN", token.as_str())]).collect();
        let mut group = match Group::spawn(command, &variables) {
            Ok(group) => group,
            Err(failure) => {
                self.give_back().await;
                return Err(failure);
            }
        };
        match self.watch(&mut group).await? {
            End::Finished(status) => {
                self.give_back().await;
                Ok(exit_code(group::code(status)))
            }
            End::Lost(why) => {
                eprintln!("ovncp: lost `{}` ({why}): ending the command", self.name);
                let now = Instant::now();
                let kill_at = kill_at(self.held.lease()).min(now + GRACE_AFTER_LOSS).max(now);
                group.end(kill_at).await;
                let words = format!("`{}` was lost: {why}", self.name);
                // It may be held still, if nobody could be asked: then nobody needs to wait for its end.
                self.give_back().await;
                Err(Failure::new(Exit::LockLost, words)
                    .help("the command was ended; its work may be half done"))
            }
        }
    }

    /// Runs nothing: holds until a signal ends it, then gives back.
    pub(super) async fn idle(mut self) -> Outcome {
        tokio::select! {
            biased;
            why = self.held.lost() => {
                let words = format!("`{}` was lost: {why}", self.name);
                self.give_back().await;
                Err(Failure::new(Exit::LockLost, words))
            }
            _ = self.signals.next() => {
                self.give_back().await;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// Until the command ends or what it runs under is lost.
    async fn watch(&mut self, group: &mut Group) -> Result<End, Failure> {
        let lost = self.held.lost();
        tokio::pin!(lost);
        loop {
            tokio::select! {
                biased;
                status = group.wait() => {
                    return Ok(End::Finished(status.map_err(|e| Failure::io("wait for the command", &e))?));
                }
                why = &mut lost => return Ok(End::Lost(why)),
                number = self.signals.next() => group.signal(number),
            }
        }
    }

    /// Failing that, its TTL ends it.
    async fn give_back(self) {
        let given = tokio::time::timeout(GIVE_BACK_PATIENCE, self.held.give_back()).await;
        if !matches!(given, Ok(Ok(()) | Err(Error::NotHolder(_) | Error::NotFound(_)))) {
            eprintln!("ovncp: could not give back `{}`: it ends by itself within its TTL", self.name);
        }
    }
}

/// SIGKILL to what is left, with time for it to take effect before the lease ends.
fn kill_at(lease: Lease) -> Instant {
    lease.ends_at() - (lease.ttl() / KILL_MARGIN_SHARE).min(KILL_MARGIN_MAX)
}

/// Who holds or leads, as others see it.
pub(super) fn default_name() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let host = rustix::system::uname();
    format!("{user}@{}:{}", host.nodename().to_string_lossy(), std::process::id())
}

/// What is passed on to the command.
pub(super) struct Signals(Vec<(i32, Listener)>);

impl Signals {
    pub(super) fn new() -> Result<Signals, Failure> {
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
    pub(super) async fn next(&mut self) -> i32 {
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

pub(super) fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
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
