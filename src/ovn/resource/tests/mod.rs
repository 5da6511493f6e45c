//! The engine against replicas that stand still: what is planned, and what is refused.

mod lists;
mod plans;
mod refusals;
mod steps;

use std::sync::Arc;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::contents::Contents;
use crate::operation::Operation;

use super::catalogue::{Catalogue, oldest_reference};
use super::{IfMatch, Plan, Planner, Refusal};

pub(super) struct World {
    pub(super) contents: Contents,
    pub(super) catalogue: Catalogue,
}

/// A uuid that is easy to read.
pub(super) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub(super) fn text(number: u128) -> String {
    id(number).to_string()
}

/// In wire form.
pub(super) fn rows(ids: &[u128]) -> Json {
    json!(["set", ids.iter().map(|number| json!(["uuid", text(*number)])).collect::<Vec<_>>()])
}

impl World {
    /// Switches blue (1: ports 11 vm1, 12 to-edge) and red (2), router edge (3: port 31 edge-blue), port group web (4),
    /// address set hosts (5), our fence (6), two routers twin (7, 8), an ACL (21) of blue and web, a load balancer
    /// group (9) that blue needs.
    pub(super) fn new() -> Self {
        let schema = Arc::clone(oldest_reference());
        let mut contents = Contents::new(Arc::clone(&schema));
        let updates = json!({
            "Logical_Switch": {
                text(1): {"insert": {"name": "blue", "ports": rows(&[11, 12]), "acls": rows(&[21]),
                    "load_balancer_group": rows(&[9]), "external_ids": ["map", [["owner", "me"], ["tier", "1"]]]}},
                text(2): {"insert": {"name": "red"}},
            },
            "Logical_Switch_Port": {
                text(11): {"insert": {"name": "vm1", "addresses": "0a:00:00:00:00:01 10.0.0.4", "up": true}},
                text(12): {"insert": {"name": "to-edge", "type": "router", "addresses": "router",
                    "options": ["map", [["router-port", "edge-blue"]]]}},
            },
            "Logical_Router": {
                text(3): {"insert": {"name": "edge", "ports": rows(&[31])}},
                text(7): {"insert": {"name": "twin"}},
                text(8): {"insert": {"name": "twin"}},
            },
            "Logical_Router_Port": {
                text(31): {"insert": {"name": "edge-blue", "mac": "0a:00:00:00:01:01", "networks": "10.0.0.1/24"}},
            },
            "Port_Group": {text(4): {"insert": {"name": "web", "ports": rows(&[11]), "acls": rows(&[21])}}},
            "Address_Set": {
                text(5): {"insert": {"name": "hosts", "addresses": ["set", ["10.0.0.4", "10.0.0.5"]]}},
                text(6): {"insert": {"name": "ovncp_fence_0"}},
            },
            "Load_Balancer_Group": {text(9): {"insert": {"name": "lbs"}}},
            "ACL": {text(21): {"insert": {"direction": "to-lport", "priority": 5, "match": "ip4", "action": "drop"}}},
        });
        contents.apply(updates.as_object().unwrap()).unwrap();
        Self { contents, catalogue: Catalogue::new(&schema) }
    }

    /// Plans these steps; new rows get the uuids 1000, 1001, ...
    pub(super) fn plan(&self, steps: impl FnOnce(&mut Planner<'_>)) -> Result<Plan, Refusal> {
        let mut next = 1000;
        let mut fresh = || {
            next += 1;
            id(next - 1)
        };
        let mut planner = Planner::new(&self.contents, &self.catalogue, &mut fresh);
        steps(&mut planner);
        planner.finish()
    }

    pub(super) fn create(&self, path: &str, body: &Json) -> Result<Plan, Refusal> {
        let resource = self.catalogue.by_path(path)?;
        self.plan(|planner| {
            planner.create(resource, None, body);
        })
    }

    pub(super) fn patch(&self, path: &str, row: &str, body: &Json) -> Result<Plan, Refusal> {
        let resource = self.catalogue.by_path(path)?;
        self.plan(|planner| {
            planner.patch(resource, row, body, &IfMatch::None);
        })
    }

    pub(super) fn replace(&self, path: &str, row: &str, body: &Json) -> Result<Plan, Refusal> {
        let resource = self.catalogue.by_path(path)?;
        self.plan(|planner| {
            planner.replace(resource, row, body, &IfMatch::None);
        })
    }

    pub(super) fn delete(&self, path: &str, row: &str) -> Result<Plan, Refusal> {
        let resource = self.catalogue.by_path(path)?;
        self.plan(|planner| {
            planner.delete(resource, row, &IfMatch::None);
        })
    }
}

/// The operations as the server gets them.
pub(super) fn wire(plan: &Plan) -> Vec<Json> {
    plan.operations.iter().map(Operation::to_wire).collect()
}

/// Code and pointer of every problem.
pub(super) fn problems(refusal: &Refusal) -> Vec<(&str, &str)> {
    refusal.problems.iter().map(|problem| (problem.pointer.as_str(), problem.code)).collect()
}
