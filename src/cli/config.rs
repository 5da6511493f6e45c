//! `config check` and `config show`: what a node would run with, without running it.

use std::process::ExitCode;

use ovncp::config::{Config, Loaded};
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, print_line};
use super::serve::{Settings, wrong_configuration};

/// Check or show the configuration without starting anything.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp config check --config /etc/ovncp.yaml
  NODE_ID=node-1 ovncp config show -c ovncp.yaml     values, and where each one came from")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Say whether it is right; ends with 2 when it is not
    Check(Settings),
    /// Print the effective values without secrets
    Show(Settings),
}

pub(crate) fn run(args: &ConfigArgs, format: Format) -> Outcome {
    match &args.command {
        ConfigCommand::Check(settings) => check(settings, format),
        ConfigCommand::Show(settings) => show(settings, format),
    }
}

fn check(settings: &Settings, format: Format) -> Outcome {
    let loaded = Config::load(&settings.sources());
    let incomplete = loaded.as_ref().ok().and_then(|loaded| loaded.config.check_start().err());
    let texts =
        |problems: &[ovncp::config::Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let warnings = loaded.as_ref().map_or_else(|_| Vec::new(), |loaded| texts(&loaded.warnings));
    let errors = loaded.as_ref().map_or_else(|error| texts(&error.problems), |_| Vec::new());
    let missing = incomplete.as_ref().map_or_else(Vec::new, |error| texts(&error.problems));
    let view =
        json!({"ok": errors.is_empty(), "errors": errors, "warnings": warnings, "missing_to_start": missing});
    format.print(&view, |_| {
        let lines = [("error", &errors), ("warning", &warnings), ("to start a node", &missing)];
        let lines =
            lines.iter().flat_map(|(kind, all)| all.iter().map(move |text| format!("{kind}: {text}")));
        let verdict = match (errors.len(), warnings.len()) {
            (0, 0) => "the configuration is right".to_owned(),
            (0, 1) => "the configuration is right, with 1 warning".to_owned(),
            (0, n) => format!("the configuration is right, with {n} warnings"),
            (1, _) => "the configuration is wrong: 1 error".to_owned(),
            (n, _) => format!("the configuration is wrong: {n} errors"),
        };
        lines.chain([verdict]).collect::<Vec<_>>().join("\n")
    })?;
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { Exit::Usage.into() })
}

fn show(settings: &Settings, format: Format) -> Outcome {
    let Loaded { config, warnings } =
        Config::load(&settings.sources()).map_err(|e| wrong_configuration(&e))?;
    let yaml = config.to_yaml_redacted();
    if format == Format::Json {
        // One source for both: the YAML, whose comments JSON cannot carry.
        let value: serde_json::Value = serde_saphyr::from_str(&yaml)
            .map_err(|e| Failure::new(Exit::Failure, format!("cannot turn the settings into JSON: {e}")))?;
        format.print(&value, ToString::to_string)?;
    } else {
        print_line(yaml.trim_end());
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}
