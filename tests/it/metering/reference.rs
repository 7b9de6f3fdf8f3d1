//! Every aggregation in every window, as the whole application answers it, against a naive reference: integers alone, and
//! windows found by looking at each minute.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use super::*;

const KINDS: [&str; 9] =
    ["COUNT", "SUM", "AVG", "COUNT_UNIQUE", "LATEST", "MAX", "MIN", "SUM_WITH_MULTIPLIER", "WEIGHTED_SUM"];
const WINDOWS: [&str; 10] =
    ["MINUTE", "15MIN", "30MIN", "HOUR", "3HOUR", "6HOUR", "12HOUR", "DAY", "WEEK", "MONTH"];
const MINUTE: i64 = 60_000;
const DAY: i64 = 1440 * MINUTE;
/// New York's clocks skip an hour within these three days.
const FROM: &str = "2026-03-07T00:00:00Z";

struct Sent {
    id: String,
    at: i64,
    /// In thousandths; none: there is no value.
    value: Option<i64>,
}

fn moment(at: i64, zone: Tz) -> DateTime<Tz> {
    zone.timestamp_millis_opt(at).unwrap()
}

/// What tells the window of a minute from others: its place by the clock, and the offset where an hour may come twice.
fn label(window: &str, at: i64, zone: Tz, anchor: u32) -> (i64, i32) {
    let local = moment(at, zone);
    let day = i64::from(local.num_days_from_ce());
    let minute = i64::from(local.hour() * 60 + local.minute());
    let offset = local.offset().fix().local_minus_utc();
    let by_clock = |minutes: i64| day * 1440 + minute / minutes * minutes;
    match window {
        "MINUTE" => (by_clock(1), offset),
        "15MIN" => (by_clock(15), offset),
        "30MIN" => (by_clock(30), offset),
        "HOUR" => (by_clock(60), offset),
        "3HOUR" => (by_clock(180), 0),
        "6HOUR" => (by_clock(360), 0),
        "12HOUR" => (by_clock(720), 0),
        "DAY" => (day, 0),
        // Day 1 is a Monday.
        "WEEK" => ((day - 1).div_euclid(7), 0),
        _ => {
            let (year, month) = (local.year(), local.month());
            let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            let days = NaiveDate::from_ymd_opt(next.0, next.1, 1).unwrap().pred_opt().unwrap().day();
            let begun = i64::from(local.day() >= anchor.min(days));
            (i64::from(year) * 12 + i64::from(month) + begun, 0)
        }
    }
}

/// Beginning and end of the window that a moment is in, minute by minute.
fn window_of(window: &str, at: i64, zone: Tz, anchor: u32) -> (i64, i64) {
    let minute = at.div_euclid(MINUTE) * MINUTE;
    let wanted = label(window, minute, zone, anchor);
    let is_in = |at: i64| label(window, at, zone, anchor) == wanted;
    // By quarters of an hour, which all of these begin with, where a window has thousands of minutes.
    let step = if ["DAY", "WEEK", "MONTH"].contains(&window) { 15 * MINUTE } else { MINUTE };
    let aligned = minute.div_euclid(step) * step;
    let (mut start, mut end) = (aligned, aligned + step);
    while is_in(start - step) {
        start -= step;
    }
    while is_in(end) {
        end += step;
    }
    (start, end)
}

/// `numerator / denominator` with 18 digits, halves to even.
fn quotient(numerator: i128, denominator: i128) -> String {
    let scaled = numerator * 10_i128.pow(18);
    let (mut quotient, rest) = (scaled.abs() / denominator, scaled.abs() % denominator);
    if rest * 2 > denominator || (rest * 2 == denominator && quotient % 2 == 1) {
        quotient += 1;
    }
    let text = format!("{}.{:018}", quotient / 10_i128.pow(18), quotient % 10_i128.pow(18));
    let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    if numerator < 0 && text != "0" { format!("-{text}") } else { text }
}

