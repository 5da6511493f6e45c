//! A term of office that is kept, and that knows when it is over.

use std::future::Future;
use std::time::Duration;

use super::elections::Term;
use super::keeper::{Keeper, LossSignal, Lost};
use super::lease::Lease;
use super::tenure::Tenure;
use super::{Client, Error};

/// A term that is renewed in the background until it is resigned, dropped or lost. It is a lock in all but name, and
/// kept as one: whether it still stands is judged by the sending of the last renewal that was acknowledged.
///
/// Dropped, it resigns in the background, as well as that goes while the runtime lives.
#[derive(Debug)]
pub struct Leadership {
    term: Term,
    keeper: Keeper,
}

impl Leadership {
    /// Takes over a term that was just won.
    pub(super) async fn begin(client: Client, tenure: Tenure, term: Term) -> Result<Self, Error> {
        let keeper = Keeper::begin(client, tenure, term.lease).await?;
        Ok(Self { term, keeper })
    }

    /// The election.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.term.name
    }

    /// Who leads.
    #[must_use]
    pub fn candidate(&self) -> &str {
        &self.term.candidate
    }

    /// Higher than that of every earlier term: pass it to what the leader writes to.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.term.fencing_token
    }

    /// How long it was waited for.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.term.waited
    }

    /// The lease as the last acknowledged renewal proves it.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.keeper.lease()
    }

    /// Whether this certainly leads at this moment.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.keeper.is_held()
    }

    /// Resolves when the term does not stand with certainty any more, always before its lease ends.
    pub async fn lost(&self) -> Lost {
        self.keeper.lost().await
    }

    /// For tasks that work during the term.
    #[must_use]
    pub fn signal(&self) -> LossSignal {
        self.keeper.signal()
    }

    /// Does some work while this leads, and drops it when the term may be over. A future is stopped at its next
    /// `await`: what blocks a thread must look at [`signal`](Self::signal) itself.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        self.keeper.run(work).await
    }

    /// Stops renewing and resigns: the next candidate is elected at once. [`Error::NotHolder`] says that the term was
    /// over before, and [`Error::Unknown`] that nobody confirmed it: then it ends with its TTL at the latest.
    pub async fn resign(self) -> Result<(), Error> {
        self.keeper.give_back().await
    }
}
