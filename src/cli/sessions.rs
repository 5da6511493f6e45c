//! `sessions`: who is connected where.

use std::process::ExitCode;

use ovncp::client::{Call, Client};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, fields, table, text};

/// Show, end, move and rename sessions.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp sessions                            the first hundred
  ovncp sessions list --user alice --node node-2
  ovncp sessions show 4711
  ovncp sessions migrate 4711 node-3        its client is asked to go there
  ovncp sessions end 4711                   its socket is closed, its locks are released
  ovncp sessions rotate 5f0c...             a new secret id; the old one works for a minute

A session is named by its secret id, or by administrators by its number.")]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum SessionsCommand {
    /// List sessions
    List(ListArgs),
    /// Show one session
    Show {
        /// Its id or number
        session: String,
    },
    /// End a session for good
    End {
        /// Its id or number
        session: String,
    },
    /// Ask the client of a session to go to another node
    Migrate {
        /// Its id or number
        session: String,
        /// Name of the node that shall have it
        node: String,
    },
    /// Give a session another id
    Rotate {
        /// Its id
        session: String,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only this user's
    #[arg(long)]
    user: Option<String>,
    /// Only those on this node
    #[arg(long)]
    node: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u16,
}

fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    ["api", "v1", "cluster", "sessions"].into_iter().chain(rest.iter().copied()).collect()
}

pub(crate) async fn run(args: SessionsArgs, client: &Client, format: Format) -> Outcome {
    let list = SessionsCommand::List(ListArgs { user: None, node: None, limit: 100 });
    match args.command.unwrap_or(list) {
        SessionsCommand::List(args) => {
            let mut call = Call::get(path(&[])).query("limit", args.limit.to_string());
            for (name, value) in [("user", args.user), ("node", args.node)] {
                if let Some(value) = value {
                    call = call.query(name, value);
                }
            }
            format.print(&client.json(&call).await?, list_table)?;
        }
        SessionsCommand::Show { session } => {
            format.print(&client.json(&Call::get(path(&[&session]))).await?, show_fields)?;
        }
        SessionsCommand::End { session } => {
            if !client.sessions().end(&session).await? {
                return Err(Failure::new(Exit::Failure, "no such session (unknown_session)"));
            }
            format.print(&json!({"session": session, "ended": true}), |_| "ended".to_owned())?;
        }
        SessionsCommand::Migrate { session, node } => {
            client.sessions().migrate(&session, &node).await?;
            let shown = json!({"session": session, "target_node_id": node});
            format.print(&shown, |_| format!("asked to go to {node}"))?;
        }
        SessionsCommand::Rotate { session } => {
            let next = client.sessions().rotate(&session).await?;
            format.print(&json!({"session_id": next}), |_| next.clone())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list_table(page: &Value) -> String {
    let row = |session: &Value| {
        ["session", "user_id", "node_id", "status", "epoch", "last_activity", "expires_at"]
            .map(|field| text(session, field))
            .to_vec()
    };
    let rows = page["sessions"].as_array().into_iter().flatten().map(row);
    let more = if page["next_cursor"].is_null() {
        ""
    } else {
        "\n(more: raise --limit, or name a --user or --node)"
    };
    let header = ["SESSION", "USER", "NODE", "STATUS", "EPOCH", "LAST ACTIVITY", "EXPIRES"];
    format!("{}{more}", table(&header, rows))
}

fn show_fields(session: &Value) -> String {
    let channels: Vec<_> =
        session["channels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let metadata = match &session["metadata"] {
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    fields(&[
        ("session", text(session, "session")),
        ("user", text(session, "user_id")),
        ("node", text(session, "node_id")),
        ("status", text(session, "status")),
        ("epoch", text(session, "epoch")),
        ("created", text(session, "created_at")),
        ("last activity", text(session, "last_activity")),
        ("expires", text(session, "expires_at")),
        ("position", text(session, "position")),
        ("channels", if channels.is_empty() { "-".to_owned() } else { channels.join(", ") }),
        ("metadata", metadata),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_rows_and_say_when_there_are_more() {
        let session = json!({"session": "7", "user_id": "alice", "node_id": "node-1", "status": "attached",
            "epoch": 2, "last_activity": "t", "expires_at": null, "channels": ["a", "b"], "metadata": {"k": 1}});
        let page = list_table(&json!({"sessions": [session], "count": 1, "next_cursor": "x"}));
        let lines: Vec<_> = page.lines().collect();
        let cells: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(cells, ["7", "alice", "node-1", "attached", "2", "t", "-"]);
        assert!(lines[2].contains("more"), "{page}");
        let shown = show_fields(&session);
        assert!(shown.contains("channels       a, b") && shown.ends_with("{\"k\":1}"), "{shown}");
    }
}
