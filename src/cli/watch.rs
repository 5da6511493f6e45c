//! `watch`: what happens in the cluster, as it happens, on whatever node answers.

use std::io::Write;
use std::process::ExitCode;

use ovncp::client::{Client, Event, Events};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, text};

/// Show what happens in the cluster, as it happens.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp watch                                     from now on
  ovncp watch --types node,leader_change --since 0
  ovncp watch --types session,invalidation
  ovncp watch -o json | jq .type                  a JSON document per line

When the node that answers goes away, the next endpoint goes on where it was: nothing is missed or shown twice. A line
`reset` says that events are no longer kept and where the stream goes on.")]
pub(crate) struct WatchArgs {
    /// Only these types: node_join, node_leave, node_update, leader_change, lock_acquired, lock_released, election_won,
    /// election_ended, session_registered, session_attached, session_detached, session_migrating, session_ended,
    /// invalidation; node, lock, election and session stand for all of theirs
    #[arg(long, value_delimiter = ',', value_name = "TYPE")]
    types: Vec<String>,
    /// Offset of the first event to show; 0 for all that are kept [default: from now on]
    #[arg(long, value_name = "OFFSET")]
    since: Option<u64>,
}

pub(crate) async fn run(args: &WatchArgs, client: &Client, format: Format) -> Outcome {
    let request = client.events().types(&args.types);
    let events = match args.since {
        Some(offset) => request.since(offset),
        None => request,
    };
    follow(events.open(), format, line).await
}

