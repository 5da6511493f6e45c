//! `drain` and `resume`: emptying a node of its sessions before maintenance, and taking it back.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ovncp::client::{Client, DrainView, Error};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Format, fields, text};

/// Pause between two looks at a drain.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Move all sessions of a node elsewhere and let it take no new ones.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp drain node-2                 begin, show how it stands, end
  ovncp drain node-2 --wait          wait until the node has no sessions
  ovncp drain node-2 --rate 200      so many sessions per second; also changes a drain under way
  ovncp resume node-2                take it back

The node stays a member, votes, and answers requests. It is draining until `ovncp resume`, through restarts, too.
Ctrl-C during --wait leaves the drain going.")]
pub(crate) struct DrainArgs {
    /// Name of the node
    node: String,
    /// Sessions per second [default: the server's, 50]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Wait until the node has no sessions any more
    #[arg(long)]
    wait: bool,
    /// With --wait: for so long at most; ends with 1 then
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, requires = "wait")]
    timeout: Duration,
}

/// Let a drained node take sessions again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ovncp resume node-2")]
pub(crate) struct ResumeArgs {
    /// Name of the node
    node: String,
}

pub(crate) async fn drain(args: &DrainArgs, client: &Client, format: Format) -> Outcome {
    let mut drain = client.cluster().drain(&args.node, args.rate).await?;
    if args.wait {
        drain = wait(args, client, drain).await?;
    }
    let value = serde_json::to_value(&drain)
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot describe the drain: {error}")))?;
    format.print(&value, shown)?;
    Ok(ExitCode::SUCCESS)
}

/// Looks until nothing is left. Nodes that come and go meanwhile are no reason to give up.
async fn wait(args: &DrainArgs, client: &Client, mut drain: DrainView) -> Result<DrainView, Failure> {
    let (bar, begun) = (progress(&args.node), Instant::now());
    loop {
        show(&bar, &drain);
        if drain.done {
            bar.finish_and_clear();
            return Ok(drain);
        }
        if begun.elapsed() >= args.timeout {
            bar.abandon();
            let message = format!("{} still has {} sessions", args.node, drain.left);
            return Err(
                Failure::new(Exit::Failure, message).help("the drain goes on: look again with --wait")
            );
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        match client.cluster().drain_progress(&args.node).await {
            Ok(Some(now)) => drain = now,
            Ok(None) => {
                bar.abandon();
                return Err(Failure::new(Exit::Failure, "somebody has resumed the node meanwhile"));
            }
            Err(
                Error::Unreachable { .. }
                | Error::Timeout { .. }
                | Error::NoLeader(_)
                | Error::Unavailable(_),
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn progress(node: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("drain {prefix} [{bar:40}] {pos}/{len}  {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(node.to_owned());
    bar
}

fn show(bar: &ProgressBar, drain: &DrainView) {
    // Sessions that came between the order and its entry count, too.
    bar.set_length(drain.total.max(drain.moved + drain.left));
    bar.set_position(drain.moved);
    bar.set_message(eta(drain.eta_ms));
}

fn eta(ms: Option<u64>) -> String {
    ms.map_or_else(String::new, |ms| format!("{} left", output::duration(Duration::from_millis(ms))))
}

fn shown(drain: &Value) -> String {
    fields(&[
        ("node", text(drain, "node_id")),
        (
            "sessions",
            format!(
                "{} moved of {}, {} left",
                text(drain, "moved"),
                text(drain, "total"),
                text(drain, "left")
            ),
        ),
        ("rate", format!("{} per second", text(drain, "rate_per_s"))),
        (
            "time left",
            drain["eta_ms"]
                .as_u64()
                .map_or_else(|| "-".to_owned(), |ms| output::duration(Duration::from_millis(ms))),
        ),
        ("done", text(drain, "done")),
    ])
}

pub(crate) async fn resume(args: &ResumeArgs, client: &Client, format: Format) -> Outcome {
    client.cluster().resume(&args.node).await?;
    let shown = json!({"node_id": args.node, "resumed": true});
    format.print(&shown, |_| format!("{} takes sessions again", args.node))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_numbers_and_time() {
        let drain = json!({"node_id": "node-2", "total": 100, "left": 40, "moved": 60, "rate_per_s": 50,
            "eta_ms": 800, "done": false});
        let shown = shown(&drain);
        assert!(shown.contains("60 moved of 100, 40 left") && shown.contains("800 ms"), "{shown}");
        assert_eq!((eta(Some(90_000)).as_str(), eta(None).as_str()), ("1 min 30 s left", ""));
    }
}
