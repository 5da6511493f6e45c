//! `log-level`: what nodes log, shown or changed while they run.

use std::process::ExitCode;
use std::time::Duration;

use ovncp::client::Call;
use serde_json::{Value, json};

use super::Endpoints;
use super::failure::Outcome;
use super::output::{Format, table, text};

/// The word that goes back to the configuration.
const CONFIGURED: &str = "configured";

/// Show or change what nodes log, while they run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp log-level                                     what the node logs
  ovncp log-level info,ovncp_raft=debug --for 10m     more for ten minutes, then as before
  ovncp log-level debug --endpoint http://a:8080 --endpoint http://b:8080
  ovncp log-level configured                          back to log.level of the configuration

Every endpoint that is named is asked, each for itself: a node's log is its own. A restart forgets the change.")]
pub(crate) struct LogLevelArgs {
    /// The new filter: off, error, warn, info, debug, trace, and target=level, separated by commas
    filter: Option<String>,
    /// Go back to the configured filter after this time
    #[arg(long = "for", value_name = "TIME", requires = "filter", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
}

pub(crate) async fn run(args: &LogLevelArgs, endpoints: Endpoints, format: Format) -> Outcome {
    let path = ["api", "v1", "node", "log-level"];
    let call = || match &args.filter {
        None => Call::get(path),
        Some(filter) => {
            let filter = (filter != CONFIGURED).then_some(filter);
            let millis = args.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            Call::put(path).json(&json!({"filter": filter, "for_ms": millis}))
        }
    };
    let mut nodes = Vec::new();
    for endpoint in endpoints.each() {
        let named = endpoint.0.join(",");
        let mut level = endpoint.client()?.json::<Value>(&call()).await?;
        level["endpoint"] = named.into();
        nodes.push(level);
    }
    format.print(&json!({"nodes": nodes}), shown)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(view: &Value) -> String {
    let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
    let row = |node: &Value| {
        let reverts = node["reverts_in_ms"]
            .as_u64()
            .map(|time| humantime::format_duration(Duration::from_secs(time.div_ceil(1_000))).to_string());
        vec![
            text(node, "endpoint"),
            text(node, "filter"),
            text(node, "configured"),
            reverts.unwrap_or_else(|| "-".to_owned()),
        ]
    };
    table(&["ENDPOINT", "LOGS", "CONFIGURED", "REVERTS IN"], nodes.iter().map(row))
}
