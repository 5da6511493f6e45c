//! `kv`: small replicated values, from the shell.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::client::{Answer, Call, Client};
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
        if_revision: Option<String>,
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
        if_revision: Option<String>,
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

fn path(key: &str) -> [&str; 5] {
    ["api", "v1", "cluster", "kv", key]
}

pub(crate) async fn run(args: KvArgs, client: &Client, format: Format) -> Outcome {
    match args.command {
        KvCommand::Get { key, local } => get(client, &key, local, format).await?,
        KvCommand::Put { key, value, if_revision, if_absent, ttl } => {
            let value = value.map_or_else(read_stdin, |value| Ok(value.into_bytes()))?;
            let mut call = Call::write(Method::PUT, path(&key)).body(value, "application/octet-stream");
            if let Some(ttl) = ttl {
                call = call.query("ttl_ms", ttl.as_millis().to_string());
            }
            call = if_absent
                .then_some("*")
                .into_iter()
                .fold(call, |call, any| call.header("if-none-match", any));
            let call = if_match(call, if_revision);
            report(&client.expect(&call).await?, &key, format)?;
        }
        KvCommand::Del { key, if_revision } => {
            let call = if_match(Call::write(Method::DELETE, path(&key)), if_revision);
            client.expect(&call).await?;
        }
        KvCommand::Ls { prefix, limit } => {
            let call = Call::get(["api", "v1", "cluster", "kv"]).query("prefix", prefix);
            list(&client.json(&call.query("limit", limit.to_string())).await?, format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn if_match(call: Call, revision: Option<String>) -> Call {
    match revision {
        Some(revision) => call.header("if-match", format!("\"{}\"", revision.trim_matches('"'))),
        None => call,
    }
}

fn revision(answer: &Answer) -> String {
    let tag = answer.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    tag.unwrap_or_default().trim_matches('"').to_owned()
}

async fn get(client: &Client, key: &str, local: bool, format: Format) -> Result<(), Failure> {
    let mut call = Call::get(path(key));
    if local {
        call = call.query("consistency", "local");
    }
    let answer = client.call(&call).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Err(
            Failure::new(Exit::Failure, format!("no value under `{key}`")).help("`ovncp kv ls` lists keys")
        );
    }
    if !answer.status.is_success() {
        return Err(answer.failure());
    }
    if format == Format::Table {
        // The bytes as they are; a newline only where a person reads them.
        let mut out = std::io::stdout().lock();
        let newline: &[u8] = if out.is_terminal() { b"\n" } else { b"" };
        return out
            .write_all(&answer.body)
            .and_then(|()| out.write_all(newline))
            .map_err(|e| Failure::io("write to stdout", &e));
    }
    let value = String::from_utf8(answer.body.clone()).map_err(|_| {
        Failure::new(Exit::Failure, "the value is not text").help("leave out -o to get the bytes as they are")
    })?;
    format.print(&json!({"key": key, "revision": revision(&answer), "value": value}), Value::to_string)
}

fn report(answer: &Answer, key: &str, format: Format) -> Result<(), Failure> {
    let revision = revision(answer);
    format.print(&json!({"key": key, "revision": revision}), |_| format!("revision {revision}"))
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
