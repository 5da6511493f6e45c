//! One client at work: asks, records, and goes on under another number when it does not know what happened.

use rand::RngExt;
use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Answer, Call, Client, Outcome};
use crate::history::{Invocation, Kind, Process};

use super::{ClientContext, Endpoint, WorkloadError};

/// Share of the requests that go to another node than the client's own.
const AWAY: f64 = 0.15;
/// What a request without an answer in time is called; see [`crate::client`].
const TIME_OUT: &str = "timeout";

/// A client at work.
pub(super) struct Actor {
    pub(super) context: ClientContext,
    http: Client,
    process: Process,
    /// Highest index that the present process has seen in an answer.
    index_seen: u64,
}

impl Actor {
    pub(super) fn new(context: ClientContext) -> Result<Self, WorkloadError> {
        let process = context.recorder.new_process();
        Ok(Self { context, http: Client::new()?, process, index_seen: 0 })
    }

    /// Waits until the next operation may begin and somebody is there to be asked; `false` when the run ends.
    pub(super) async fn goes_on(&mut self) -> bool {
        self.context.pace.wait().await;
        tokio::select! {
            biased;
            _ = self.context.stop.wait_for(|stop| *stop) => false,
            found = self.context.nodes.wait_for(|nodes| !nodes.is_empty()) => found.is_ok(),
        }
    }

    /// As [`Actor::goes_on`], for somebody who holds what others wait for: the time is made up for afterwards.
    pub(super) fn goes_on_at_once(&mut self) -> bool {
        self.context.pace.owe();
        !*self.context.stop.borrow()
    }

    /// Whom to ask next: mostly the client's own node. `None` while there is none at all.
    pub(super) fn node(&mut self) -> Option<Endpoint> {
        if self.chance(AWAY) {
            return self.any_node();
        }
        let nodes = self.context.nodes.borrow();
        nodes.get(self.context.number as usize % nodes.len().max(1)).cloned()
    }

    /// Any node. `None` while there is none at all.
    pub(super) fn any_node(&mut self) -> Option<Endpoint> {
        let nodes = self.context.nodes.borrow();
        nodes.get(self.context.rng.random_range(0..nodes.len().max(1))).cloned()
    }

    /// Names of objects of which each has so many clients.
    pub(super) fn objects(&self, prefix: &str, clients_per_object: u32) -> Vec<String> {
        self.context.shared.objects(prefix, clients_per_object)
    }

    /// One of several; there must be one.
    pub(super) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.context.rng.random_range(0..choices.len())]
    }

    /// Does nothing until then; `false` when the run ends meanwhile.
    pub(super) async fn sleep_until(&mut self, then: Instant) -> bool {
        tokio::select! {
            () = tokio::time::sleep_until(then) => true,
            _ = self.context.stop.wait_for(|stop| *stop) => false,
        }
    }

    /// Whether to do what is done with this share of the tries.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.context.rng.random_bool(share)
    }

    /// Highest index that this process knows of.
    pub(super) fn index_seen(&self) -> u64 {
        self.index_seen
    }

    /// Records that an operation begins.
    pub(super) fn begin(
        &self,
        f: &str,
        key: Option<&str>,
        node: Option<&Endpoint>,
        value: Value,
    ) -> Invocation {
        let invocation = Invocation {
            process: self.process,
            f: f.to_owned(),
            key: key.map(str::to_owned),
            node: node.map(|node| node.name.clone()),
        };
        self.context.recorder.invoke(&invocation, value);
        invocation
    }

    /// Sends one request of an operation.
    pub(super) async fn ask(&mut self, node: &Endpoint, call: &Call) -> Outcome<Answer> {
        let outcome = self.http.ask(&node.url, call).await;
        if let Outcome::Ok(answer) = &outcome {
            self.index_seen = self.index_seen.max(answer.index.unwrap_or(0));
        }
        outcome
    }

    /// Sends one request of an operation; an answer counts whatever its status.
    pub(super) async fn send(&mut self, node: &Endpoint, call: &Call) -> Outcome<Answer> {
        let outcome = self.http.send(&node.url, call).await;
        if let Outcome::Ok(answer) = &outcome {
            self.index_seen = self.index_seen.max(answer.index.unwrap_or(0));
        }
        outcome
    }

    /// Records how an operation ended. After an unknown end the client is another process.
    pub(super) fn end(&mut self, invocation: &Invocation, outcome: Outcome<Value>) {
        self.end_with(invocation, outcome, None);
    }

    /// As [`Actor::end`], with a remark about an operation that happened.
    pub(super) fn end_with(
        &mut self,
        invocation: &Invocation,
        outcome: Outcome<Value>,
        remark: Option<String>,
    ) {
        let recorder = &self.context.recorder;
        match outcome {
            Outcome::Ok(value) => recorder.complete(invocation, Kind::Ok, value, remark),
            Outcome::Fail(code) => recorder.complete(invocation, Kind::Fail, Value::Null, Some(code)),
            Outcome::Unknown(code) if self.context.time_out_fails && code == TIME_OUT => {
                recorder.complete(invocation, Kind::Fail, Value::Null, Some(code));
            }
            Outcome::Unknown(code) => {
                recorder.complete(invocation, Kind::Info, Value::Null, Some(code));
                self.process = recorder.new_process();
                // A new process has seen nothing yet.
                self.index_seen = 0;
            }
        }
    }
}
