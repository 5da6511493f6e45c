//! What a node logs, changed while it runs; and what its lines carry.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::support::{Running, ovncp, run, until};

const TOKEN: &str = "an administrators token";
const SECRET: &str = "a-secret-nobody-else-knows-0123456789";

/// The lines of a log in JSON, whole ones only.
fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(parse).collect()
}

#[test]
fn log_level_changes_while_a_node_runs_and_lines_carry_the_request_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let data = folder.path().join("data");
    let mut command = ovncp(["serve", "--http-port", "0", "--metrics-port", "0", "--peer-port", "0"]);
    command.args(["--listen", "127.0.0.1", "--node-ip", "127.0.0.1", "--node-id", "node-1", "--data-dir"]);
    command.arg(&data).env("OVNCP_LOG_FORMAT", "json").env("OVNCP_ADMIN_TOKEN", TOKEN);
    command.stderr(File::create(&log).unwrap());
    let _node = Running::start(command);
    let address = until("the node tells its address", || {
        let found = lines(&log).into_iter().find(|line| line["message"] == "serving")?;
        Some(format!("http://{}", found["http"].as_str()?))
    });
    let call = |args: &[&str], token: &str| {
        let mut command = ovncp(args.iter().copied());
        command.env("OVNCP_ENDPOINTS", &address).env("OVNCP_ADMIN_TOKEN", token);
        run(command)
    };
    until("the node serves", || (call(&["locks"], TOKEN).code == Some(0)).then_some(()));
    let answers = || lines(&log).into_iter().filter(|line| line["message"] == "answered");
    assert_eq!(answers().count(), 0, "requests are logged at debug");

    let refused = call(&["log-level", "debug"], "another token");
    assert!(refused.code == Some(1) && refused.err.contains("unauthorized"), "{refused:?}");
    let refused = call(&["log-level", "info,ovncp=loud"], TOKEN);
    assert!(
        refused.code != Some(0) && refused.err.contains("ovncp=loud"),
        "the wrong part is named: {refused:?}"
    );
    let changed = call(&["log-level", "info,ovncp=debug", "--for", "1h", "-o", "json"], TOKEN);
    let shown: Value = serde_json::from_str(&changed.out).unwrap_or_else(|_| panic!("{changed:?}"));
    assert_eq!(shown["nodes"][0]["filter"], "info,ovncp=debug");
    assert_eq!(shown["nodes"][0]["configured"], "info,openraft=error");
    assert!(shown["nodes"][0]["reverts_in_ms"].as_u64().is_some_and(|left| left > 3_000_000), "{shown}");

    let held = call(&["lock", "switch:1", "--", "true"], TOKEN);
    assert_eq!(held.code, Some(0), "{held:?}");
    let granted = acquire(&address);
    assert!(granted.contains("fencing_token"), "{granted}");
    let with_id =
        until("the request is in the log", || answers().find(|line| line["span"]["request_id"] == "req-42"));
    assert_eq!((&with_id["status"], &with_id["span"]["method"]), (&200.into(), &"POST".into()), "{with_id}");
    assert!(answers().all(|line| line["span"]["request_id"].as_str().is_some_and(|id| !id.is_empty())));

    let back = call(&["log-level", "configured"], TOKEN);
    assert!(back.code == Some(0) && back.out.contains("info,openraft=error"), "{back:?}");
    let before = answers().count();
    assert_eq!(call(&["locks"], TOKEN).code, Some(0));
    assert_eq!(answers().count(), before, "it logs as configured again");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains(SECRET) && !text.contains(TOKEN), "{text}");
}

/// An acquire with a secret and a request id of its own.
fn acquire(address: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client
            .post(format!("{address}/api/v1/cluster/locks/switch%3A2/acquire"))
            .header("x-request-id", "req-42")
            .json(&serde_json::json!({"owner": "me", "secret": SECRET}));
        request.send().await.unwrap().text().await.unwrap()
    })
}
