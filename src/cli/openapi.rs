//! `sluicegate openapi`: the API's document, without a gateway that runs.

use std::process::ExitCode;

use super::print;
use crate::http;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    print::line(http::openapi())?;
    Ok(ExitCode::SUCCESS)
}