/// None: there is nothing to make it of.
fn naive(kind: &str, sent: &[&Sent], (start, end): (i64, i64)) -> Option<String> {
    let values: Vec<(&Sent, i128)> =
        sent.iter().filter_map(|one| Some((*one, i128::from(one.value?)))).collect();
    let sum: i128 = values.iter().map(|(_, value)| value).sum();
    let some = |value: Option<i128>| value.map(|value| quotient(value, 1000));
    match kind {
        "COUNT" => Some(sent.len().to_string()),
        "SUM" => Some(quotient(sum, 1000)),
        // Half of it.
        "SUM_WITH_MULTIPLIER" => Some(quotient(sum, 2000)),
        "AVG" if values.is_empty() => None,
        "AVG" => Some(quotient(sum, 1000 * values.len() as i128)),
        "COUNT_UNIQUE" => {
            let mut all: Vec<i128> = values.iter().map(|(_, value)| *value).collect();
            all.sort_unstable();
            all.dedup();
            Some(all.len().to_string())
        }
        "LATEST" => some(values.iter().max_by_key(|(one, _)| (one.at, &one.id)).map(|(_, value)| *value)),
        "MAX" => some(values.iter().map(|(_, value)| *value).max()),
        "MIN" => some(values.iter().map(|(_, value)| *value).min()),
        _ => {
            let weighted: i128 = values.iter().map(|(one, value)| value * i128::from(end - one.at)).sum();
            Some(quotient(weighted, 1000 * i128::from(end - start)))
        }
    }
}

/// Events of three days, several a minute here and there, with numbers of either sign as numbers and as texts.
fn made() -> (Vec<Sent>, String) {
    let first = DateTime::parse_from_rfc3339(FROM).unwrap().timestamp_millis();
    let (mut sent, mut texts) = (Vec::new(), Vec::new());
    for n in 0..360_i64 {
        let at = first + (n * 7_919 % 359) * 12 * MINUTE + (n * 31_337 % 59_999);
        let value = (n % 9 != 0).then(|| (n * 104_729) % 2_001 - 700);
        let properties = match value {
            None => "{}".to_owned(),
            Some(value) => {
                let (sign, size) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
                let text = format!("{sign}{}.{:03}", size / 1000, size % 1000);
                if n % 2 == 0 { format!(r#"{{"v":{text}}}"#) } else { format!(r#"{{"v":"{text}"}}"#) }
            }
        };
        let id = format!("n{n:03}");
        let time = moment(at, Tz::UTC).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        texts.push(format!(
            r#"{{"event_id":"{id}","event_name":"call","external_customer_id":"ada","timestamp":"{time}","properties":{properties}}}"#
        ));
        sent.push(Sent { id, at, value });
    }
    (sent, format!(r#"{{"events":[{}]}}"#, texts.join(",")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_aggregation_in_every_window_is_that_of_the_naive_reference() {
    let app = Sandbox::start().await;
    let client = &app.client;
    let (sent, body) = made();
    // Twice: what is sent again counts once.
    for _ in 0..2 {
        let request =
            client.http.post(format!("{}/v1/events/bulk", client.url)).header("X-API-Key", &client.key);
        let answer =
            request.header("Content-Type", "application/json").body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    client.settled(sent.len()).await;
    let end = DateTime::parse_from_rfc3339(FROM).unwrap().timestamp_millis() + 3 * DAY;
    let end = Utc.timestamp_millis_opt(end).unwrap().to_rfc3339();
    let mut asked_of = 0;
    for (name, zone, anchor) in [
        ("UTC", Tz::UTC, 1),
        ("America/New_York", Tz::America__New_York, 31),
        ("Asia/Kathmandu", Tz::Asia__Kathmandu, 8),
    ] {
        for window in WINDOWS {
            let mut windows: BTreeMap<(i64, i64), Vec<&Sent>> = BTreeMap::new();
            for one in &sent {
                windows.entry(window_of(window, one.at, zone, anchor)).or_default().push(one);
            }
            for kind in KINDS {
                let mut asked = json!({"event_name": "call", "aggregation_type": kind, "window_size": window,
                    "timezone": name, "start_time": FROM, "end_time": end});
                if kind != "COUNT" {
                    asked["property_name"] = "v".into();
                }
                if kind == "SUM_WITH_MULTIPLIER" {
                    asked["multiplier"] = "0.5".into();
                }
                if window == "MONTH" {
                    asked["billing_anchor"] = anchor.into();
                }
                let answer = usage(client, &asked).await;
                let found: Vec<(i64, Option<String>)> = answer["results"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|point| {
                        let start = DateTime::parse_from_rfc3339(point["window_size"].as_str().unwrap());
                        let value = point["exact_value"].as_str().unwrap().to_owned();
                        (start.unwrap().timestamp_millis(), (point["has_value"] == true).then_some(value))
                    })
                    .collect();
                let wanted: Vec<(i64, Option<String>)> =
                    windows.iter().map(|(bounds, sent)| (bounds.0, naive(kind, sent, *bounds))).collect();
                assert_eq!(found, wanted, "{asked}");
                asked_of += found.len();
            }
        }
    }
    assert!(asked_of > 10_000, "{asked_of} windows");
    app.stop().await;
}
