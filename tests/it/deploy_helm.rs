//! The Helm chart, read by Helm itself: `tests/helm/check.py` lints and renders it for several values and holds every object
//! against Kubernetes' schemas; what the pods are then given is checked by the gateway, and the rules by `promtool`.
//!
//! Helm's own library and the schemas are packages of PyPI; without Python and, at the first run, its registry this fails
//! and says so.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tokio::process::Command;

use crate::deploy::{promtool, shipped};
use crate::support::cli;
use crate::support::python::{install, run, said};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/helm");

/// What one kind of pods runs.
#[derive(Deserialize)]
struct Pods {
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

#[tokio::test]
async fn the_chart_renders_to_what_kubernetes_and_the_gateway_accept() {
    let python = install(Path::new(FOLDER)).await.join("python");
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("out");
    let checked = run(Command::new(python)
        .arg(Path::new(FOLDER).join("check.py"))
        .arg(shipped("helm/sluicegate"))
        .arg(shipped("../docs/OPERATIONS.md"))
        .arg(&out))
    .await;
    assert!(checked.status.success(), "{}", said(&checked));

    for values in ["needed", "full", "manual"] {
        let (config, pods) = (
            out.join(values).join("config.toml"),
            out.join(values).join("pods.json"),
        );
        let pods = std::fs::read(pods).expect("is there");
        let pods: BTreeMap<String, Pods> = serde_json::from_slice(&pods).expect("JSON");
        assert_eq!(pods.len(), 3, "API, workers, and the first key");
        for (name, Pods { args, env }) in pods {
            // The words are known, and name the mounted file.
            assert_eq!(
                args.last().map(String::as_str),
                Some("/etc/sluicegate/config/config.toml")
            );
            let words: Vec<_> = args.iter().map(String::as_str).chain(["--help"]).collect();
            cli::run(&words).await.expect(0);
            // The file and the variables are a configuration, for a cluster.
            let file = config.to_str().expect("UTF-8");
            let output = cli::command(&["check-config", "--config", file])
                .envs(&env)
                .output()
                .await
                .expect("starts");
            assert!(output.status.success(), "{values}: {name}: {}", said(&output));
            let effective = said(&output);
            for needed in [
                "store.kind = \"postgres\"",
                "queue.kind = \"rabbitmq\"",
                "log.format = \"json\"",
            ] {
                assert!(effective.contains(needed), "{values}: {name}: {effective}");
            }
            assert!(!effective.contains("a-secret"), "{effective}");
            let tls = effective.contains("http.tls_cert = \"/etc/sluicegate/tls/tls.crt\"");
            assert_eq!(tls, values == "full", "{effective}");
            // Those that take requests go on answering until every proxy knows that they leave.
            let lame = effective.contains("shutdown.lame_duck_seconds = 5");
            assert_eq!(lame, name.ends_with("-api"), "{values}: {name}: {effective}");
        }
    }
    let rules = out.join("full/rules.yml");
    promtool(&["check", "rules"], &rules, "").await;
    let text = std::fs::read_to_string(rules).expect("rules");
    assert!(text.contains("runbook_url: https://wiki.example/runbooks/SluicegateDown.md"));
}
