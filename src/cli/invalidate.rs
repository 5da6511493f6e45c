//! `invalidate`: cached values are no longer true.

use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use ovncp::client::{Cleared, Client};
use serde_json::Value;

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, fields, text};

/// Say that cached values are no longer true, on every node.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp invalidate 'switch:*' 'topology:*'
  ovncp invalidate --tag tenant-7 --wait
  ovncp invalidate 'a:*:b' --wait quorum --timeout 10s -o json

A pattern is a key, `prefix*`, or a glob: `*` is any run of characters, `?` one, `\\` quotes the next. Write to the
database first, then invalidate. With --wait it ends with 1 when some node had not cleared its caches in time, and names
it; the node will, since the invalidation is in the log.")]
pub(crate) struct InvalidateArgs {
    /// Keys that are no longer true
    #[arg(value_name = "PATTERN", required_unless_present = "tag")]
    patterns: Vec<String>,
    /// Also what carries this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Wait until these have cleared their caches; `--wait` alone: all
    #[arg(
        long,
        value_enum,
        value_name = "WHO",
        num_args = 0..=1,
        default_missing_value = "all",
        default_value = "none"
    )]
    wait: Who,
    /// How long to wait for them
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    /// Nobody but the node that answers
    None,
    /// A majority of the voters
    Quorum,
    /// Every node that has not been inactive for a while
    All,
}

impl From<Who> for Cleared {
    fn from(who: Who) -> Self {
        match who {
            Who::None => Self::Here,
            Who::Quorum => Self::Quorum,
            Who::All => Self::All,
        }
    }
}

pub(crate) async fn run(args: InvalidateArgs, client: &Client, format: Format) -> Outcome {
    let request =
        args.tag.into_iter().fold(client.invalidate(args.patterns), |request, tag| request.tag(tag));
    let done = request.wait(args.wait.into(), args.timeout).send().await?;
    let value = serde_json::to_value(&done)
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot describe the answer: {error}")))?;
    format.print(&value, shown)?;
    if done.complete {
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("not cleared in time on {}", done.missing.join(", "));
    Err(Failure::new(Exit::Failure, message)
        .help("it is in the log and will be cleared there; `ovncp members` shows what holds up a node"))
}

fn shown(done: &Value) -> String {
    let names = |field: &str| {
        let names: Vec<_> = done[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    };
    fields(&[
        ("position", format!("{}:{}", text(done, "epoch"), text(done, "offset"))),
        ("cleared by", names("applied_by")),
        ("missing", names("missing")),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_has_cleared_it_is_named() {
        // As serde writes it: the client's numbers are numbers.
        let done = json!({"epoch": 1, "offset": 6, "complete": false, "applied_by": ["node-1", "node-3"], "missing": []});
        assert_eq!(shown(&done), "position    1:6\ncleared by  node-1, node-3\nmissing     -");
    }
}
