//! `man`: a manual page per command, for packages.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::output::Format;

/// Write manual pages, one per command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ovncp man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Where they go; made if it is not there
    dir: PathBuf,
}

pub(crate) fn run(args: &ManArgs, command: clap::Command, format: Format) -> Outcome {
    let failed = |e: std::io::Error| Failure::io(format!("write manual pages to {}", args.dir.display()), &e);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(command, &args.dir).map_err(failed)?;
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(&args.dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.starts_with("ovncp") && name.ends_with(".1") {
            pages.push(name);
        }
    }
    pages.sort();
    let view = json!({"dir": args.dir, "pages": pages});
    format.print(&view, |view| {
        let pages = view["pages"].as_array().into_iter().flatten().filter_map(Value::as_str);
        pages.collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}
