//! What a server says about itself in its `_Server` database: which databases it has, whether it leads them, and their
//! schemas (ovsdb-server(5)).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

/// Name of the database, and of our monitor of it.
pub(super) const SERVER: &str = "_Server";

/// Parameters of the call that asks for it and all changes of it.
pub(super) fn monitor_params() -> Vec<u8> {
    let columns = ["name", "model", "connected", "leader", "cid", "index", "schema"];
    json!([SERVER, SERVER, {"Database": [{"columns": columns}]}, Uuid::nil().to_string()])
        .to_string()
        .into_bytes()
}

/// The databases of one server.
#[derive(Debug, Default)]
pub(super) struct ServerView {
    databases: BTreeMap<Uuid, ServedDatabase>,
}

/// One database of a server.
#[derive(Clone, Debug, Default, PartialEq)]
struct ServedDatabase {
    name: String,
    model: String,
    connected: bool,
    leader: bool,
    /// The cluster's id; none for a standalone database.
    cluster: Option<Uuid>,
    /// How far this member's log is.
    index: Option<i64>,
    schema: Option<Arc<str>>,
}

/// What a server must be for us.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) database: &'a str,
    pub(super) leader_only: bool,
    /// The farthest log that was seen of a cluster: a member that is behind would show the past.
    pub(super) seen: Option<(Uuid, i64)>,
}

/// A server that will do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fit {
    pub(super) schema: Arc<str>,
    pub(super) leader: bool,
    pub(super) clustered: bool,
    pub(super) seen: Option<(Uuid, i64)>,
}

impl ServerView {
    /// Takes in a `<table-updates2>` of `_Server`. None when it is something else.
    pub(super) fn apply(&mut self, updates: &Json) -> Option<()> {
        let Some(rows) = updates.as_object()?.get("Database") else { return Some(()) };
        for (uuid, update) in rows.as_object()? {
            let uuid = uuid.parse().ok()?;
            let (kind, row) = update.as_object()?.iter().next()?;
            if kind == "delete" {
                self.databases.remove(&uuid);
                continue;
            }
            self.databases.entry(uuid).or_default().apply(row.as_object()?)?;
        }
        Some(())
    }

    /// Whether the server will do, or why not.
    pub(super) fn judge(&self, wanted: &Wanted<'_>) -> Result<Fit, String> {
        let name = wanted.database;
        let mut found = self.databases.values().filter(|database| database.name == name);
        let found = found.next().ok_or_else(|| format!("the server has no database {name}"))?;
        let clustered = found.model == "clustered";
        let standalone = found.model == "standalone";
        if !standalone && !found.connected {
            return Err(format!("the server has lost the cluster of {name}"));
        }
        if !standalone && wanted.leader_only && !found.leader {
            return Err(format!("the server does not lead {name}"));
        }
        let seen = found.cluster.zip(found.index);
        if let (Some((cluster, before)), Some((same, now))) = (wanted.seen, seen)
            && cluster == same
            && now < before
        {
            return Err(format!("the server is behind: its log of {name} ends at {now}, {before} was seen"));
        }
        let schema = found.schema.clone().ok_or_else(|| format!("the server has no schema of {name} yet"))?;
        Ok(Fit { schema, leader: standalone || found.leader, clustered, seen })
    }
}

impl ServedDatabase {
    /// All columns hold at most one value, so a change is the new value. None when a value is of another type.
    fn apply(&mut self, row: &Map<String, Json>) -> Option<()> {
        for (column, value) in row {
            // An optional value that is absent is an empty set.
            let value = if value == &json!(["set", []]) { None } else { Some(value) };
            match (column.as_str(), value) {
                ("name", Some(value)) => self.name = value.as_str()?.to_owned(),
                ("model", Some(value)) => self.model = value.as_str()?.to_owned(),
                ("connected", Some(value)) => self.connected = value.as_bool()?,
                ("leader", Some(value)) => self.leader = value.as_bool()?,
                ("cid", value) => {
                    self.cluster = value
                        .map(|value| value.get(1)?.as_str()?.parse().ok())
                        .map_or(Some(None), |id| id.map(Some))?;
                }
                ("index", value) => {
                    self.index = value.map(Json::as_i64).map_or(Some(None), |index| index.map(Some))?
                }
                ("schema", value) => {
                    self.schema = value
                        .map(Json::as_str)
                        .map_or(Some(None), |text| text.map(|text| Some(text.into())))?;
                }
                _ => {}
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: Uuid = Uuid::from_u128(7);

    fn view(row: Json) -> ServerView {
        let mut view = ServerView::default();
        view.apply(&json!({"Database": {Uuid::from_u128(1).to_string(): {"initial": row}}})).unwrap();
        view
    }

    fn member(leader: bool, index: i64) -> ServerView {
        view(json!({"name": "N", "model": "clustered", "connected": true, "leader": leader,
            "cid": ["uuid", CLUSTER.to_string()], "index": index, "schema": "{}"}))
    }

    fn wanted(leader_only: bool) -> Wanted<'static> {
        Wanted { database: "N", leader_only, seen: Some((CLUSTER, 10)) }
    }

    #[test]
    fn a_standalone_server_leads() {
        let view = view(json!({"name": "N", "model": "standalone", "connected": true, "leader": true,
            "cid": ["set", []], "schema": "{}"}));
        let fit = Fit { schema: "{}".into(), leader: true, clustered: false, seen: None };
        assert_eq!(view.judge(&wanted(true)), Ok(fit));
        assert!(view.judge(&Wanted { database: "M", ..wanted(true) }).is_err());
    }

    #[test]
    fn a_member_that_follows_or_is_behind_will_not_do() {
        assert!(member(true, 10).judge(&wanted(true)).unwrap().clustered);
        assert!(member(false, 10).judge(&wanted(true)).is_err());
        assert!(!member(false, 10).judge(&wanted(false)).unwrap().leader);
        assert!(member(true, 9).judge(&wanted(true)).is_err());
        let other = Wanted { seen: Some((Uuid::from_u128(8), 100)), ..wanted(true) };
        assert!(member(true, 9).judge(&other).is_ok(), "the log of another cluster says nothing");
    }

    #[test]
    fn changes_are_taken_in() {
        let mut view = member(true, 10);
        let mut change = |kind: &str, row: Json| {
            view.apply(&json!({"Database": {Uuid::from_u128(1).to_string(): {kind: row}}})).unwrap();
            view.judge(&wanted(true))
        };
        assert_eq!(change("modify", json!({"index": 12})).unwrap().seen, Some((CLUSTER, 12)));
        assert!(change("modify", json!({"leader": false})).is_err());
        assert!(change("modify", json!({"leader": true})).is_ok());
        assert!(change("modify", json!({"connected": false})).is_err());
        assert!(change("modify", json!({"connected": true, "schema": ["set", []]})).is_err());
        assert!(change("delete", Json::Null).is_err());
        assert_eq!(ServerView::default().apply(&json!([])), None);
        assert_eq!(ServerView::default().apply(&json!({"Database": {"x": {"initial": {}}}})), None);
    }
}
