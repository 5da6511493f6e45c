//! What readers see of sessions.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
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
        let lost = self.lost_sockets().filter(|record| record.node == node).count() as u64;
        let over = self.over().filter(|record| record.node == node).count() as u64;
        SessionTotals { known: load.known - over, attached: load.sockets - lost }
    }

    /// The same of every node that has sessions, in one pass.
    pub fn all_session_totals(&self) -> BTreeMap<NodeId, SessionTotals> {
        let loads = self.sessions.loads.iter();
        let mut totals: BTreeMap<_, _> = loads
            .map(|(node, load)| (*node, SessionTotals { known: load.known, attached: load.sockets }))
            .collect();
        for record in self.lost_sockets() {
            totals.entry(record.node).and_modify(|totals| totals.attached -= 1);
        }
        for record in self.over() {
            totals.entry(record.node).and_modify(|totals| totals.known -= 1);
        }
        totals
    }

    /// Sessions whose sockets are lost and not taken from them yet.
    fn lost_sockets(&self) -> impl Iterator<Item = &SessionRecord> {
        // The last loss of a node reaches furthest.
        let lost: BTreeMap<_, _> = self.sessions.lost.iter().map(|lost| (lost.node, lost.through)).collect();
        let sockets = lost.into_iter().flat_map(|(node, through)| {
            let from = (node, LogIndex(0));
            let sockets = self.sessions.sockets.iter_from(move |key| *key < from);
            sockets.take_while(move |((other, socket), _)| *other == node && *socket <= through)
        });
        sockets.filter_map(|(_, number)| self.sessions.table.get(number)).map(|record| &**record)
    }

    /// Sessions that are over and await their clean-up. Mostly there are none, and then this looks at nothing.
    pub(super) fn over(&self) -> impl Iterator<Item = &SessionRecord> {
        let now = self.meta.now;
        let ended = self.deadlines.ended(now).filter_map(|lease| match lease {
            Lease::Session(number) => self.sessions.table.get(number).map(|record| &**record),
            _ => None,
        });
        let lost = self.has_ended().then(|| self.lost_sockets());
        let lost = lost.into_iter().flatten();
        ended.chain(lost.filter(move |record| self.ends_at(record).is_some_and(|end| end <= now)))
    }

    /// Live sessions of the cluster.
    pub fn sessions_len(&self) -> u64 {
        (self.sessions.table.len() - self.over().count()) as u64
    }

    /// How many live sessions a user has. What is counted all along is right unless something has ended; to look at
    /// each of them takes time, which a client that is refused and tries again must not cost every node.
    pub(super) fn sessions_of(&self, user: &Name) -> usize {
        if !self.has_ended() {
            return self.sessions.users.get(user).copied().unwrap_or(0);
        }
        let numbers = self.numbers_of_user(user.as_str(), SessionNumber(0));
        numbers.filter(|number| self.live_session(*number).is_some()).count()
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
