//! What readers see of sessions.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::SessionRecord;
use super::view::{MigrationView, SessionFilter, SessionTotals, SessionView};
use crate::clock::Lease;
use crate::name::Name;
use crate::{LogIndex, NodeId, SessionId, SessionNumber, State};

impl State {
    /// A live session.
    pub fn session(&self, number: SessionNumber) -> Option<SessionView> {
        self.live_session(number).map(|record| self.view_of(record))
    }

    /// The live session with this id, or with the one that it replaced while that still works.
    pub fn session_by_id(&self, id: &SessionId) -> Option<SessionView> {
        self.session_of(id).ok().map(|record| self.view_of(record))
    }

    /// At most `limit` live sessions in the order of their numbers, strictly after `after`.
    pub fn sessions(
        &self,
        after: Option<SessionNumber>,
        limit: usize,
        filter: SessionFilter<'_>,
    ) -> Vec<SessionView> {
        let from = after.map_or(SessionNumber(0), |after| SessionNumber(after.0.saturating_add(1)));
        let numbers: Box<dyn Iterator<Item = SessionNumber>> = match (filter.user, filter.node) {
            (Some(user), _) => Box::new(self.numbers_of_user(user, from)),
            (None, Some(node)) => {
                let start = (node, from);
                let entries = self.sessions.by_node.iter_from(move |key| *key < start);
                let of_node = entries.take_while(move |((other, _), ())| *other == node);
                Box::new(of_node.map(|((_, number), ())| *number))
            }
            (None, None) => {
                let entries = self.sessions.table.iter_from(move |number| *number < from);
                Box::new(entries.map(|record| record.number))
            }
        };
        numbers
            .filter_map(|number| self.live_session(number))
            .filter(|record| filter.node.is_none_or(|node| record.node == node))
            .take(limit)
            .map(|record| self.view_of(record))
            .collect()
    }

    /// Live sessions of one node.
    pub fn session_totals(&self, node: NodeId) -> SessionTotals {
        let load = self.sessions.load(node);
        let mut totals = SessionTotals { known: load.known, attached: load.sockets };
        if !self.has_leftovers() {
            return totals;
        }
        let numbers = self.deadlines.ended(self.meta.now).filter_map(|lease| match lease {
            Lease::Session(number) => Some(number),
            _ => None,
        });
        let of_node = |number: &&SessionNumber| {
            self.sessions.table.get(*number).is_some_and(|record| record.node == node)
        };
        totals.known -= numbers.filter(of_node).count() as u64;
        for record in self.lost_sockets_of(node) {
            totals.attached -= 1;
            totals.known -= u64::from(self.ends_at(record).is_some_and(|end| end <= self.meta.now));
        }
        totals
    }

    /// Sessions of a node whose sockets are lost and not taken from them yet.
    fn lost_sockets_of(&self, node: NodeId) -> impl Iterator<Item = &SessionRecord> {
        let lost = self.sessions.lost.iter().filter(move |lost| lost.node == node);
        let through = lost.map(|lost| lost.through).max().unwrap_or_default();
        let from = (node, LogIndex(0));
        let sockets = self.sessions.sockets.iter_from(move |key| *key < from);
        let lost = sockets.take_while(move |((other, socket), _)| *other == node && *socket <= through);
        lost.filter_map(|(_, number)| self.sessions.table.get(number)).map(|record| &**record)
    }

    /// Live sessions of the cluster.
    pub fn sessions_len(&self) -> u64 {
        if !self.has_leftovers() {
            return self.sessions.table.len() as u64;
        }
        self.sessions.loads.keys().map(|node| self.session_totals(*node).known).sum()
    }

    /// Live sessions of a user.
    pub(super) fn sessions_of<'a>(&'a self, user: &'a Name) -> impl Iterator<Item = &'a SessionRecord> {
        self.numbers_of_user(user.as_str(), SessionNumber(0)).filter_map(|number| self.live_session(number))
    }

    fn numbers_of_user<'a>(
        &'a self,
        user: &'a str,
        from: SessionNumber,
    ) -> impl Iterator<Item = SessionNumber> + 'a {
        let entries =
            self.sessions.by_user.iter_from(move |(name, number)| (name.as_str(), *number) < (user, from));
        entries.take_while(move |((name, _), ())| name.as_str() == user).map(|((_, number), ())| *number)
    }

    fn view_of(&self, record: &SessionRecord) -> SessionView {
        let migration = record.migration.filter(|migration| migration.deadline > self.meta.now);
        SessionView {
            number: record.number,
            id: record.id,
            user: record.user.to_text(),
            node: record.node,
            attached: self.is_attached(record),
            epoch: record.epoch,
            created_at: record.created_at,
            last_activity: record.last_activity,
            expires: self.ends_at(record),
            ttl: record.ttl,
            position: record.position,
            channels: record.channels.iter().map(Name::to_text).collect(),
            metadata: record.metadata.clone(),
            migration: migration.map(|migration| MigrationView {
                target: migration.target,
                salt: migration.salt,
                deadline: migration.deadline,
            }),
        }
    }
}
