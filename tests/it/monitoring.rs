//! The alerts and the dashboard that come with the product: each names metrics that exist, and each alert fires.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use flexflow::event::ErrorKind;
use flexflow::telemetry::names;
use serde_json::Value;

use crate::support::Process;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What an expression may name besides: Prometheus's own metric, functions, keywords and labels.
const WORDS: &[&str] = &[
    "up",
    "histogram_quantile",
    "sum",
    "max",
    "min",
    "by",
    "rate",
    "increase",
    "le",
    "job",
    "instance",
    "topic",
    "partition",
    "component",
    "dependency",
    "error_kind",
    "reason",
    "class",
    "code",
    "status",
    "outcome",
    "question",
    "error",
    "m",
];

/// Names in this expression that are no metric of the product.
fn unknown(expression: &str) -> Vec<String> {
    let metrics: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    // What stands in quotes is a label's value.
    let bare: String = expression.split('"').step_by(2).collect();
    let words = bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words = words.filter(|word| !word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit()));
    let exists = |word: &str| {
        WORDS.contains(&word)
            || metrics.contains(word)
            || word.strip_suffix("_bucket").is_some_and(|name| metrics.contains(name))
    };
    words.filter(|word| !exists(word)).map(str::to_owned).collect()
}

#[test]
fn every_panel_names_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(unknown(expression), Vec::<String>::new(), "{}: {expression}", panel["title"]);
        }
    }
    assert_eq!(unknown("rate(consumer_lag_mesages[5m])"), ["consumer_lag_mesages"], "the check can fail");
}

#[test]
fn every_alert_names_metrics_that_exist_and_stands_in_the_runbook() {
    let alerts = read("deploy/prometheus/alerts.yml");
    let runbook = read("RUNBOOK.md");
    let mut count = 0;
    for line in alerts.lines().map(str::trim) {
        if let Some(expression) = line.strip_prefix("expr: ") {
            assert_eq!(unknown(expression), Vec::<String>::new(), "{expression}");
        }
        if let Some(name) = line.strip_prefix("- alert: ") {
            assert!(runbook.contains(&format!("| `{name}` |")), "RUNBOOK does not explain alert {name}");
            assert!(read("deploy/prometheus/alerts_test.yml").contains(&format!("name: {name} fires")));
            count += 1;
        }
    }
    assert!(count >= 13, "{count} alerts");
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_it_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("scripts/promtool"))
        .args(["test", "rules", "alerts_test.yml"])
        .current_dir(root.join("deploy/prometheus"))
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// What stands in `increase(…[` and `rate(…[` of an expression: a counter's name, and the labels it is asked for.
fn counted(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let calls = expression.split("increase(").flat_map(|part| part.split("rate(")).skip(1);
    let selectors = calls.filter_map(|call| call.split_once('[').map(|(selector, _)| selector));
    selectors
        .map(|selector| match selector.split_once('{') {
            Some((name, labels)) => (name, labels.trim_end_matches('}').split(',').collect()),
            None => (selector, Vec::new()),
        })
        .filter(|(name, _)| name.ends_with("_total"))
        .collect()
}

/// To `increase` and `rate` a counter that appears with its first count has not changed: an alert would be silent about
/// the first of its kind, and about a share of which there is none yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_alerts_count_is_there_from_the_start_at_zero() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::serve(&dir.path().join("data"), &[]).await;
    let answer = process.client.http.get(format!("{}/metrics", process.client.url)).send().await.unwrap();
    let metrics = answer.text().await.unwrap();
    let is_there = |name: &str, labels: &[&str]| {
        let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        metrics.lines().filter(named).any(|line| labels.iter().all(|label| line.contains(label)))
    };
    let (alerts, mut count) = (read("deploy/prometheus/alerts.yml"), 0);
    for expression in alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        for (name, labels) in counted(expression) {
            assert!(is_there(name, &labels), "{name}{labels:?} of {expression}");
            count += 1;
        }
    }
    assert!(count >= 12, "{count} counters");
    for kind in ErrorKind::ALL {
        let labels = ["topic=\"events\"".to_owned(), format!("error_kind=\"{kind}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert!(is_there(names::CONSUMER_DLQ_MESSAGES.name, &labels), "{labels:?}");
    }
    assert!(process.terminate().success());
}
