//! `ovn`: the network, as OVN's northbound database has it, through any node.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ovncp::client::{Call, Client};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, fields, table, text};

/// Rows of one page.
const PAGE: &str = "1000";
/// Time for a backup or a restore: a large database takes its time.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Look at the network that OVN has, back it up and restore it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp ovn show                          switches and routers with their ports, as ovn-nbctl show
  ovncp ovn lsp blue                      ports of one switch
  ovncp ovn topology --from vm1 --to vm2  the way between two ports
  ovncp ovn backup nb.json && ovncp ovn restore nb.json --dry-run")]
pub(crate) struct OvnArgs {
    #[command(subcommand)]
    command: OvnCommand,
}

#[derive(Debug, clap::Subcommand)]
enum OvnCommand {
    /// Show switches and routers with their ports
    Show,
    /// List logical switches
    Ls,
    /// List ports of switches
    Lsp {
        /// Only of this switch: name or id
        switch: Option<String>,
    },
    /// List logical routers
    Lr,
    /// List ACLs
    Acl {
        /// Only of this switch: name or id
        switch: Option<String>,
    },
    /// Trace a packet through the network
    #[command(after_help = "\
Example:
  ovncp ovn trace 'inport == \"vm1\" && eth.src == 02:00:00:00:00:01 && eth.dst == 02:00:00:00:00:02'")]
    Trace {
        /// The packet, with its inport, as an OVN expression
        microflow: String,
        /// The switch or router where it starts; left out, the one that has the inport
        #[arg(long)]
        datapath: Option<String>,
    },
    /// Show what is connected to what, or the way between two ports
    Topology {
        /// Port where the way begins: name or id
        #[arg(long, requires = "to")]
        from: Option<String>,
        /// Port where it ends
        #[arg(long, requires = "from")]
        to: Option<String>,
    },
    /// Write a backup of the northbound database
    Backup {
        /// File to write; it must not exist. Stdout when left out
        file: Option<PathBuf>,
    },
    /// Make the northbound database what a backup says
    Restore {
        /// File to read; - for stdin
        file: PathBuf,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(args: OvnArgs, client: &Client, format: Format) -> Outcome {
    match args.command {
        OvnCommand::Show => {
            let call = Call::get(["api", "v1", "topology"]).query("detail", "ports");
            format.print(&client.json::<Value>(&call).await?, shown)?;
        }
        OvnCommand::Ls => {
            let list = rows(client, &["switches"]).await?;
            format.print(&list, |list| columns(list, &["id", "name", "ports"]))?;
        }
        OvnCommand::Lsp { switch } => {
            let list = rows(client, &under(switch.as_deref(), "ports")).await?;
            format.print(&list, |list| columns(list, &["id", "name", "type", "addresses", "up"]))?;
        }
        OvnCommand::Lr => {
            let list = rows(client, &["routers"]).await?;
            format.print(&list, |list| columns(list, &["id", "name", "ports"]))?;
        }
        OvnCommand::Acl { switch } => {
            let list = rows(client, &under(switch.as_deref(), "acls")).await?;
            format.print(&list, |list| columns(list, &["id", "direction", "priority", "action", "match"]))?;
        }
        OvnCommand::Trace { microflow, datapath } => {
            let body = json!({"microflow": microflow, "datapath": datapath});
            let call = Call::post(["api", "v1", "trace"]).json(&body);
            format.print(&client.json::<Value>(&call).await?, trace)?;
        }
        OvnCommand::Topology { from: Some(from), to: Some(to) } => {
            return way(client, &from, &to, format).await;
        }
        OvnCommand::Topology { .. } => {
            let topology = client.json::<Value>(&Call::get(["api", "v1", "topology"])).await?;
            format.print(&topology, links)?;
        }
        OvnCommand::Backup { file } => backup(client, file.as_deref()).await?,
        OvnCommand::Restore { file, dry_run } => restore(client, &file, dry_run, format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn under<'a>(switch: Option<&'a str>, children: &'static str) -> Vec<&'a str> {
    match switch {
        Some(switch) => vec!["switches", switch, children],
        None => vec![children],
    }
}

/// All pages of a list as one.
async fn rows(client: &Client, path: &[&str]) -> Result<Value, Failure> {
    let things = path.last().copied().unwrap_or_default();
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let path = ["api", "v1"].into_iter().chain(path.iter().copied());
        let mut call = Call::get(path).query("limit", PAGE);
        if things != "acls" {
            call = call.query("sort", "name");
        }
        if let Some(cursor) = cursor.take() {
            call = call.query("cursor", cursor);
        }
        let mut page = client.json::<Value>(&call).await?;
        if let Value::Array(rows) = page[things].take() {
            all.extend(rows);
        }
        match page["next_cursor"].take() {
            Value::String(next) => cursor = Some(next),
            _ => return Ok(json!({"count": all.len(), things: all})),
        }
    }
}

fn members(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The rows of a list, as a table of these columns.
fn columns(list: &Value, names: &[&str]) -> String {
    let rows = list.as_object().into_iter().flatten().find_map(|(_, value)| value.as_array());
    let cell = |row: &Value, name: &str| match &row[name] {
        // Of references the number says enough.
        Value::Array(refs) if name == "ports" => refs.len().to_string(),
        Value::Array(texts) if texts.iter().all(Value::is_string) => {
            let texts: Vec<_> = texts.iter().filter_map(Value::as_str).collect();
            if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
        }
        _ => text(row, name),
    };
    let header: Vec<_> = names.iter().map(|name| name.to_uppercase()).collect();
    let header: Vec<_> = header.iter().map(String::as_str).collect();
    let rows = rows.into_iter().flatten().map(|row| names.iter().map(|name| cell(row, name)).collect());
    table(&header, rows)
}

/// As `ovn-nbctl show` prints it, but for the NAT rules of routers.
fn shown(topology: &Value) -> String {
    let mut out = String::new();
    let mut ports: Vec<_> = members(&topology["ports"]).iter().collect();
    ports.sort_by_key(|port| port["name"].as_str());
    let mut nodes: Vec<_> = members(&topology["nodes"]).iter().collect();
    nodes.retain(|node| ["switch", "router"].contains(&node["kind"].as_str().unwrap_or_default()));
    nodes.sort_by_key(|node| (node["kind"] == "router", node["name"].as_str()));
    for node in nodes {
        // Nothing is written to but a string.
        let _ = writeln!(out, "{} {} ({})", bare(&node["kind"]), bare(&node["id"]), bare(&node["name"]));
        for port in ports.iter().filter(|port| port["node"] == node["id"]) {
            let _ = writeln!(out, "    port {}", bare(&port["name"]));
            let addresses = members(&port["addresses"]);
            if node["kind"] == "router" {
                let _ = writeln!(out, "        mac: {}", addresses.first().unwrap_or(&Value::Null));
                let _ = writeln!(
                    out,
                    "        networks: {}",
                    Value::from(addresses.get(1..).unwrap_or_default())
                );
                continue;
            }
            if port["type"] != "" {
                let _ = writeln!(out, "        type: {}", bare(&port["type"]));
            }
            if !addresses.is_empty() {
                let _ = writeln!(out, "        addresses: {}", Value::from(addresses));
            }
            let link = members(&topology["links"]).iter().find(|link| link["from"]["port"] == port["id"]);
            if let Some(peer) = link.and_then(|link| link["to"]["port_name"].as_str()) {
                let _ = writeln!(out, "        router-port: {peer}");
            }
        }
    }
    out
}

fn bare(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn links(topology: &Value) -> String {
    let name = |id: &Value| {
        let node = members(&topology["nodes"]).iter().find(|node| node["id"] == *id);
        node.map(|node| text(node, "name")).unwrap_or_default()
    };
    let end = |end: &Value| match end["port_name"].as_str() {
        Some(port) => format!("{}:{port}", name(&end["node"])),
        None => name(&end["node"]),
    };
    let rows = members(&topology["links"])
        .iter()
        .map(|link| vec![text(link, "kind"), end(&link["from"]), end(&link["to"])]);
    let dangling = members(&topology["dangling"]).iter().map(|port| {
        let at = format!("{}:{}", name(&port["node"]), bare(&port["port_name"]));
        vec![text(port, "problem"), at, text(port, "names")]
    });
    table(&["LINK", "FROM", "TO"], rows.chain(dangling))
}

fn trace(answer: &Value) -> String {
    let outputs: Vec<_> = members(&answer["outputs"]).iter().map(bare).collect();
    let errors = members(&answer["errors"]).iter().map(|error| format!("\nerror: {}", bare(error)));
    let verdict = match outputs.is_empty() {
        true => bare(&answer["verdict"]).to_owned(),
        false => format!("{} to {}", bare(&answer["verdict"]), outputs.join(", ")),
    };
    format!("{}\n\n{verdict}{}", bare(&answer["text"]).trim_end(), errors.collect::<String>())
}

/// Exits with 1 when there is no way.
async fn way(client: &Client, from: &str, to: &str, format: Format) -> Outcome {
    let call = Call::get(["api", "v1", "topology", "path"]).query("from", from).query("to", to);
    let path = client.json::<Value>(&call).await?;
    let hops = |list: &Value| {
        let hops = members(list).iter();
        hops.map(|hop| format!("{} {}", bare(&hop["kind"]), bare(&hop["name"])))
            .collect::<Vec<_>>()
            .join("\n")
    };
    format.print(&path, |path| match path["reason"].as_str() {
        None => hops(&path["hops"]),
        Some("disabled") => format!("no way but through what is disabled:\n{}", hops(&path["disabled"])),
        Some(_) => format!("nothing connects {from} and {to}"),
    })?;
    Ok(if path["connected"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn backup(client: &Client, file: Option<&Path>) -> Result<(), Failure> {
    let call = Call::get(["api", "v1", "ovn", "backup"]).try_timeout(PATIENCE).deadline(PATIENCE);
    let document = client.json::<Value>(&call).await?;
    let Some(file) = file else {
        super::output::print_line(&document.to_string());
        return Ok(());
    };
    let wrong = |error| Failure::io(format!("write {}", file.display()), &error);
    let mut out = std::fs::File::create_new(file).map_err(wrong)?;
    std::io::Write::write_all(&mut out, document.to_string().as_bytes()).map_err(wrong)?;
    out.sync_all().map_err(wrong)?;
    let rows: u64 =
        document["counts"].as_object().into_iter().flatten().filter_map(|(_, rows)| rows.as_u64()).sum();
    eprintln!("{rows} rows, {}", bare(&document["checksum"]));
    Ok(())
}

async fn restore(client: &Client, file: &Path, dry_run: bool, format: Format) -> Result<(), Failure> {
    let mut raw = Vec::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().lock().read_to_end(&mut raw).map(|_| ()),
        _ => std::fs::read(file).map(|bytes| raw = bytes),
    };
    read.map_err(|error| Failure::io(format!("read {}", file.display()), &error))?;
    // Before it travels: the node would say the same.
    serde_json::from_slice::<serde::de::IgnoredAny>(&raw)
        .map_err(|error| Failure::new(Exit::Failure, format!("{} is no JSON: {error}", file.display())))?;
    let call = Call::post(["api", "v1", "ovn", "restore"]).query("dry_run", dry_run.to_string());
    let call = call.body(raw, "application/json").try_timeout(PATIENCE).deadline(PATIENCE);
    let report = client.json::<Value>(&call).await?;
    format.print(&report, report_text)?;
    Ok(())
}

fn report_text(report: &Value) -> String {
    let row = |change: &Value| {
        let columns = change["columns"].as_object();
        let columns: Vec<_> = columns.into_iter().flatten().map(|(column, _)| column.clone()).collect();
        vec![
            text(change, "action"),
            text(change, "table"),
            text(change, "id"),
            text(change, "name"),
            columns.join(", "),
        ]
    };
    let changes = members(&report["changes"]);
    let mut out = String::new();
    if !changes.is_empty() {
        out = table(&["ACTION", "TABLE", "ID", "NAME", "COLUMNS"], changes.iter().map(row)) + "\n\n";
    }
    let counts = ["created", "updated", "deleted", "changes_left_out", "remaining"];
    let done = if report["dry_run"] == true { "would change" } else { "changed" };
    let counts = counts.map(|name| (name, text(report, name)));
    out + done + "\n" + &fields(&counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Value {
        json!({
            "nodes": [{"id": "1", "kind": "router", "name": "r"}, {"id": "2", "kind": "switch", "name": "blue"},
                {"id": "network:n", "kind": "network", "name": "n"}],
            "ports": [
                {"id": "3", "name": "r-blue", "node": "1", "type": "", "addresses": ["02:00:00:00:00:01", "10.0.0.1/24"]},
                {"id": "4", "name": "blue-r", "node": "2", "type": "router", "addresses": ["router"]},
                {"id": "5", "name": "a", "node": "2", "type": "", "addresses": []}],
            "links": [{"kind": "router", "from": {"node": "2", "port": "4", "port_name": "blue-r"},
                "to": {"node": "1", "port": "3", "port_name": "r-blue"}}],
            "dangling": [{"port": "6", "port_name": "x", "node": "2", "problem": "missing_router_port", "names": "gone"}],
        })
    }

    #[test]
    fn show_reads_like_ovn_nbctl() {
        let expected = "\
switch 2 (blue)
    port a
    port blue-r
        type: router
        addresses: [\"router\"]
        router-port: r-blue
router 1 (r)
    port r-blue
        mac: \"02:00:00:00:00:01\"
        networks: [\"10.0.0.1/24\"]
";
        assert_eq!(shown(&topology()), expected);
    }

    #[test]
    fn links_and_what_dangles_are_one_table() {
        let expected = "\
LINK                 FROM         TO
router               blue:blue-r  r:r-blue
missing_router_port  blue:x       gone";
        assert_eq!(links(&topology()), expected);
    }
}
