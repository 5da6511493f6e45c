//! Channels that read a log of the cluster directly: they belong to the socket, not to the session.

use std::sync::Arc;

use ovncp_state::EventOffset;
use ovncp_state::invalidations::Invalidation;
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::frames::{self, Logs, Say, Since};
use crate::api::App;
use crate::api::error::ApiError;
use crate::api::events::ClusterEvent;
use crate::api::invalidations::InvalidationEntry;
use crate::api::network::events::{NetworkEvent, parse_position};
use crate::services::sessions::node_name;
use crate::services::{events, invalidations, network};

/// The logs that a socket reads. Nothing is allocated before it reads one.
#[derive(Default)]
pub(super) struct Tails {
    events: Option<Box<events::Watcher>>,
    invalidations: Option<Box<invalidations::Subscription>>,
    ovn: Option<Box<network::Watcher>>,
}

/// What a log has to tell: frames, in order.
pub(super) struct Tail(pub(super) Vec<Utf8Bytes>);

impl Tails {
    /// Begins to read what is asked for and not read yet.
    pub(super) fn open(app: &App, present: &Self, logs: Logs<Option<Since>>) -> Result<Self, ApiError> {
        let mut opened = Self::default();
        if let Some(Since(since)) = logs.events.filter(|_| present.events.is_none()) {
            let since = since.map(|text| text.parse().map(EventOffset)).transpose();
            let since = since.map_err(|_| ApiError::invalid("since", "is not an offset of an event"))?;
            opened.events = Some(Box::new(app.events.watch(since, |_| ())?.0));
        }
        if let Some(Since(since)) = logs.invalidations.filter(|_| present.invalidations.is_none()) {
            let since = since.map(|text| text.parse()).transpose();
            let since = since.map_err(|_| ApiError::invalid("since", "is no `epoch:offset`"))?;
            opened.invalidations = Some(Box::new(app.invalidations.subscribe(since)?));
        }
        if let Some(Since(since)) = logs.ovn.filter(|_| present.ovn.is_none()) {
            let since = since.as_deref().map(parse_position).transpose()?;
            opened.ovn = Some(Box::new(app.network.feed()?.watch(since)?));
        }
        Ok(opened)
    }

    pub(super) fn join(&mut self, opened: Self) {
        self.events = self.events.take().or(opened.events);
        self.invalidations = self.invalidations.take().or(opened.invalidations);
        self.ovn = self.ovn.take().or(opened.ovn);
    }

    pub(super) fn close(&mut self, logs: &Logs<bool>) {
        if logs.events {
            self.events = None;
        }
        if logs.invalidations {
            self.invalidations = None;
        }
        if logs.ovn {
            self.ovn = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_none() && self.invalidations.is_none() && self.ovn.is_none()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let events = self.events.is_some().then_some(frames::EVENTS);
        let invalidations = self.invalidations.is_some().then_some(frames::INVALIDATIONS);
        let ovn = self.ovn.is_some().then_some(frames::OVN);
        events.into_iter().chain(invalidations).chain(ovn)
    }

    /// Waits for what comes next. Cancel-safe.
    pub(super) async fn next(&mut self, app: &App) -> Tail {
        let Self { events, invalidations, ovn } = self;
        tokio::select! {
            step = next_event(events) => Tail(event_texts(step)),
            told = next_change(ovn) => Tail(change_texts(app, &told)),
            (epoch, step) = next_invalidation(invalidations) => Tail(invalidation_texts(app, epoch, step)),
        }
    }
}

async fn next_event(watcher: &mut Option<Box<events::Watcher>>) -> events::Step {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

/// A database that is closed has nothing more to tell.
async fn next_change(watcher: &mut Option<Box<network::Watcher>>) -> network::Told {
    match watcher {
        Some(watcher) => match watcher.next().await {
            Some(told) => told,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// With the epoch of what comes.
async fn next_invalidation(
    subscription: &mut Option<Box<invalidations::Subscription>>,
) -> (u16, invalidations::Step) {
    match subscription {
        Some(subscription) => {
            let step = subscription.next().await;
            (subscription.position().epoch, step)
        }
        None => std::future::pending().await,
    }
}

fn event_text(channel: &'static str, offset: String, at_ms: u64, data: &impl Serialize) -> Utf8Bytes {
    // From our own structs: it cannot fail.
    let data = to_raw_value(data).unwrap_or_default();
    Say::Event { channel, offset, at_ms, data: &data }.text().into()
}

fn reset_text(channel: &'static str, first: String, next: String) -> Vec<Utf8Bytes> {
    vec![Say::Reset { channel: Some(channel), first, next }.text().into()]
}

fn event_texts(step: events::Step) -> Vec<Utf8Bytes> {
    let events = match step {
        events::Step::Events(events) => events,
        events::Step::Reset(reset) => {
            return reset_text(frames::EVENTS, reset.first.to_string(), reset.next.to_string());
        }
    };
    let text = |kept: &Arc<events::Kept>| {
        let (offset, at_ms) = (kept.event.offset.to_string(), kept.event.at.0);
        event_text(frames::EVENTS, offset, at_ms, &ClusterEvent::new(kept))
    };
    events.iter().map(text).collect()
}

fn invalidation_texts(app: &App, epoch: u16, step: invalidations::Step) -> Vec<Utf8Bytes> {
    let entries = match step {
        invalidations::Step::Entries(entries) => entries,
        invalidations::Step::Reset { first, next } => {
            return reset_text(frames::INVALIDATIONS, first.to_string(), next.to_string());
        }
    };
    let text = |entry: &Arc<Invalidation>| {
        let (now, origin) = app.events.look(|state| (state.now(), node_name(state, entry.origin)));
        // As `since` takes it.
        let offset = format!("{epoch}:{}", entry.offset);
        let data = InvalidationEntry::new(epoch, entry, origin, now);
        event_text(frames::INVALIDATIONS, offset, entry.at.0, &data)
    };
    entries.iter().map(text).collect()
}

fn change_texts(app: &App, told: &network::Told) -> Vec<Utf8Bytes> {
    let changes = match told {
        network::Told::Changes(changes) => changes,
        network::Told::Reset(position) => {
            return reset_text(frames::OVN, position.to_string(), position.to_string());
        }
    };
    // OVN keeps no times: it is told now.
    let at_ms = app.events.look(|state| state.now()).0;
    let text = |change: &network::Change| {
        // As `since` takes it.
        event_text(frames::OVN, change.resume.to_string(), at_ms, &NetworkEvent::new(change))
    };
    changes.iter().map(text).collect()
}
