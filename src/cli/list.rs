//! `sluicegate list`: transactions that match, newest first.

use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Client, GatewayArgs, key_value, print};
use crate::domain::{Stage, Status};

/// What one request asks for at most.
const PAGE: u64 = 100;

/// List transactions, newest first
///
/// Filters are combined: a transaction is shown if it matches all of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate list
  sluicegate list --status failed --ledger main --limit 200
  sluicegate list --stage parked
  sluicegate list --metadata order=4711 --json | jq -r .id
  sluicegate list --all --json > everything.ndjson")]
pub struct ListArgs {
    /// Only with this status
    #[arg(long, value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    status: Option<String>,
    /// Only pending ones at this stage
    #[arg(long, value_parser = PossibleValuesParser::new(Stage::ALL.map(Stage::as_str)))]
    stage: Option<String>,
    /// Only for this ledger
    #[arg(long, value_name = "NAME")]
    ledger: Option<String>,
    /// Only calls of this contract
    #[arg(long, value_name = "NAME")]
    contract: Option<String>,
    /// Only calls of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Option<(String, String)>,
    /// Show so many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Show all of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// One JSON record per line instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// What the table shows of a record.
#[derive(Deserialize)]
struct Row {
    id: String,
    status: String,
    #[serde(default)]
    stage: Option<String>,
    ledger: String,
    contract: String,
    function: String,
    attempts: u64,
    updated_at: String,
}

pub(super) async fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.gateway)?;
    let filter = filter(args);
    let mut left = if args.all { u64::MAX } else { args.limit };
    let mut cursor: Option<String> = None;
    let mut table = Table::default();
    while left > 0 {
        let mut query = filter.clone();
        query.push(("limit".to_owned(), left.min(PAGE).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor".to_owned(), cursor)));
        let page: Page = client.parse(&client.get_json("/v1/transactions", &query).await?)?;
        left = left.saturating_sub(page.items.len() as u64);
        if args.json {
            for item in &page.items {
                print::line(item.get())?;
            }
        } else {
            let rows = page
                .items
                .iter()
                .map(|item| client.parse(item.get()))
                .collect::<Result<Vec<Row>, _>>()?;
            table.print(&rows)?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if cursor.is_some() && !args.json {
        eprintln!("There are more: use --limit N or --all.");
    }
    Ok(ExitCode::SUCCESS)
}

fn filter(args: &ListArgs) -> Vec<(String, String)> {
    let named = [
        ("status", &args.status),
        ("stage", &args.stage),
        ("ledger", &args.ledger),
        ("contract", &args.contract),
        ("function", &args.function),
    ];
    let mut query: Vec<(String, String)> = named
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect();
    query.extend(
        args.metadata
            .iter()
            .map(|(key, value)| (format!("metadata.{key}"), value.clone())),
    );
    query
}

/// Prints pages of rows; columns only grow, so that pages line up.
#[derive(Default)]
struct Table {
    widths: [usize; 6],
    started: bool,
}

impl Table {
    const HEADER: [&'static str; 6] = ["ID", "STATUS", "LEDGER", "CALL", "ATTEMPTS", "UPDATED"];

    fn print(&mut self, rows: &[Row]) -> std::io::Result<()> {
        let mut lines: Vec<[String; 6]> = rows.iter().map(cells).collect();
        if !self.started {
            lines.insert(0, Self::HEADER.map(str::to_owned));
            self.started = true;
        }
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &lines {
            let padded: Vec<String> = line
                .iter()
                .zip(self.widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            print::line(padded.join("  ").trim_end())?;
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 6] {
    let status = match &row.stage {
        Some(stage) if row.status == "pending" => format!("{}/{stage}", row.status),
        _ => row.status.clone(),
    };
    let call = format!("{}.{}", row.contract, row.function);
    [
        row.id.clone(),
        status,
        row.ledger.clone(),
        call,
        row.attempts.to_string(),
        row.updated_at.clone(),
    ]
    // A name could carry characters that move a terminal's cursor.
    .map(|cell| cell.replace(char::is_control, "?"))
}
