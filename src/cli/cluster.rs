//! `status`, `members`, `transfer-leader`: the cluster as its nodes tell it.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, fields, print_line, table, text};

/// Show how the cluster is: leader, term, nodes, what is applied.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp status
  ovncp status -o json | jq .leader.leader_id

Ends with 4 when there is no quorum; what is shown then is what the asked node knows by itself.")]
pub(crate) struct StatusArgs {}

/// List the nodes: status, role, lag, addresses.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp members
  ovncp members --active -o yaml")]
pub(crate) struct MembersArgs {
    /// Only nodes whose status is active
    #[arg(long)]
    active: bool,
}

/// Hand leadership over to another voter.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp transfer-leader          to the voter that is furthest
  ovncp transfer-leader node-2")]
pub(crate) struct TransferArgs {
    /// Name of the node that shall lead
    target: Option<String>,
}

const CLUSTER: [&str; 3] = ["api", "v1", "cluster"];

fn get(rest: &[&'static str], consistency: &str) -> Call {
    Call::get(CLUSTER.into_iter().chain(rest.iter().copied())).query("consistency", consistency)
}

pub(crate) async fn status(_args: &StatusArgs, client: &Client, format: Format) -> Outcome {
    match view(client, "linearizable").await {
        Ok(view) => {
            format.print(&view, status_table)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) if failure.exit == Exit::NoQuorum => {
            let view = view(client, "local").await?;
            format.print(&view, status_table)?;
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn view(client: &Client, consistency: &str) -> Result<Value, Failure> {
    let cluster = client.json(&get(&[], consistency)).await?;
    let leader = client.json(&get(&["leader"], "local")).await?;
    let nodes = client.json(&get(&["nodes"], "local")).await?;
    Ok(json!({"cluster": cluster, "leader": leader, "nodes": nodes["nodes"], "consistency": consistency}))
}

fn status_table(view: &Value) -> String {
    let (cluster, leader) = (&view["cluster"], &view["leader"]);
    let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
    let active = nodes.iter().filter(|node| node["status"] == "active").count();
    let voters = nodes.iter().filter(|node| node["role"] == "voter").count();
    let asked = match leader["quorum_ack_age_ms"].as_u64() {
        Some(age) => format!("{}, quorum heard {age} ms ago", text(leader, "node_id")),
        None => text(leader, "node_id"),
    };
    let mut rows = vec![
        ("cluster", text(cluster, "cluster_id")),
        ("leader", text(leader, "leader_id")),
        ("term", text(leader, "term")),
        ("nodes", format!("{active} active of {}, {voters} voters", nodes.len())),
        ("applied", text(cluster, "applied_index")),
        ("asked", asked),
    ];
    for (name, field) in [("locks", "locks_held"), ("waiters", "waiters"), ("registers", "kv_keys")] {
        if !cluster[field].is_null() {
            rows.push((name, text(cluster, field)));
        }
    }
    if view["consistency"] == "local" {
        rows.push(("caution", "no quorum: this is what one node knows".to_owned()));
    }
    format!("{}\n\n{}", fields(&rows), members_table(view))
}

pub(crate) async fn members(args: &MembersArgs, client: &Client, format: Format) -> Outcome {
    let call = |consistency| {
        let call = get(&["nodes"], consistency);
        if args.active { call.query("active", "true") } else { call }
    };
    match client.json(&call("linearizable")).await {
        Ok(view) => {
            format.print(&view, members_table)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) if failure.exit == Exit::NoQuorum => {
            format.print(&client.json(&call("local")).await?, members_table)?;
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

fn members_table(view: &Value) -> String {
    let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
    let row = |node: &Value| {
        let role = if node["is_leader"] == true { "leader".to_owned() } else { text(node, "role") };
        let address = format!("{}:{}", text(node, "ip"), text(node, "port"));
        vec![
            text(node, "id"),
            role,
            text(node, "status"),
            address,
            text(node, "lag"),
            text(node, "last_heartbeat"),
            text(node, "version"),
            text(node, "zone"),
        ]
    };
    let header = ["NODE", "ROLE", "STATUS", "ADDRESS", "LAG", "LAST HEARTBEAT", "VERSION", "ZONE"];
    table(&header, nodes.iter().map(row))
}

pub(crate) async fn transfer(args: &TransferArgs, client: &Client, format: Format) -> Outcome {
    let body = args.target.as_ref().map_or_else(|| json!({}), |target| json!({"target": target}));
    let call = Call::write(Method::POST, CLUSTER.into_iter().chain(["leader", "transfer"])).json(&body);
    let answer = client.expect(&call).await?;
    if answer.body.is_empty() {
        print_line("leadership handed over");
        return Ok(ExitCode::SUCCESS);
    }
    format.print(&answer.json()?, |view| format!("{} leads now", text(view, "leader_id")))?;
    Ok(ExitCode::SUCCESS)
}
