//! `sluicegate check-config`: the effective settings, or everything that is wrong with them.

use std::process::ExitCode;

use super::{ConfigArgs, print};
use crate::config;

pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let loaded = config::load(args.config.as_deref())?;
    match &loaded.file {
        Some(file) => print::line(format_args!("# {} is valid.", file.display()))?,
        None => print::line(format_args!(
            "# There is no {} here; these are built in.",
            config::DEFAULT_FILE
        ))?,
    }
    // Dotted keys with comments: the output is a valid configuration itself.
    let lines: Vec<String> = loaded.effective.iter().map(ToString::to_string).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    for (line, effective) in lines.iter().zip(&loaded.effective) {
        print::line(format_args!("{line:width$}  # {}", effective.origin))?;
    }
    Ok(ExitCode::SUCCESS)
}
