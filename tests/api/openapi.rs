//! The published description: complete, unchanged unless somebody means it, and served with its interface.

use serde_json::Value;

use crate::support::TestNode;

/// A change of the contract shows as a difference of tests/api/snapshots; `INSTA_UPDATE=always` accepts it.
#[test]
fn published_description_is_as_reviewed() {
    let mut document = serde_json::to_value(ovncp::api::openapi::document()).unwrap();
    shorten(&mut document);
    insta::assert_json_snapshot!("openapi", document);
}

/// The resources of the network are made from one pattern: ports stand for all of them, of the others the names are enough.
fn shorten(document: &mut Value) {
    let is_shown = |name: &str| name.contains("/ports") || name.contains("OvnPorts") || name == "OvnStatus";
    for (path, item) in document["paths"].as_object_mut().unwrap() {
        for operation in item.as_object_mut().unwrap().values_mut() {
            if operation["tags"] == serde_json::json!(["network"]) && !is_shown(path) {
                *operation = operation["operationId"].take();
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object_mut().unwrap() {
        if name.starts_with("Ovn") && !is_shown(name) {
            let fields = schema["properties"].as_object().unwrap().keys().cloned();
            *schema = fields.collect::<Vec<_>>().join(" ").into();
        }
    }
}

#[test]
fn every_operation_documents_itself() {
    let document = serde_json::to_value(ovncp::api::openapi::document()).unwrap();
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            for (status, response) in operation["responses"].as_object().unwrap() {
                let is_problem = response["content"].get("application/problem+json").is_some();
                let is_error = status.as_str() >= "400" && !(path.starts_with("/health") && status == "503");
                assert_eq!(is_problem, is_error, "{name} {status}");
            }
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "two operations have one id");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                out.push(reference.clone());
            }
            fields.values().for_each(|field| collect_references(field, out));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, out)),
        _ => {}
    }
}

#[tokio::test]
async fn description_and_its_interface_are_served() {
    let node = TestNode::start().await;
    let served = node.get("/api/openapi.json").await.expect(200);
    assert_eq!(served, serde_json::to_value(ovncp::api::openapi::document()).unwrap());
    let page = node.get("/api/docs/").await;
    assert_eq!(page.status.as_u16(), 200);
    assert!(String::from_utf8_lossy(&page.bytes).contains("swagger-ui"));
    let script = node.get("/api/docs/swagger-initializer.js").await;
    assert!(String::from_utf8_lossy(&script.bytes).contains("/api/openapi.json"));
}
