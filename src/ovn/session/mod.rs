//! Keeps one session with one of the servers of a database, for ever.
//!
//! [`run`] goes around the endpoints; [`live`] is one connection from hand-shake to end:
//!
//! 1. It asks for `_Server` ([`server`]): has this server the database, does it lead, what is its schema?
//! 2. It asks for the contents since the last transaction that the replica holds ([`sync`]). A cluster that remembers
//!    it sends what was missed; else everything is sent, read aside, and swapped at once.
//! 3. It applies changes, sends transactions and barriers, and leaves when `_Server` says that the server will no
//!    longer do.

mod backoff;
mod live;
pub(crate) mod selection;
mod server;
mod sync;
pub(crate) mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use self::backoff::{Rotation, SUCCESS_AFTER};
use self::live::Live;
use self::transaction::{Ended, Transaction};
use crate::changes::Position;
use crate::database::Shared;
use crate::wire::connection::Connection;
use crate::wire::transport;

/// What callers hand to the session.
pub(crate) struct Inbox {
    pub(crate) transactions: mpsc::Receiver<Transaction>,
    pub(crate) barriers: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
}

/// What outlives a connection.
pub(crate) struct Memory {
    shared: Arc<Shared>,
    /// Text of the schema that the contents were read with, as the server gave it.
    schema: Option<Arc<str>>,
    /// The last transaction that the replica holds, as servers know it; nil when they do not.
    last: Uuid,
    /// Where the next position is made up, for servers that have none.
    made_up: u128,
    /// The farthest log that was seen of a cluster.
    seen: Option<(Uuid, i64)>,
}

impl Memory {
    /// Notes the server's last transaction, and says what position that is.
    fn advance(&mut self, last: Uuid) -> Position {
        self.last = last;
        if last.is_nil() {
            self.made_up = self.made_up.wrapping_add(1);
            Position(Uuid::from_u128(self.made_up))
        } else {
            Position(last)
        }
    }
}

/// Runs until the last handle is dropped.
pub(crate) async fn run(shared: Arc<Shared>, mut inbox: Inbox) {
    let settings = shared.settings.clone();
    // Readers of any member spread over them; who needs the leader starts where the operator says.
    let first = if settings.leader_only { 0 } else { rand::random_range(0..settings.endpoints.len()) };
    let mut rotation = Rotation::new(settings.endpoints.len(), first);
    let made_up = Uuid::new_v4().as_u128();
    let mut memory =
        Memory { shared: Arc::clone(&shared), schema: None, last: Uuid::nil(), made_up, seen: None };
    loop {
        let endpoint = &settings.endpoints[rotation.current()];
        shared.metrics.attempts.increment();
        shared.update_status(|status| status.endpoint = Some(endpoint.clone()));
        let connecting = transport::connect(endpoint, settings.tls.as_ref(), settings.connect_timeout);
        let (reason, synced_for) = match refusing(&shared, &mut inbox, connecting).await {
            None => return,
            Some(Err(error)) => (error.to_string(), Duration::ZERO),
            Some(Ok(stream)) => {
                let connection = Connection::new(stream, live::greeting_patience(&settings));
                let ended = Live::new(&mut memory, connection).run(&mut inbox).await;
                let Some(reason) = ended.reason else { return };
                (reason, ended.synced_at.map_or(Duration::ZERO, |at| at.elapsed()))
            }
        };
        let was_synced = !synced_for.is_zero();
        if was_synced {
            shared.metrics.sessions_lost.increment();
            tracing::warn!(database = settings.name, %endpoint, reason, "session lost");
        } else {
            tracing::debug!(database = settings.name, %endpoint, reason, "no session");
        }
        let problem = format!("{endpoint}: {reason}");
        shared.update_status(|status| {
            (status.connected, status.in_sync, status.leader) = (false, false, false);
            status.problem = Some(problem);
        });
        let wait = rotation.advance(synced_for >= SUCCESS_AFTER);
        if refusing(&shared, &mut inbox, tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Awaits `work`, and meanwhile tells callers that there is no session. None when there are no callers left.
async fn refusing<T>(shared: &Shared, inbox: &mut Inbox, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            transaction = inbox.transactions.recv() => {
                refuse(transaction?, no_session(shared));
            }
            barrier = inbox.barriers.recv() => {
                let _ = barrier?.send(Err(no_session(shared)));
            }
        }
    }
}

fn refuse(transaction: Transaction, reason: String) {
    // A caller that went away needs no answer; the same wherever callers are answered.
    let _ = transaction.ended.send(Ended::NotSent(reason));
}

fn no_session(shared: &Shared) -> String {
    shared.problem().unwrap_or_else(|| "no session yet".to_owned())
}

/// How a connection ended.
struct Ending {
    /// Why; none when no callers are left.
    reason: Option<String>,
    /// Since when it had been in sync.
    synced_at: Option<Instant>,
}
