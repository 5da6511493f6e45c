//! `status`, `members`, `transfer-leader`: the cluster as its nodes tell it.

use std::process::ExitCode;
use std::time::Duration;

use ovncp::client::{Call, Client, Consistency, Error};
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::output::{Format, fields, table, text};

/// To ask the leader for what it alone knows; without it the table has gaps.
const LEADER_PATIENCE: Duration = Duration::from_secs(2);

/// Show how the cluster is: leader, term, nodes, what is applied.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp status
  ovncp status -o json | jq .leader.leader_id

Ends with 4 when there is no quorum; what is shown then is what the asked node knows by itself.")]
pub(crate) struct StatusArgs {}

/// List the nodes: role, health, lag, and how many may fail.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp members
  ovncp members --active -o yaml

HEALTH is the status since SINCE; LAG is the number of entries a node is behind the leader. `fault tolerance: 1`
says that the cluster survives the loss of any one voter as it stands.")]
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

fn get(rest: &[&'static str], consistency: Consistency) -> Call {
    Call::get(CLUSTER.into_iter().chain(rest.iter().copied())).consistency(consistency)
}

pub(crate) async fn status(_args: &StatusArgs, client: &Client, format: Format) -> Outcome {
    with_or_without_quorum(format, status_table, async |consistency| view(client, consistency).await).await
}

/// Prints a linearizable view; without a quorum what one node knows, and ends with its failure.
async fn with_or_without_quorum(
    format: Format,
    table: impl FnOnce(&Value) -> String,
    view: impl AsyncFn(Consistency) -> Result<Value, Error>,
) -> Outcome {
    match view(Consistency::Linearizable).await {
        Ok(view) => {
            format.print(&view, table)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ Error::NoLeader(_)) => {
            let view = view(Consistency::Local).await.map_err(Failure::from)?;
            format.print(&view, table)?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn view(client: &Client, consistency: Consistency) -> Result<Value, Error> {
    let cluster: Value = client.json(&get(&[], consistency)).await?;
    let leader: Value = client.json(&get(&["leader"], Consistency::Local)).await?;
    let nodes = nodes(client, Consistency::Local).await?;
    let consistency = if consistency == Consistency::Local { "local" } else { "linearizable" };
    Ok(json!({
        "cluster": cluster,
        "leader": leader,
        "nodes": nodes["nodes"],
        "autopilot": nodes["autopilot"],
        "consistency": consistency,
    }))
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
    let view = async |consistency| {
        let mut view = nodes(client, consistency).await?;
        if args.active
            && let Some(all) = view["nodes"].as_array_mut()
        {
            // Here and not by the server: whether the quorum survives a loss depends on all of them.
            all.retain(|node| node["status"] == "active");
            view["count"] = all.len().into();
        }
        Ok(view)
    };
    with_or_without_quorum(format, members_table, view).await
}

/// The members, as the leader sees them where it can be asked, and what follows from that.
async fn nodes(client: &Client, consistency: Consistency) -> Result<Value, Error> {
    let mut view: Value = client.json(&get(&["nodes"], consistency)).await?;
    let all = view["nodes"].as_array().cloned().unwrap_or_default();
    let leader = all.iter().find(|node| node["is_leader"] == true);
    if let Some(leader) = leader.filter(|leader| leader["id"] != view["self"])
        && let Some(seen) = ask_leader(leader).await
    {
        view = seen;
    }
    view["autopilot"] = autopilot(view["nodes"].as_array().map_or(&[], Vec::as_slice));
    Ok(view)
}

/// What the leader knows of the others, if it can be reached from here under the address that it announces.
async fn ask_leader(leader: &Value) -> Option<Value> {
    let (ip, port) = (leader["ip"].as_str()?, leader["port"].as_u64()?);
    let address = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let client =
        Client::builder().endpoint(address).deadline(LEADER_PATIENCE).fail_fast(true).build().ok()?;
    let seen: Value = client.json(&get(&["nodes"], Consistency::Local)).await.ok()?;
    // Somebody else may listen there.
    let is_leader = |node: &Value| node["id"] == leader["id"] && node["is_leader"] == true;
    let same = seen["self"] == leader["id"] && seen["nodes"].as_array()?.iter().any(is_leader);
    same.then_some(seen)
}

/// How many more voters may fail.
fn autopilot(nodes: &[Value]) -> Value {
    let voters: Vec<_> = nodes.iter().filter(|node| node["role"] == "voter").collect();
    // One that is being emptied of its sessions votes like any other.
    let answers = |status: &Value| status == "active" || status == "draining";
    let healthy = voters.iter().filter(|node| answers(&node["status"])).count();
    let majority = voters.len() / 2 + 1;
    json!({
        "voters": voters.len(),
        "healthy_voters": healthy,
        "majority": majority,
        "has_quorum": healthy >= majority,
        "fault_tolerance": healthy.saturating_sub(majority),
    })
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
            seconds(&text(node, "status_since")),
            text(node, "lag"),
            seconds(&text(node, "last_heartbeat")),
            address,
            text(node, "version"),
            text(node, "zone"),
        ]
    };
    let header = ["NODE", "ROLE", "HEALTH", "SINCE", "LAG", "LAST ACK", "ADDRESS", "VERSION", "ZONE"];
    format!("{}\n\n{}", table(&header, nodes.iter().map(row)), tolerance(&view["autopilot"]))
}

fn tolerance(autopilot: &Value) -> String {
    let [voters, healthy, majority] =
        ["voters", "healthy_voters", "majority"].map(|field| text(autopilot, field));
    let counts = format!("{healthy} of {voters} voters healthy, {majority} needed");
    match (autopilot["has_quorum"].as_bool(), autopilot["fault_tolerance"].as_u64()) {
        (Some(true), Some(tolerance)) => format!("fault tolerance: {tolerance} ({counts})"),
        _ => format!("fault tolerance: no quorum ({counts})"),
    }
}

/// A time without its fraction of a second.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

pub(crate) async fn transfer(args: &TransferArgs, client: &Client, format: Format) -> Outcome {
    let leader = client.cluster().transfer_leader(args.target.as_deref()).await?;
    format.print(&json!({"leader_id": leader}), |view| format!("{} leads now", text(view, "leader_id")))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_tolerance_counts_healthy_voters_only() {
        let node = |role: &str, status: &str| json!({"role": role, "status": status});
        let of = |all: &[Value]| tolerance(&autopilot(all));
        let active = node("voter", "active");
        assert_eq!(of(std::slice::from_ref(&active)), "fault tolerance: 0 (1 of 1 voters healthy, 1 needed)");
        let three = [active.clone(), active.clone(), active.clone(), node("learner", "active")];
        assert_eq!(of(&three), "fault tolerance: 1 (3 of 3 voters healthy, 2 needed)");
        let emptied = [active.clone(), active.clone(), node("voter", "draining")];
        assert_eq!(of(&emptied), "fault tolerance: 1 (3 of 3 voters healthy, 2 needed)");
        let two = [active.clone(), active.clone(), node("voter", "suspect")];
        assert_eq!(of(&two), "fault tolerance: 0 (2 of 3 voters healthy, 2 needed)");
        let one = [active, node("voter", "inactive"), node("voter", "suspect")];
        assert_eq!(of(&one), "fault tolerance: no quorum (1 of 3 voters healthy, 2 needed)");
    }
}
