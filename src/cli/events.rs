//! `trace` and `tail`: single events.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde_json::Value;

use super::Ended;
use super::args::{Tail, Trace};
use super::operator::Operator;
use super::output::{Output, cell};

/// How often `tail` looks.
const POLL: Duration = Duration::from_millis(500);
/// Most pages that one look reads back.
const PAGES_MAX: usize = 10;
/// Events remembered as printed.
const SEEN_MAX: usize = 20_000;

pub(super) async fn trace(args: &Trace, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let id = segment(&args.event_id);
    let trace: Value = operator.get(&format!("/api/query/events/{id}/trace"), &[]).await?;
    if output.json {
        output.value(&trace)?;
        return Ok(Ended::Done);
    }
    output.line(format_args!("{}: {}", cell(&trace["status"]), cell(&trace["message"])))?;
    output.list(&trace["steps"], &["at", "step", "detail"])?;
    if trace["dead_letters"].as_array().is_some_and(|letters| !letters.is_empty()) {
        output.list(&trace["dead_letters"], &["id", "dlq_ts", "error_kind", "error_message"])?;
    }
    if let Some(lag) = trace["backlog"]["lag"].as_i64() {
        output.talk(format_args!("the store is {lag} records behind the log"));
    }
    Ok(Ended::Done)
}

pub(super) async fn tail(args: &Tail, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let mut filters = Vec::new();
    filters.extend(args.event.clone().map(|event| ("event", event)));
    filters.extend(args.distinct_id.clone().map(|id| ("distinct_id", id)));
    let mut seen = Seen::default();
    let mut newest: Vec<Value> = page(operator, &filters, None).await?.0;
    newest.retain(|event| seen.is_new(event));
    newest.truncate(args.last as usize);
    loop {
        for event in newest.iter().rev() {
            print(event, output)?;
        }
        if args.no_follow {
            return Ok(Ended::Done);
        }
        tokio::time::sleep(POLL).await;
        let (events, whole) = arrived(operator, &filters, &mut seen).await?;
        newest = events;
        if !whole {
            output.talk("more events arrived than are shown");
        }
    }
}

/// What was not there at the last look, newest first, and whether that is all of it.
async fn arrived(
    operator: &Operator,
    filters: &[(&str, String)],
    seen: &mut Seen,
) -> anyhow::Result<(Vec<Value>, bool)> {
    let (mut found, mut cursor) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let (events, next) = page(operator, filters, cursor).await?;
        let length = events.len();
        let before = found.len();
        found.extend(events.into_iter().filter(|event| seen.is_new(event)));
        cursor = next;
        // A page with an event that was there before is the last that can hold many new ones.
        if found.len() - before < length || cursor.is_none() {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

async fn page(
    operator: &Operator,
    filters: &[(&str, String)],
    cursor: Option<String>,
) -> anyhow::Result<(Vec<Value>, Option<String>)> {
    let mut query = filters.to_vec();
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    let mut page: Value = operator.get("/api/query/events", &query).await?;
    let next = page["next_cursor"].as_str().map(str::to_owned);
    let Value::Array(events) = page["events"].take() else { return Ok((Vec::new(), next)) };
    Ok((events, next))
}

fn print(event: &Value, output: Output) -> std::io::Result<()> {
    if output.json {
        return output.value(event);
    }
    output.line(format_args!(
        "{}  {}  {}  {}  {}",
        cell(&event["timestamp"]),
        cell(&event["event"]),
        cell(&event["distinct_id"]),
        cell(&event["event_id"]),
        event["properties"]
    ))
}

/// The ids of the newest events printed, bounded.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// True the first time.
    fn is_new(&mut self, event: &Value) -> bool {
        let id = cell(&event["event_id"]);
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && text != "." && text != "..")
        {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_with_any_characters_is_one_segment() {
        assert_eq!(segment("a-b_c.1"), "a-b_c.1");
        assert_eq!(segment("a/b?c#d %é"), "a%2Fb%3Fc%23d%20%25%C3%A9");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn an_event_is_new_once_and_the_memory_is_bounded() {
        let mut seen = Seen::default();
        assert!(seen.is_new(&json!({"event_id": "a"})));
        assert!(!seen.is_new(&json!({"event_id": "a"})));
        for i in 0..SEEN_MAX {
            assert!(seen.is_new(&json!({"event_id": i.to_string()})));
        }
        assert_eq!(seen.ids.len(), SEEN_MAX);
        assert!(seen.is_new(&json!({"event_id": "a"})));
    }
}
