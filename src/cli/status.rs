//! `doctor`, `migrate`, `topics`, `lag`, `audit` and `consumer resume`: is everything as it should be, and make it so.

use std::time::Duration;

use serde_json::{Value, json};

use super::Ended;
use super::args::{Lag, Topics};
use super::operator::Operator;
use super::output::{Output, cell};

/// How often `lag --watch` looks.
const WATCH: Duration = Duration::from_secs(1);
/// What follows from growing a topic.
const WHAT_MOVES: &str = "Keys move: a distinct id's next event may go to another partition than those before it, out of order \
     with them. A resend with the same day, name and distinct id is still one event; one that changed these is recognised \
     by the sweep (consumer.sweep_interval) instead of at once, for as long as the id window reaches back.";
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) async fn doctor(operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let report: Value = operator.get("/api/ops/doctor", &[]).await?;
    let findings = items(&report["findings"]);
    let failed = findings.iter().filter(|finding| finding["ok"] != true).count();
    let rows = findings.iter().map(|finding| {
        let state = if finding["ok"] == true { "ok" } else { "FAILED" };
        vec![state.to_owned(), cell(&finding["name"]), cell(&finding["message"]), cell(&finding["cure"])]
    });
    output.rows(&report, &["", "check", "found", "cure"], rows)?;
    if failed == 0 {
        return Ok(Ended::Done);
    }
    output.talk(format_args!("{failed} of {} checks failed", findings.len()));
    Ok(Ended::Problem)
}

pub(super) async fn migrate(operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let made: Value = operator.post("/api/ops/migrate", &json!({})).await?;
    let rows = ["meta", "store"].into_iter().flat_map(|database| {
        items(&made[database]).iter().map(move |name| vec![database.to_owned(), cell(name)])
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() && !output.json {
        output.talk("nothing to do: every migration is applied");
    } else {
        output.rows(&made, &["database", "applied"], rows)?;
    }
    Ok(Ended::Done)
}

pub(super) async fn topics(command: &Topics, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    match command {
        Topics::List => {
            let all: Value = operator.get("/api/ops/topics", &[]).await?;
            let rows = items(&all["topics"]).iter().flat_map(|topic| {
                items(&topic["partitions"]).iter().enumerate().map(move |(partition, offsets)| {
                    vec![
                        cell(&topic["name"]),
                        partition.to_string(),
                        cell(&offsets["log_start"]),
                        cell(&offsets["end"]),
                        cell(&topic["id"]),
                    ]
                })
            });
            output.rows(&all["topics"], &["topic", "partition", "log start", "end", "topic id"], rows)?;
        }
        Topics::Check => {
            let all: Value = operator.get("/api/ops/topics", &[]).await?;
            let missing = items(&all["missing"]);
            let rows = missing
                .iter()
                .map(|name| vec!["missing".to_owned(), cell(name), "flexflow topics create".to_owned()])
                .chain(
                    items(&all["remarks"])
                        .iter()
                        .map(|remark| vec!["note".to_owned(), cell(remark), String::new()]),
                )
                .collect::<Vec<_>>();
            if rows.is_empty() && !output.json {
                output.talk("every topic is there");
            } else {
                let found = json!({ "missing": all["missing"], "remarks": all["remarks"] });
                output.rows(&found, &["", "found", "cure"], rows)?;
            }
            return Ok(if missing.is_empty() { Ended::Done } else { Ended::Problem });
        }
        Topics::Create => {
            let made: Value = operator.post("/api/ops/topics/create", &json!({})).await?;
            let created = items(&made["created"]);
            if created.is_empty() && !output.json {
                output.talk("nothing to do: every topic is there");
            } else {
                output.rows(&made, &["created"], created.iter().map(|name| vec![cell(name)]))?;
            }
        }
        Topics::Grow { topic, partitions } => {
            let body = json!({ "topic": topic, "partitions": partitions });
            let grown: Value = operator.post("/api/ops/topics/grow", &body).await?;
            output.object(&grown)?;
            output.talk(WHAT_MOVES);
        }
    }
    Ok(Ended::Done)
}

pub(super) async fn lag(args: &Lag, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    loop {
        let report: Value = operator.get("/api/ops/lag", &[]).await?;
        if args.watch && output.terminal && !output.json {
            output.line(CLEAR)?;
        }
        output.list(&report["groups"], &["group", "topic", "partition", "committed", "end", "lag"])?;
        if !args.watch {
            return Ok(Ended::Done);
        }
        tokio::time::sleep(WATCH).await;
    }
}

pub(super) async fn audit(operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let report: Value = operator.get("/api/ops/audit", &[]).await?;
    let balanced = report["balanced"] == true;
    let columns = [
        "partition",
        "committed",
        "end",
        "records",
        "stored",
        "duplicate",
        "dead lettered",
        "missing",
        "in flight",
    ];
    let row = |name: String, committed: &Value, end: &Value, terms: &Value| {
        let dead: u64 =
            terms["dead_lettered"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        vec![
            name,
            cell(committed),
            cell(end),
            cell(&terms["records"]),
            cell(&terms["stored"]),
            cell(&terms["duplicate"]),
            dead.to_string(),
            cell(&terms["missing"]),
            cell(&terms["in_flight"]),
        ]
    };
    let partitions = items(&report["partitions"]);
    let rows = partitions
        .iter()
        .map(|one| row(cell(&one["partition"]), &one["committed"], &one["end"], &one["totals"]))
        .chain([row("all".to_owned(), &Value::Null, &Value::Null, &report["totals"])]);
    output.rows(&report, &columns, rows)?;
    for partition in partitions {
        for missing in items(&partition["missing"]) {
            output.talk(format_args!(
                "nowhere: offset {} of partition {}, event {}",
                missing["offset"],
                partition["partition"],
                cell(&missing["event_id"])
            ));
        }
    }
    output.talk(if balanced { "the accounting balances" } else { "the accounting does not balance" });
    Ok(if balanced { Ended::Done } else { Ended::Problem })
}

pub(super) async fn resume(
    topic: &str,
    partition: i32,
    operator: &Operator,
    output: Output,
) -> anyhow::Result<Ended> {
    let body = json!({ "topic": topic, "partition": partition });
    let resumed: Value = operator.post("/api/ops/consumer/resume", &body).await?;
    output.object(&resumed)?;
    Ok(Ended::Done)
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}