/// Prints events until a signal comes or nobody reads any more.
pub(super) async fn follow(
    mut events: Events,
    format: Format,
    line: impl Fn(&str, &Value) -> String,
) -> Outcome {
    let listen = |kind| signal(kind).map_err(|e| Failure::io("listen to signals", &e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    loop {
        let event = tokio::select! {
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            event = events.next() => event?,
        };
        let shown = show(event, format, &line)?;
        if writeln!(std::io::stdout().lock(), "{shown}").is_err() {
            // `ovncp watch | head` has seen enough.
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn show(event: Event, format: Format, line: impl Fn(&str, &Value) -> String) -> Result<String, Failure> {
    let Event { offset, kind, mut data } = event;
    // A reset has neither in its data.
    if let Value::Object(fields) = &mut data {
        fields.entry("type").or_insert_with(|| kind.clone().into());
    }
    Ok(match format {
        Format::Table => {
            let place = offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
            format!("{} {place:>6}  {}", time_of_day(&data), line(&kind, &data))
        }
        Format::Json => data.to_string(),
        Format::Yaml => {
            let yaml = serde_saphyr::to_string(&data)
                .map_err(|e| Failure::new(Exit::Failure, format!("cannot write YAML: {e}")))?;
            format!("---\n{}", yaml.trim_end())
        }
    })
}

/// `12:26:08.798` of an RFC 3339 time.
fn time_of_day(data: &Value) -> String {
    let time = data["time"].as_str().and_then(|time| time.get(11..23));
    time.unwrap_or("            ").to_owned()
}

/// An event as a person reads it.
fn line(kind: &str, data: &Value) -> String {
    let field = |name: &str| text(data, name);
    let list = |name: &str| {
        let all = data[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.collect::<Vec<_>>().join(", ")
    };
    let keys = || list("keys");
    let reason = match data["reason"].as_str() {
        Some(reason) if !reason.is_empty() => format!(": {reason}"),
        _ => String::new(),
    };
    match kind {
        "node_join" => format!("{} joined as a {}", field("node_id"), field("role")),
        "node_leave" => format!("{} left{reason}", field("node_id")),
        "node_update" => format!("{} is {} ({})", field("node_id"), field("status"), field("role")),
        "leader_change" => format!("{} leads the cluster, term {}", field("leader_id"), field("term")),
        "lock_acquired" => format!(
            "{} locked by {} ({}, token {}, waited {} ms)",
            keys(),
            field("owner"),
            field("mode"),
            field("fencing_token"),
            field("waited_ms")
        ),
        "lock_released" => format!(
            "{} {} (was {}'s for {} ms, token {}){reason}",
            keys(),
            field("cause"),
            field("owner"),
            field("held_ms"),
            field("fencing_token")
        ),
        "election_won" => {
            format!("{} leads {}, token {}", field("candidate"), field("name"), field("fencing_token"))
        }
        "election_ended" => {
            format!(
                "nobody leads {}: the term of {} {}{reason}",
                field("name"),
                field("candidate"),
                field("cause")
            )
        }
        "session_registered" => format!("session {} registered for {}", field("session"), field("node_id")),
        "session_attached" => {
            let from = data["from"].as_str().map_or_else(String::new, |from| format!(", from {from}"));
            format!(
                "session {} is on {} (epoch {}{from})",
                field("session"),
                field("node_id"),
                field("epoch")
            )
        }
        "session_detached" => format!("session {} lost its socket on {}", field("session"), field("node_id")),
        "session_migrating" => {
            format!("session {} shall go from {} to {}", field("session"), field("node_id"), field("target"))
        }
        "session_ended" => {
            format!("session {} {} (was on {})", field("session"), field("cause"), field("node_id"))
        }
        "invalidation" => {
            let tags = list("tags");
            let tags = if tags.is_empty() { tags } else { format!(" tags {tags}") };
            format!(
                "{}{tags} invalidated at {} (entry {})",
                list("patterns"),
                field("origin"),
                field("log_offset")
            )
        }
        "reset" => format!("reset: earlier events are no longer kept, going on at {}", field("first")),
        other => format!("{other} {data}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, data: Value) -> Event {
        Event { offset: Some(27), kind: kind.to_owned(), data }
    }

    #[test]
    fn events_are_lines_for_people_and_documents_for_programs() {
        let data = json!({
            "offset": "27", "type": "node_update", "node_id": "node-3", "status": "suspect", "role": "voter",
            "time": "2026-11-22T12:26:08.798Z",
        });
        let shown = show(event("node_update", data.clone()), Format::Table, line).unwrap();
        assert_eq!(shown, "12:26:08.798     27  node-3 is suspect (voter)");
        let shown = show(event("node_update", data.clone()), Format::Json, line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), data);
        assert_eq!(shown.lines().count(), 1);
        let shown =
            show(event("reset", json!({"first": "100", "next": "200"})), Format::Table, line).unwrap();
        assert!(shown.ends_with("reset: earlier events are no longer kept, going on at 100"), "{shown}");
        let shown = show(event("reset", json!({"first": "100", "next": "200"})), Format::Json, line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["type"], "reset");
    }

    #[test]
    fn the_reason_of_an_administrator_is_shown() {
        let data = json!({
            "keys": ["a", "b"], "owner": "o", "fencing_token": "7", "cause": "forced", "held_ms": 5,
            "reason": "maintenance",
        });
        assert_eq!(line("lock_released", &data), "a, b forced (was o's for 5 ms, token 7): maintenance");
        assert_eq!(line("session_moved", &json!({"x": 1})), "session_moved {\"x\":1}");
    }

    #[test]
    fn sessions_and_invalidations_are_sentences() {
        let attached = json!({"session": "7", "node_id": "node-2", "epoch": 3, "from": "node-1"});
        assert_eq!(line("session_attached", &attached), "session 7 is on node-2 (epoch 3, from node-1)");
        let ended = json!({"session": "7", "node_id": "node-2", "epoch": 3, "cause": "expired"});
        assert_eq!(line("session_ended", &ended), "session 7 expired (was on node-2)");
        let said = json!({"log_offset": "4", "patterns": ["a*", "b"], "tags": ["t"], "origin": "node-1"});
        assert_eq!(line("invalidation", &said), "a*, b tags t invalidated at node-1 (entry 4)");
    }
}
