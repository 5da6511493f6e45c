//! Every change of the northbound database, whoever made it: first to the caches of this node, then to those who watch.
//!
//! In this order. Who learns of a change here and then reads never gets what was cached before it: a [`Watcher`] is told of
//! nothing that is not cleared, and [`Feed::current`] waits until everything is that the replica shows.
//!
//! A watcher pulls from the bounded ring of the [`Database`]; nothing is queued for it. What it is told comes at least
//! once, in the order of the commits: a transaction of many rows is told in pieces, and who goes away within it is told
//! all of it again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::backup;
use ovncp_ovn::changes::{ChangeSet, Changes, Position, Step};
use ovncp_ovn::contents::{Contents, RowChange};
use ovncp_ovn::database::Database;
use ovncp_ovn::topology;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::cache::{Clear, PATTERN_BYTES_MAX};
use crate::services::ServiceError;
use crate::services::invalidations::Invalidations;

/// Watchers of one node, at most. Fewer when the listener takes few connections: see [`Feed::new`].
pub const WATCHERS_MAX: usize = 10_000;
/// Most changes that a watcher is told at once.
pub const CHANGES_PER_STEP_MAX: usize = 512;
/// Rows of one table in one transaction that are cleared one by one; of more the whole table is.
const ROWS_NAMED_MAX: usize = 32;
/// How long a read waits until this node has cleared what it sees. Then it goes around the caches.
const CLEAR_PATIENCE: Duration = Duration::from_secs(1);

/// The stream of changes, and what it clears. Clones are the same one.
#[derive(Clone)]
pub struct Feed {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    caches: Invalidations,
    /// Number of the first set of changes that may not be cleared yet.
    cleared: watch::Sender<u64>,
    places: Arc<Semaphore>,
    places_max: usize,
}

/// What a watcher is told.
#[derive(Debug)]
pub enum Told {
    /// What happened next.
    Changes(Vec<Change>),
    /// What happened cannot be told: read anew what you follow. The stream goes on after this position.
    Reset(Position),
}

/// One row that changed.
#[derive(Debug)]
pub struct Change {
    set: Arc<ChangeSet>,
    index: usize,
    /// Who has seen this change goes on after this position: the one before, while its transaction is not told to its end.
    pub resume: Position,
}

impl Change {
    /// The transaction.
    #[must_use]
    pub fn position(&self) -> Position {
        self.set.position
    }

    /// The row.
    #[must_use]
    pub fn row(&self) -> &RowChange {
        &self.set.changes[self.index]
    }
}

impl Feed {
    /// The changes of this database, for at most half as many watchers as there may be connections. Nothing is told before
    /// it [runs](Self::run).
    #[must_use]
    pub fn new(database: Database, caches: Invalidations, connections_max: usize) -> Self {
        let places_max = WATCHERS_MAX.min(connections_max / 2).max(1);
        let places = Arc::new(Semaphore::new(places_max));
        let cleared = watch::Sender::new(0);
        Self { inner: Arc::new(Inner { database, caches, cleared, places, places_max }) }
    }

    /// Clears the caches of this node as changes come, until `stop` becomes true or the database is closed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.follow() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn follow(&self) {
        let inner = &*self.inner;
        let mut changes = inner.database.subscribe(None);
        // What happened before is unknown here.
        inner.clear(&everything());
        inner.cleared.send_replace(changes.number().unwrap_or_default());
        while let Some(step) = changes.next().await {
            match step {
                Step::Changes(sets) => sets.iter().for_each(|set| inner.clear(&inner.patterns(set))),
                Step::Reset { .. } => inner.clear(&everything()),
            }
            inner.cleared.send_replace(changes.number().unwrap_or_default());
            // A long replay must not keep its thread from others.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the caches of this node are cleared of what the replica no longer shows. False when that takes too long:
    /// then they must not be used.
    pub async fn current(&self) -> bool {
        let (end, _) = self.inner.database.position();
        let mut cleared = self.inner.cleared.subscribe();
        let wait = cleared.wait_for(|cleared| *cleared >= end);
        matches!(tokio::time::timeout(CLEAR_PATIENCE, wait).await, Ok(Ok(_)))
    }

    /// Watches what comes after `since`, or after now.
    pub fn watch(&self, since: Option<Position>) -> Result<Watcher, ServiceError> {
        let inner = &self.inner;
        let place = Arc::clone(&inner.places).try_acquire_owned();
        let place =
            place.map_err(|_| ServiceError::TooMany { limit: "ovn_watchers", max: inner.places_max })?;
        // Before the subscription: what comes between the two is told again after a return.
        let (_, now) = inner.database.position();
        Ok(Watcher {
            changes: inner.database.subscribe(since),
            cleared: inner.cleared.subscribe(),
            position: since.unwrap_or(now),
            step: None,
            sets: VecDeque::new(),
            index: 0,
            _place: place,
        })
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.inner.places_max - self.inner.places.available_permits()
    }
}

impl Inner {
    fn clear(&self, patterns: &[String]) {
        if !patterns.is_empty() {
            self.caches.clear_here(&Arc::new(Clear::new(patterns, &[])));
        }
    }

