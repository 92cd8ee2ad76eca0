//! Imports point one way: domain, then the seams, then worker, gateway and http, then app, then cli. The devnet, a
//! ledger of its own, knows only what lies below the gateway.
//!
//! Scans the source for paths that begin with `crate::` (comments aside) and fails on one that the layers do
//! not allow. Test modules are held to the same rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where adapters live: nobody but `app` and the seam's own tests may name one.
const SEAMS: [&str; 4] = ["store", "queue", "ledger", "notify"];
/// What the seams, and what lies below them, must not know.
const ABOVE: [&str; 11] = [
    "worker",
    "relay",
    "webhooks",
    "archive",
    "gateway",
    "audit",
    "auth",
    "http",
    "app",
    "reconciler",
    "cli",
];

#[test]
fn the_layers_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    let mut files = 0;
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .expect("below src")
                    .to_str()
                    .expect("UTF-8");
                breaches.extend(breaches_in(name, &fs::read_to_string(&path).expect("text")));
                files += 1;
            }
        }
    }
    assert!(files > 50, "only {files} files were found");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// Everything in the file at `path` (below `src`) that breaks a rule.
fn breaches_in(path: &str, source: &str) -> Vec<String> {
    let code = without_comments(source);
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let own = parts[0];
    let mut breaches = Vec::new();
    for used in paths_used(&code) {
        let module = used[0].as_str();
        if module != own && !allowed(&parts, module) {
            breaches.push(format!("src/{path}: {own} must not use crate::{module}"));
        }
        if module == own && SEAMS.contains(&own) && is_sibling_adapter(&parts, &used) {
            breaches.push(format!(
                "src/{path}: an adapter must not use crate::{}",
                used.join("::")
            ));
        }
    }
    if own == "worker" && code.contains("axum") {
        breaches.push(format!("src/{path}: worker must not know axum"));
    }
    breaches
}

fn allowed(path: &[&str], module: &str) -> bool {
    let own = path[0];
    let low = ["domain", "kv", "store", "queue", "ledger", "notify"].contains(&own);
    match own {
        "domain" | "fabric" => false,
        "devnet" => ["clock", "config", "domain", "fabric", "kv", "ledger"].contains(&module),
        _ if module == "devnet" => ["app", "cli", "fuzzing"].contains(&own),
        _ if low && ABOVE.contains(&module) => false,
        // Their tests need a store to be derived from.
        "webhooks" if module == "kv" => path == ["webhooks", "tests"],
        "webhooks" => [
            "clock",
            "config",
            "domain",
            "failpoint",
            "share",
            "store",
            "telemetry",
        ]
        .contains(&module),
        // Its tests need a store to be filled from, and records as they are shown.
        "archive" if ["kv", "http"].contains(&module) => path == ["archive", "tests"],
        "archive" => ["clock", "config", "domain", "failpoint", "store", "telemetry"].contains(&module),
        "kv" => !SEAMS.contains(&module),
        // The embedded queue is derived from the store, and its suite needs one to derive it from.
        "queue" if module == "store" => matches!(path, ["queue", "embedded" | "conformance"]),
        _ if SEAMS.contains(&own) && SEAMS.contains(&module) => false,
        "http" if module == "ledger" => false,
        _ if module == "app" => ["cli", "fuzzing"].contains(&own),
        _ => true,
    }
}

/// Whether `used` names an adapter of the file's own seam that the file does not belong to.
fn is_sibling_adapter(path: &[&str], used: &[String]) -> bool {
    let [_, adapter, ..] = path else { return false };
    let in_adapter = !["mod", "conformance"].contains(adapter);
    // `documents` is a seam itself, beside the one that the store's own file is.
    let is_module =
        |name: &str| name.starts_with(char::is_lowercase) && !["conformance", "documents"].contains(&name);
    in_adapter && used.get(1).is_some_and(|name| is_module(name) && name != adapter)
}

