//! The invalidation log: which cached values are no longer true, in the one order that every node has.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::{PATTERN_BYTES_MAX, PATTERNS_PER_INVALIDATION_MAX};
use crate::ring::Kept;
use crate::sessions::view::LogReset;
use crate::state::Effects;
use crate::table::Object;
use crate::validate;
use crate::{EventKind, InvalidationOffset, Millis, NodeId, Refusal, Reply, State};

/// See [`Command::Invalidate`](crate::Command::Invalidate). Answers [`Reply::Invalidated`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidate {
    /// Which keys: exact, `prefix*`, or a glob (`*` any run of characters, `?` one, `\` quotes the next).
    pub patterns: Vec<String>,
    /// Which tags, exact.
    pub tags: Vec<String>,
    /// Where it was asked for.
    pub origin: NodeId,
    /// Somebody waits for the other nodes: they report that they have cleared it at once, not with their next batch.
    pub waited_for: bool,
}

/// See [`Command::ReportCleared`](crate::Command::ReportCleared): the node's local caches hold nothing that an entry before `next`
/// invalidated. Answers [`Reply::Done`]; what lies behind an earlier report changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCleared {
    /// Which node.
    pub node: NodeId,
    /// The first offset that it has not cleared.
    pub next: InvalidationOffset,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidation {
    /// Dense position, the same on every node.
    pub offset: InvalidationOffset,
    /// Cluster time.
    pub at: Millis,
    /// As asked for.
    pub patterns: Vec<String>,
    /// As asked for.
    pub tags: Vec<String>,
    /// Where it was asked for.
    pub origin: NodeId,
    /// See [`Invalidate::waited_for`].
    pub waited_for: bool,
}

/// How far a node has cleared its caches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClearedRecord {
    pub(crate) node: NodeId,
    pub(crate) next: InvalidationOffset,
}

impl Object for ClearedRecord {
    const TAG: u8 = 16;
    type Key = NodeId;

    fn key(&self) -> NodeId {
        self.node
    }
}

impl Object for Invalidation {
    const TAG: u8 = 15;
    type Key = InvalidationOffset;

    fn key(&self) -> InvalidationOffset {
        self.offset
    }
}

impl Kept for Invalidation {
    fn at(&self) -> Millis {
        self.at
    }
}

/// A `\` quotes what follows it, so none may stand at the end.
fn quotes_nothing(pattern: &str) -> bool {
    let trailing = pattern.chars().rev().take_while(|char| *char == '\\').count();
    !trailing.is_multiple_of(2)
}

fn check(command: &Invalidate) -> Result<(), Refusal> {
    let count = command.patterns.len() + command.tags.len();
    validate::count("patterns and tags", count, 1, PATTERNS_PER_INVALIDATION_MAX)?;
    for (field, texts) in [("patterns", &command.patterns), ("tags", &command.tags)] {
        texts.iter().try_for_each(|text| validate::bytes(field, text.len(), 1, PATTERN_BYTES_MAX))?;
    }
    if command.patterns.iter().any(|pattern| quotes_nothing(pattern)) {
        return Err(validate::invalid("patterns", "ends with a backslash that quotes nothing"));
    }
    Ok(())
}

impl State {
    /// At most `limit` entries from offset `since` on. An error when some of them are no longer kept, or `since` lies
    /// beyond the next offset.
    pub fn invalidations(
        &self,
        since: InvalidationOffset,
        limit: usize,
    ) -> Result<Vec<Arc<Invalidation>>, LogReset<InvalidationOffset>> {
        let (first, next) = self.invalidations_kept();
        if since < first || since > next {
            return Err(LogReset { first, next });
        }
        Ok(self.invalidations.from(&since, limit))
    }

    /// The first kept offset and the next one to be given.
    pub fn invalidations_kept(&self) -> (InvalidationOffset, InvalidationOffset) {
        let next = InvalidationOffset(self.offsets.invalidations);
        (self.invalidations.first_or(next), next)
    }

    /// The restore epoch: offsets of another one say nothing.
    pub fn epoch(&self) -> u16 {
        self.meta.epoch
    }

    /// The first offset that each live node has not cleared from its caches, as it last reported; 0 before it did.
    pub fn cleared(&self) -> Vec<(NodeId, InvalidationOffset)> {
        let reported = |id| self.cleared.get(&id).map(|record| record.next).unwrap_or_default();
        self.live_nodes().map(|node| (node.id, reported(node.id))).collect()
    }

    pub(crate) fn invalidate(&mut self, command: Invalidate, out: &mut Effects) -> Result<Reply, Refusal> {
        check(&command)?;
        let Invalidate { patterns, tags, origin, waited_for } = command;
        let (epoch, offset) = (self.meta.epoch, InvalidationOffset(self.offsets.invalidations));
        self.offsets.invalidations += 1;
        out.appended.invalidations = Some(InvalidationOffset(self.offsets.invalidations));
        let kind = EventKind::Invalidated {
            offset,
            patterns: patterns.clone(),
            tags: tags.clone(),
            origin: self.node_ref(origin),
        };
        let entry = Invalidation { offset, at: self.meta.now, patterns, tags, origin, waited_for };
        let (count, bytes) = (self.limits.invalidations_kept, self.limits.invalidations_kept_bytes);
        self.invalidations.push(Arc::new(entry), count, bytes);
        self.emit(kind, out);
        Ok(Reply::Invalidated { epoch, offset })
    }

    pub(crate) fn report_cleared(
        &mut self,
        command: &ReportCleared,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let node = self.live_node(command.node)?.id;
        if command.next.0 > self.offsets.invalidations {
            return Err(validate::invalid("next", "lies beyond the end of the log"));
        }
        let known = self.cleared.get(&node).map(|record| record.next);
        if known.is_none_or(|known| known < command.next) {
            self.cleared.insert(ClearedRecord { node, next: command.next });
            out.appended.cleared = true;
        }
        Ok(Reply::Done)
    }
}
