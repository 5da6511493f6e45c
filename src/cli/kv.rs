//! `kv`: small replicated values, from the shell.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use ovncp::client::{Call, Client, Consistency, Error};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, table, text};

/// Read and write registers: small replicated values with compare-and-set.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp kv put greeting hello
  ovncp kv get greeting
  ovncp kv put greeting bye --if-revision 17     only if nobody changed it since
  ovncp kv ls gree")]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    command: KvCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KvCommand {
    /// Print the value
    Get {
        /// Its key
        key: String,
        /// What the asked node knows, without asking the leader
        #[arg(long)]
        local: bool,
    },
    /// Store a value
    Put {
        /// Its key
        key: String,
        /// The value; read from stdin when left out
        value: Option<String>,
        /// Only if this is its revision
        #[arg(long, value_name = "REVISION", conflicts_with = "if_absent")]
        if_revision: Option<u64>,
        /// Only if there is none
        #[arg(long)]
        if_absent: bool,
        /// Forget it after this time
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
    },
    /// Delete a value
    Del {
        /// Its key
        key: String,
        /// Only if this is its revision
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
    },
    /// List keys, revisions and sizes
    Ls {
        /// What keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u16,
    },
}

pub(crate) async fn run(args: KvArgs, client: &Client, format: Format) -> Outcome {
    match args.command {
        KvCommand::Get { key, local } => get(client, &key, local, format).await?,
        KvCommand::Put { key, value, if_revision, if_absent, ttl } => {
            let value = value.map_or_else(read_stdin, |value| Ok(value.into_bytes()))?;
            let mut put = client.kv().put(&key, value);
            if let Some(ttl) = ttl {
                put = put.ttl(ttl);
            }
            if let Some(revision) = if_revision {
                put = put.if_revision(revision);
            }
            if if_absent {
                put = put.if_absent();
            }
            let revision = put.send().await.map_err(|error| conflict(error, &key))?.to_string();
            format.print(&json!({"key": key, "revision": revision}), |_| format!("revision {revision}"))?;
        }
        KvCommand::Del { key, if_revision } => {
            let mut delete = client.kv().delete(&key);
            if let Some(revision) = if_revision {
                delete = delete.if_revision(revision);
            }
            if !delete.send().await.map_err(|error| conflict(error, &key))? {
                return Err(absent(&key));
            }
            format.print(&json!({"key": key, "deleted": true}), |_| "deleted".to_owned())?;
        }
        KvCommand::Ls { prefix, limit } => {
            let call = Call::get(["api", "v1", "cluster", "kv"]).query("prefix", prefix);
            list(&client.json(&call.query("limit", limit.to_string())).await?, format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What to do about a lost race.
fn conflict(error: Error, key: &str) -> Failure {
    let current = match &error {
        Error::RevisionMismatch { current, .. } => current.map(|revision| revision.to_string()),
        _ => return error.into(),
    };
    let now = current.map_or_else(|| "it does not exist".to_owned(), |current| format!("it is at {current}"));
    Failure::from(error).help(format!("`{key}` was changed meanwhile: {now}; read it and try again"))
}

fn absent(key: &str) -> Failure {
    Failure::new(Exit::Failure, format!("no value under `{key}`")).help("`ovncp kv ls` lists keys")
}

async fn get(client: &Client, key: &str, local: bool, format: Format) -> Result<(), Failure> {
    let consistency = if local { Consistency::Local } else { Consistency::Linearizable };
    let entry = client.kv().consistency(consistency).get(key).await?.ok_or_else(|| absent(key))?;
    if format == Format::Table {
        // The bytes as they are; a newline only where a person reads them.
        let mut out = std::io::stdout().lock();
        let newline: &[u8] = if out.is_terminal() { b"\n" } else { b"" };
        return out
            .write_all(&entry.value)
            .and_then(|()| out.write_all(newline))
            .map_err(|e| Failure::io("write to stdout", &e));
    }
    let value = std::str::from_utf8(&entry.value).map_err(|_| {
        Failure::new(Exit::Failure, "the value is not text").help("leave out -o to get the bytes as they are")
    })?;
    let view = json!({"key": key, "revision": entry.revision.to_string(), "value": value});
    format.print(&view, Value::to_string)
}

fn list(view: &Value, format: Format) -> Result<(), Failure> {
    format.print(view, |view| {
        let keys = view["keys"].as_array().cloned().unwrap_or_default();
        let row =
            |key: &Value| ["key", "revision", "size", "content_type"].map(|field| text(key, field)).to_vec();
        let more = if view["next_cursor"].is_null() { "" } else { "\n(more: raise --limit)" };
        format!("{}{more}", table(&["KEY", "REVISION", "BYTES", "TYPE"], keys.iter().map(row)))
    })
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut value)
        .map_err(|e| Failure::io("read the value from stdin", &e))?;
    Ok(value)
}