fn without_comments(source: &str) -> String {
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first one or two names of every path after `crate::`, groups taken apart.
fn paths_used(code: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate` and `my_crate` are other words.
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            collect(&code[at + "crate::".len()..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Follows a path to its second name, or into each branch of a group. Answers what is left of the text.
fn collect<'t>(text: &'t str, names: &mut Vec<String>, found: &mut BTreeSet<Vec<String>>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut inner) = text.strip_prefix('{') {
        loop {
            inner = collect(inner, &mut names.clone(), found).trim_start();
            // Past what was not followed: deeper names, `as`, deeper groups.
            let mut depth = 0;
            let end = inner.find(|c: char| match c {
                '{' => {
                    depth += 1;
                    false
                }
                '}' if depth > 0 => {
                    depth -= 1;
                    false
                }
                ',' | '}' => depth == 0,
                _ => false,
            });
            let Some(end) = end else { return "" };
            let rest = inner[end..].trim_start_matches(',').trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            inner = rest;
        }
    }
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    if end == 0 {
        return text;
    }
    names.push(text[..end].to_owned());
    match text[end..].strip_prefix("::") {
        Some(rest) if names.len() < 2 => collect(rest, names, found),
        _ => {
            found.insert(names.clone());
            &text[end..]
        }
    }
}

#[test]
fn paths_are_found_however_they_are_written() {
    let source = "
        //! [`crate::cli`] in a comment is no import.
        use crate::domain::{Request, State};
        pub use crate::{app, telemetry::{metrics::{Metrics, Other as O}, logs}, clock as time};
        use crate::{
            gateway,
            http::Code,
        };
        fn f(x: crate::store::StoreError) -> my_crate::worker::Lane {}
        // use crate::reconciler;
    ";
    let found: Vec<String> = paths_used(&without_comments(source))
        .into_iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "app",
            "clock",
            "domain::Request",
            "domain::State",
            "gateway",
            "http::Code",
            "store::StoreError",
            "telemetry::logs",
            "telemetry::metrics",
        ]
    );
}

#[test]
fn every_rule_catches_its_breach() {
    for (path, source) in [
        ("domain/state.rs", "use crate::clock::Clock;"),
        ("domain/mod.rs", "use crate::{kv};"),
        ("fabric/mod.rs", "use crate::ledger::Query;"),
        ("store/embedded/mod.rs", "use crate::worker::Lane;"),
        ("queue/mod.rs", "use crate::http::Code;"),
        ("ledger/mod.rs", "use crate::gateway::Gateway;"),
        ("notify/mod.rs", "use crate::reconciler::Reconciler;"),
        ("kv/redb.rs", "fn f() { crate::app::build() }"),
        ("kv/mod.rs", "use crate::store::StoreError;"),
        ("store/mod.rs", "use crate::cli::Cli;"),
        ("store/embedded/mod.rs", "use crate::ledger::Query;"),
        ("store/mod.rs", "use crate::queue::WorkQueue;"),
        ("queue/mod.rs", "use crate::store::TransactionStore;"),
        ("queue/rabbit.rs", "use crate::store::TransactionStore;"),
        ("queue/embedded.rs", "use crate::ledger::Query;"),
        ("ledger/simulator/mod.rs", "use crate::store::StoreError;"),
        ("ledger/simulator/mod.rs", "use crate::ledger::fabric::Proposal;"),
        ("queue/rabbit.rs", "use crate::queue::{Delivery, embedded};"),
        ("http/error.rs", "use crate::{config, ledger::QueryError};"),
        ("http/mod.rs", "use crate::app;"),
        ("worker/mod.rs", "use axum::Router;"),
        ("gateway/mod.rs", "use crate::app::App;"),
        ("devnet/mod.rs", "use crate::store::embedded;"),
        ("devnet/control.rs", "use crate::http::Code;"),
        ("ledger/simulator/mod.rs", "use crate::devnet::Policy;"),
        ("gateway/mod.rs", "use crate::devnet::Policy;"),
        ("store/mod.rs", "use crate::webhooks::Guard;"),
        ("webhooks/mod.rs", "use crate::http::show;"),
        ("webhooks/mod.rs", "use crate::ledger::Query;"),
    ] {
        let breaches = breaches_in(path, source);
        assert_eq!(breaches.len(), 1, "{path}: {source}: {breaches:?}");
    }
}

#[test]
fn what_is_allowed_is_let_through() {
    for (path, source) in [
        ("domain/state.rs", "use crate::domain::Outcome;"),
        (
            "queue/embedded.rs",
            "use crate::{domain::State, queue::Delivery, store::TransactionStore};",
        ),
        (
            "ledger/simulator/mod.rs",
            "use crate::{config::Settings, kv, ledger::{Query, simulator}};",
        ),
        ("ledger/conformance.rs", "use crate::ledger::{fabric, simulator};"),
        (
            "http/ledgers.rs",
            "use crate::gateway::Query; // not crate-wide axum",
        ),
        ("cli/serve.rs", "use crate::{app, telemetry};"),
        ("cli/devnet.rs", "use crate::devnet::Policy;"),
        ("devnet/mod.rs", "use crate::ledger::simulator::Engine;"),
        (
            "app.rs",
            "use crate::{http, ledger::simulator::SimulatorLedger, queue, store, worker};",
        ),
        (
            "worker/mod.rs",
            "// axum is none of its business\nuse crate::ledger::Outcomes;",
        ),
    ] {
        assert_eq!(
            breaches_in(path, source),
            Vec::<String>::new(),
            "{path}: {source}"
        );
    }
}
