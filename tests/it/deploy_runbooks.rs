//! Every alert has its page in `docs/runbooks` and every page an alert, and what a page tells an operator to type exists.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::deploy::shipped;
use crate::support::cli;

const HEADINGS: [&str; 4] = [
    "## Impact",
    "## How to look",
    "## How to mend",
    "## When it can wait",
];

/// The names of all alerts in a file of rules.
pub(crate) fn alerts(rules: &str) -> BTreeSet<&str> {
    let lines = rules.lines().map(str::trim);
    lines.filter_map(|line| line.strip_prefix("- alert: ")).collect()
}

/// Names and texts of all pages.
fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let entries = std::fs::read_dir(folder).expect("a folder");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_str()
            .expect("UTF-8")
            .to_owned();
        (name, std::fs::read_to_string(path).expect("text"))
    };
    let all = entries.map(read);
    all.filter(|(name, _)| name != "README").collect()
}

#[test]
fn every_alert_has_its_page_and_every_page_an_alert() {
    let rules = std::fs::read_to_string(shipped("prometheus/alerts.yml")).expect("rules");
    let (alerts, pages) = (alerts(&rules), pages());
    let named: BTreeSet<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(alerts, named);
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().expect("a name");
        let page = format!("runbook_url: docs/runbooks/{alert}.md\n");
        assert!(rule.contains(&page), "{alert} does not lead to its page");
        assert!(rule.contains("severity: "), "{alert} has no severity");
        assert!(rule.contains("summary: "), "{alert} has no summary");
    }
    let manual = include_str!("../../docs/OPERATIONS.md");
    for (name, text) in &pages {
        assert!(text.starts_with(&format!("# {name}\n")), "{name}");
        for heading in HEADINGS {
            assert_eq!(
                text.matches(&format!("\n{heading}\n")).count(),
                1,
                "{name}: {heading}"
            );
        }
        let row = format!("| [{name}](runbooks/{name}.md) |");
        assert!(manual.contains(&row), "docs/OPERATIONS.md lacks {name}");
    }
}

/// What stands in fences and between backticks, line by line.
fn typed(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let spans = text.split('`').skip(1).step_by(2);
    let lines = text.lines().filter(|line| !line.contains('`'));
    let all = spans.chain(lines).flat_map(str::lines);
    all.map(|line| line.trim().to_owned()).collect()
}

/// The method and the address, if a line asks the gateway for something.
fn asked(line: &str) -> Option<(String, &str)> {
    let (method, rest) = match line
        .split_once(" $SLUICEGATE_URL/")
        .or(line.split_once(" \"$SLUICEGATE_URL/"))
    {
        Some((before, _)) if !before.starts_with("curl ") => return None,
        Some((before, _)) => {
            let method = before.split_once("-X ").map_or("GET", |(_, rest)| rest);
            (method, &line[line.find("_URL/")? + "_URL".len()..])
        }
        None => line
            .split_once(' ')
            .filter(|(_, rest)| rest.starts_with("/v1/"))?,
    };
    let method = method.split(' ').next()?.to_lowercase();
    Some((method, rest.split([' ', '"']).next()?))
}

#[tokio::test]
async fn what_they_tell_to_type_exists() {
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON");
    let (mut asked_for, mut run) = (BTreeSet::new(), BTreeSet::new());
    for (page, text) in pages() {
        for line in typed(&text) {
            if let Some((method, address)) = asked(&line) {
                let (path, query) = address.split_once('?').unwrap_or((address, ""));
                let path = match path.strip_prefix("/v1/ledgers/main") {
                    Some(rest) => format!("/v1/ledgers/{{name}}{rest}"),
                    None => path.replace("/ID", "/{id}"),
                };
                let operation = &document["paths"][&path][&method];
                assert!(
                    operation.is_object(),
                    "{page}: {line}: there is no {method} {path}"
                );
                for name in query.split('&').filter_map(|pair| pair.split('=').next()) {
                    let known = operation["parameters"].as_array().into_iter().flatten();
                    let is_known = known
                        .clone()
                        .any(|one| one["name"] == name && one["in"] == "query");
                    assert!(
                        is_known || name.is_empty(),
                        "{page}: {line}: {name} is no parameter"
                    );
                }
                asked_for.insert(format!("{method} {path}"));
            }
            if line.starts_with("sluicegate ") {
                let command = line.split(['|', '#', ';']).next().expect("a command").trim();
                run.insert(command.replace("$SLUICEGATE_URL", "http://gateway:8080"));
            }
        }
    }
    assert!(asked_for.len() > 14 && run.len() > 8, "{asked_for:#?} {run:#?}");
    for command in run {
        let words = command.split_whitespace().skip(1).chain(["--help"]);
        let ended = cli::run(&words.collect::<Vec<_>>()).await;
        assert_eq!(ended.code, 0, "{command}: {ended:#?}");
    }
}