    fn patterns(&self, set: &ChangeSet) -> Vec<String> {
        // Who refers to a row shows it, perhaps: the switch of a port.
        self.database.read(|contents| patterns(set, Some(contents))).unwrap_or_else(|| patterns(set, None))
    }
}

/// What keys of cached values about rows of this table begin with.
fn prefix(table: &str) -> String {
    match table {
        "Logical_Switch" => "switch".to_owned(),
        "Logical_Router" => "router".to_owned(),
        "Logical_Switch_Port" | "Logical_Router_Port" => "port".to_owned(),
        other => other.to_lowercase(),
    }
}

/// Every value that may come from OVN. Others share the caches, so each kind is named.
fn everything() -> Vec<String> {
    let tables = ovncp_ovn::resource::catalogue::reference().tables.keys();
    let mut all: Vec<_> = tables.map(|table| format!("{}:*", prefix(table))).collect();
    all.push("topology:*".to_owned());
    all.sort_unstable();
    all.dedup();
    all
}

fn patterns(set: &ChangeSet, contents: Option<&Contents>) -> Vec<String> {
    let mut by_table = BTreeMap::<&str, Vec<&RowChange>>::new();
    for change in &set.changes {
        by_table.entry(&change.table.name).or_default().push(change);
    }
    let mut all = Vec::new();
    for (table, changes) in &by_table {
        let shown = |change: &&&RowChange| {
            let row = change.new.as_ref().or(change.old.as_ref());
            row.is_some_and(|row| !backup::is_own(&change.table, row))
        };
        let shown: Vec<_> = changes.iter().filter(shown).collect();
        if topology::TABLES.contains(table) && !shown.is_empty() {
            all.push("topology:*".to_owned());
        }
        if shown.len() > ROWS_NAMED_MAX {
            all.push(format!("{}:*", prefix(table)));
            // Those who refer to so many are not looked up.
            all.extend(["switch:*", "router:*", "port_group:*"].map(str::to_owned));
            continue;
        }
        for change in shown {
            named(&prefix(table), change.uuid, names(change), &mut all);
            for referrer in contents.map_or(&[][..], |contents| contents.referrers(change.uuid)) {
                let row = contents.and_then(|contents| contents.row(&referrer.table, referrer.uuid));
                let name = row.and_then(|row| contents?.table(&referrer.table)?.name_of(row));
                named(&prefix(&referrer.table), referrer.uuid, name, &mut all);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The names that the row had and has.
fn names(change: &RowChange) -> impl Iterator<Item = &str> {
    let name = |row| change.table.value(row, "name").and_then(|name| name.as_str());
    let rows = [change.old.as_deref(), change.new.as_deref()];
    rows.into_iter().flatten().filter_map(name).filter(|name| !name.is_empty())
}

/// Values under the row's uuid or name, and below them.
fn named<'a>(prefix: &str, uuid: Uuid, names: impl IntoIterator<Item = &'a str>, out: &mut Vec<String>) {
    let keys = names.into_iter().map(str::to_owned).chain([uuid.to_string()]);
    for key in keys {
        let mut pattern = format!("{prefix}:");
        for character in key.chars() {
            if matches!(character, '*' | '?' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        if pattern.len() + ":*".len() > PATTERN_BYTES_MAX {
            // No pattern can be so long.
            out.push(format!("{prefix}:*"));
            continue;
        }
        out.push(format!("{pattern}:*"));
        out.push(pattern);
    }
}

/// One who watches. Dropped, it frees its place.
pub struct Watcher {
    changes: Changes,
    cleared: watch::Receiver<u64>,
    position: Position,
    /// Came, but may not be cleared yet.
    step: Option<Step>,
    /// Not told yet; of the first one the changes from `index` on.
    sets: VecDeque<Arc<ChangeSet>>,
    index: usize,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// Who is here goes on after this position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits for what comes next. None when there will be nothing more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if !self.sets.is_empty() {
                return Some(Told::Changes(self.take()));
            }
            if self.step.is_none() {
                self.step = Some(self.changes.next().await?);
            }
            let until = self.changes.number().unwrap_or_default();
            self.cleared.wait_for(|cleared| *cleared >= until).await.ok()?;
            match self.step.take()? {
                Step::Changes(sets) => self.sets.extend(sets),
                Step::Reset { position } => {
                    self.position = position;
                    return Some(Told::Reset(position));
                }
            }
        }
    }

    fn take(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(set) = self.sets.front().filter(|_| changes.len() < CHANGES_PER_STEP_MAX) {
            let (index, set) = (self.index, Arc::clone(set));
            self.index += 1;
            if self.index >= set.changes.len() {
                (self.position, self.index) = (set.position, 0);
                self.sets.pop_front();
            }
            if index < set.changes.len() {
                changes.push(Change { set, index, resume: self.position });
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use ovncp_ovn::schema::Schema;
    use serde_json::{Value as Json, json};

    use super::*;

    fn contents() -> Contents {
        let ports = json!({"type": {"key": {"type": "uuid", "refTable": "Logical_Switch_Port"}, "min": 0, "max": "unlimited"}});
        let schema = json!({"name": "OVN_Northbound", "tables": {
            "Logical_Switch": {"isRoot": true, "columns": {"name": {"type": "string"}, "ports": ports}},
            "Logical_Switch_Port": {"columns": {"name": {"type": "string"}}},
            "Address_Set": {"isRoot": true, "columns": {"name": {"type": "string"}}},
        }});
        Contents::new(Arc::new(Schema::parse(&schema).unwrap()))
    }

    fn set(contents: &mut Contents, changes: &[(&str, u128, Json)]) -> ChangeSet {
        let apply = |(table, uuid, update): &(&str, u128, Json)| {
            contents.apply_row(table, Uuid::from_u128(*uuid), update).unwrap()
        };
        ChangeSet { position: Position(Uuid::nil()), changes: changes.iter().filter_map(apply).collect() }
    }

    fn cleared(set: &ChangeSet, contents: &Contents) -> Vec<&'static str> {
        let clear = Clear::new(&patterns(set, Some(contents)), &[]);
        const KEYS: [&str; 9] = [
            "switch:00000000-0000-0000-0000-000000000001",
            "switch:a*",
            "switch:a*:ports",
            "switch:ab",
            "port:p",
            "port:q",
            "topology:full",
            "address_set:friends",
            "session:1",
        ];
        KEYS.into_iter().filter(|key| clear.means(key, &[] as &[&str])).collect()
    }

    #[test]
    fn a_change_clears_what_shows_the_row() {
        let mut contents = contents();
        let port = json!(["uuid", Uuid::from_u128(2).to_string()]);
        let made = set(
            &mut contents,
            &[
                ("Logical_Switch", 1, json!({"insert": {"name": "a*", "ports": port}})),
                ("Logical_Switch_Port", 2, json!({"insert": {"name": "p"}})),
            ],
        );
        let of_switch = ["switch:00000000-0000-0000-0000-000000000001", "switch:a*", "switch:a*:ports"];
        assert_eq!(cleared(&made, &contents), [&of_switch[..], &["port:p", "topology:full"]].concat());
        // Both names, and the switch that has the port.
        let renamed = set(&mut contents, &[("Logical_Switch_Port", 2, json!({"modify": {"name": "q"}}))]);
        assert_eq!(
            cleared(&renamed, &contents),
            [&of_switch[..], &["port:p", "port:q", "topology:full"]].concat()
        );
        let other = set(&mut contents, &[("Address_Set", 3, json!({"insert": {"name": "friends"}}))]);
        assert_eq!(cleared(&other, &contents), ["address_set:friends"]);
        let own = set(&mut contents, &[("Address_Set", 4, json!({"insert": {"name": "ovncp_fence_1"}}))]);
        assert_eq!(patterns(&own, Some(&contents)), [""; 0], "a fence is no business of any cache");
    }

    #[test]
    fn of_many_rows_the_table_is_cleared() {
        let mut contents = contents();
        let rows: Vec<_> = (10..10 + 2 * ROWS_NAMED_MAX as u128)
            .map(|uuid| ("Logical_Switch", uuid, json!({"insert": {"name": "s"}})))
            .collect();
        let made = set(&mut contents, &rows);
        assert!(patterns(&made, Some(&contents)).len() < 10);
        let cleared = cleared(&made, &contents);
        assert!(
            cleared.contains(&"switch:ab")
                && cleared.contains(&"topology:full")
                && !cleared.contains(&"session:1")
        );
    }
}
