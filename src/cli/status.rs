//! `doctor`, `migrate`, `topics`, `lag`, `audit` (with `--metadata`) and `consumer resume`: is everything as it should be, and make it so.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Ended;
use super::args::Topics;
use super::args::status::{Audit, Lag};
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
    let began = Instant::now();
    loop {
        let report: Value = operator.get("/api/ops/lag", &[]).await?;
        let groups = &report["groups"];
        if args.watch && output.terminal && !output.json {
            output.line(CLEAR)?;
        }
        let behind = args.over.map_or(0, |bound| over(groups, bound));
        let long = args.r#for.is_none_or(|time| began.elapsed() >= time);
        let waits = behind > 0 && !long;
        if !waits {
            output.list(groups, &["group", "topic", "partition", "committed", "end", "lag"])?;
        }
        if behind > 0 && long {
            output.talk(format_args!(
                "{behind} partitions are more than {} records behind",
                args.over.unwrap_or_default()
            ));
            return Ok(Ended::Problem);
        }
        if !args.watch && !waits {
            return Ok(Ended::Done);
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// How many partitions are further behind than this.
fn over(groups: &Value, bound: i64) -> usize {
    items(groups).iter().filter(|row| row["lag"].as_i64().is_some_and(|lag| lag > bound)).count()
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
    for source in items(&report["sources"]) {
        output.talk(format_args!(
            "source {}: {} records, {} handed on, {} missing, {} in flight",
            cell(&source["topic"]),
            source["records"],
            source["handed_on"],
            source["missing"],
            source["in_flight"]
        ));
    }
    output.talk(if balanced { "the accounting balances" } else { "the accounting does not balance" });
    Ok(if balanced { Ended::Done } else { Ended::Problem })
}

/// `audit --metadata`, with `--backfill` after filling in.
pub(super) async fn metadata(args: &Audit, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    if args.backfill {
        let (mut rows, mut from_log) = (0, 0);
        loop {
            let filled: Value = operator.post("/api/ops/audit/metadata/backfill", &json!({})).await?;
            rows += filled["rows"].as_u64().unwrap_or_default();
            from_log += filled["from_log"].as_u64().unwrap_or_default();
            if filled["more"] != true {
                break;
            }
        }
        output.talk(format_args!(
            "{rows} rows were filled in and marked, {from_log} of them from their records"
        ));
    }
    let report: Value = operator.get("/api/ops/audit/metadata", &[]).await?;
    let columns = [
        "project_id",
        "environment_id",
        "rows",
        "full",
        "backfilled",
        "without_producer",
        "without_schema_version",
        "without_position",
        "without_received_at",
    ];
    let cells = |item: &Value, columns: &[&str]| columns.iter().map(|column| cell(&item[*column])).collect();
    let scopes = items(&report["scopes"]).iter().map(|scope| cells(scope, &columns));
    output.rows(&report, &columns, scopes)?;
    if !output.json {
        let columns =
            ["topic", "partition", "first", "last", "stored", "without_row", "dead_letters", "gaps"];
        let partitions = items(&report["partitions"]).iter().map(|one| cells(one, &columns));
        output.line(output.table(&columns, partitions))?;
        let versions = report["schema_versions"].as_object().into_iter().flatten();
        let versions = versions.map(|(version, events)| vec![version.clone(), cell(events)]);
        output.line(output.table(&["schema version", "events"], versions))?;
    }
    let complete = report["complete"] == true;
    let share = report["share"].as_f64().unwrap_or_default() * 100.0;
    output.talk(format_args!("{share:.1} % of {} rows have all their metadata", report["rows"]));
    Ok(if complete { Ended::Done } else { Ended::Problem })
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

pub(super) fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_over_the_bound_when_it_is_further_behind() {
        let groups = json!([{ "lag": 10 }, { "lag": 11 }, { "lag": null }]);
        assert_eq!((over(&groups, 10), over(&groups, 9), over(&groups, 11)), (1, 2, 0));
    }
}
