//! Requests that take several rows at once to make sense: each is one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::catalogue::Resource;
use super::plan::IfMatch;
use super::planner::Planner;
use super::refusal::{Refusal, RefusalKind};

/// What [`connect`] is told.
const CONNECT_MEMBERS: &[&str] = &["router", "switch", "router_port", "port"];

/// Connects a router and a switch: a router port, and a switch port of type `router` that leads to it.
///
/// `{"router": id, "switch": id, "router_port": {"mac", "networks", "name"?, ..}, "port": {"name"?, ..}?}`. Without names the
/// router port is called `<router>-<switch>` and the switch port `<switch>-<router>`.
pub fn connect(planner: &mut Planner<'_>, body: &Json) -> Result<(), Refusal> {
    let malformed = |problem: &str| Refusal::new(RefusalKind::Invalid, "malformed", problem);
    let said = body.as_object().ok_or_else(|| malformed("the body must be an object"))?;
    if let Some(unknown) = said.keys().find(|key| !CONNECT_MEMBERS.contains(&key.as_str())) {
        let problem = format!("is no part of a connection: known are {}", CONNECT_MEMBERS.join(", "));
        return Err(Refusal::new(RefusalKind::Invalid, "unknown_field", problem).at(format!("/{unknown}")));
    }
    let text = |key: &str| {
        let given = said.get(key).and_then(Json::as_str);
        given.ok_or_else(|| malformed("must be an id or a name").at(format!("/{key}")))
    };
    let (router, switch) = (text("router")?, text("switch")?);
    let object = |key: &str| match said.get(key) {
        None => Ok(Map::new()),
        Some(Json::Object(given)) => Ok(given.clone()),
        Some(_) => Err(malformed("must be an object").at(format!("/{key}"))),
    };
    let (mut router_port, mut port) = (object("router_port")?, object("port")?);
    let (routers, switches) = (resource(planner, "routers")?, resource(planner, "switches")?);
    let called = |holder: &Resource, id: &str| {
        let row = holder.find(planner.contents, id)?;
        Ok::<_, Refusal>(holder.name_of(&row).map_or_else(|| row.uuid.to_string(), str::to_owned))
    };
    let (router_name, switch_name) = (called(&routers, router)?, called(&switches, switch)?);
    let default = |given: &mut Map<String, Json>, name: String| {
        given.entry("name").or_insert(Json::from(name)).as_str().unwrap_or_default().to_owned()
    };
    let router_port_name = default(&mut router_port, format!("{router_name}-{switch_name}"));
    default(&mut port, format!("{switch_name}-{router_name}"));
    port.entry("type").or_insert(json!("router"));
    port.entry("addresses").or_insert(json!(["router"]));
    let options = port.entry("options").or_insert(json!({}));
    if let Some(options) = options.as_object_mut() {
        options.insert("router-port".to_owned(), Json::from(router_port_name));
    }
    for (path, holder, id, segment, row) in [
        ("router-ports", "routers", router, "/router_port", router_port),
        ("ports", "switches", switch, "/port", port),
    ] {
        let child = resource(planner, path)?;
        let parent = child.parents.iter().find(|parent| &*parent.path == holder);
        planner.within(segment);
        planner.create(&child, parent.map(|parent| (parent, id)), &Json::Object(row));
    }
    Ok(())
}

/// Deletes a switch with its ports, and the router ports that they lead to.
pub fn delete_switch(planner: &mut Planner<'_>, id: &str, if_match: &IfMatch) -> Result<(), Refusal> {
    let (switches, router_ports) = (resource(planner, "switches")?, resource(planner, "router-ports")?);
    let row = switches.find(planner.contents, id)?;
    let ports = planner.contents.table("Logical_Switch_Port");
    let held = switches.table.value(&row, "ports").into_iter().flat_map(|ports| ports.atoms());
    let mut names = BTreeSet::new();
    for port in held.filter_map(|port| ports?.row(port.as_uuid()?)) {
        let value = |column: &str| ports.and_then(|ports| ports.schema().value(port, column));
        if value("type").and_then(|kind| kind.as_str()) == Some("router") {
            names.extend(value("options").and_then(|options| options.get("router-port")).map(str::to_owned));
        }
    }
    planner.delete(&switches, &row.uuid.to_string(), if_match);
    for name in names {
        // A port may lead to one that does not exist (yet).
        let exists = router_ports.rows(planner.contents)?.by_name(&name).first().copied();
        if let Some(id) = exists {
            planner.delete(&router_ports, &id.to_string(), &IfMatch::None);
        }
    }
    Ok(())
}

fn resource(planner: &Planner<'_>, path: &str) -> Result<Arc<Resource>, Refusal> {
    planner.catalogue.by_path(path).cloned()
}
