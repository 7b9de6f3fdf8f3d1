//! Any answer as CSV (RFC 4180, UTF-8, lines end with CR LF).
//!
//! The answer's rows are its `results` (`events` or `persons` of a list). A row that is an object gives a column for each
//! of its scalars; lists of one length in it (`labels`, `days`, `data`, …) are turned so that each place is a line of its
//! own; tables and edges (of retention, stickiness, funnels, paths) become such rows first. Nested values are JSON. A text that a spreadsheet would take for a formula gets an apostrophe before it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The answer as CSV; one without rows is a head line alone.
pub(super) fn csv(answer: &Value) -> String {
    let mut out = String::new();
    if let Some(columns) = answer.get("columns").and_then(Value::as_array) {
        let names = columns.iter().filter_map(|column| column.get("name"));
        line(&mut out, names.map(cell));
        for row in rows(answer).iter() {
            line(&mut out, row.as_array().into_iter().flatten().map(cell));
        }
        return out;
    }
    let records: Vec<Map<String, Value>> = rows(answer).iter().flat_map(unfold).collect();
    let names: BTreeSet<&String> = records.iter().flat_map(Map::keys).collect();
    line(&mut out, names.iter().map(|name| quoted(name)));
    for record in &records {
        line(&mut out, names.iter().map(|name| record.get(*name).map(cell).unwrap_or_default()));
    }
    out
}

fn rows(answer: &Value) -> Cow<'_, [Value]> {
    if let Some(results) = answer.get("results").and_then(Value::as_object) {
        return Cow::Owned(records(results));
    }
    let found =
        ["results", "events", "persons", "people"].iter().find_map(|name| answer.get(name)?.as_array());
    Cow::Borrowed(found.map(Vec::as_slice).unwrap_or_default())
}

/// The rows of results that are one object.
fn records(results: &Map<String, Value>) -> Vec<Value> {
    let list = |name: &str| results.get(name).and_then(Value::as_array);
    if let Some(links) = list("links") {
        return links.clone();
    }
    if let Some(series) = list("series") {
        return series.iter().map(|line| numbered(line, "data", "intervals", 1)).collect();
    }
    let days = list("days").map(Vec::as_slice).unwrap_or_default();
    if let Some(tables) = list("breakdowns") {
        return tables.iter().flat_map(|table| table_rows(days, table)).collect();
    }
    match list("rows") {
        Some(rows) if rows.iter().all(Value::is_array) => {
            table_rows(days, &Value::Object(results.clone())).collect()
        }
        Some(rows) => rows.iter().filter_map(Value::as_object).map(|row| funnel_row(results, row)).collect(),
        None => vec![funnel_row(results, results)],
    }
}

/// The rows of a table of retention: people by the interval they began in and how many intervals later.
fn table_rows<'a>(days: &'a [Value], table: &'a Value) -> impl Iterator<Item = Value> + 'a {
    let rows = table.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    days.iter().zip(rows).map(|(day, people)| {
        let mut row =
            Map::from_iter([("day".to_owned(), day.clone()), ("people".to_owned(), people.clone())]);
        // A list of texts is no list of cells.
        let text = |value: &Value| if value.is_array() { value.to_string().into() } else { value.clone() };
        row.extend(table.get("breakdown").map(|value| ("breakdown".to_owned(), text(value))));
        numbered(&Value::Object(row), "people", "interval", 0)
    })
}

/// With a list beside the list `of` that counts its places.
fn numbered(row: &Value, of: &str, name: &str, first: usize) -> Value {
    let mut row = row.clone();
    let count = row.get(of).and_then(Value::as_array).map_or(0, Vec::len);
    row[name] = (first..first + count).map(Value::from).collect();
    row
}

/// The numbers of one value of a funnel, or of all, beside the steps or the days that they are of.
fn funnel_row(results: &Map<String, Value>, row: &Map<String, Value>) -> Value {
    let mut row = row.clone();
    for shared in ["steps", "labels", "days"] {
        row.remove(shared);
    }
    if let Some(Value::Array(bins)) = row.remove("bins") {
        let column = |at: usize| bins.iter().map(|bin| bin.get(at).cloned().unwrap_or_default()).collect();
        row.insert("seconds".to_owned(), column(0));
        row.insert("people".to_owned(), column(1));
    } else {
        let shared: &[&str] = if results.contains_key("days") { &["days", "labels"] } else { &["steps"] };
        row.extend(shared.iter().filter_map(|name| Some(((*name).to_owned(), results.get(*name)?.clone()))));
    }
    if let Some(Value::Array(texts)) = row.get("breakdown") {
        let text = if let [one] = texts.as_slice() {
            one.clone()
        } else {
            Value::from(Value::from(texts.clone()).to_string())
        };
        row.insert("breakdown".to_owned(), text);
    }
    Value::Object(row)
}

/// The lines of one row.
fn unfold(row: &Value) -> Vec<Map<String, Value>> {
    let Some(fields) = row.as_object() else {
        return vec![Map::from_iter([("value".to_owned(), row.clone())])];
    };
    let lists: Vec<(&String, &Vec<Value>)> =
        fields.iter().filter_map(|(name, value)| Some((name, value.as_array()?))).collect();
    let length = lists.first().map_or(0, |(_, list)| list.len());
    let turn = length > 0 && lists.iter().all(|(_, list)| list.len() == length);
    if !turn {
        return vec![fields.clone()];
    }
    let line = |place: usize| {
        let of = |value: &Value| match value.as_array() {
            Some(list) => list.get(place).cloned().unwrap_or(Value::Null),
            None => value.clone(),
        };
        fields.iter().map(|(name, value)| (name.clone(), of(value))).collect()
    };
    (0..length).map(line).collect()
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    for (place, cell) in cells.enumerate() {
        if place > 0 {
            out.push(',');
        }
        out.push_str(&cell);
    }
    out.push_str("\r\n");
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => quoted(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        nested => quoted(&nested.to_string()),
    }
}

fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_of_a_trend_becomes_a_line_for_each_bucket() {
        let answer = json!({"results": [
            {"label": "a", "count": 3, "days": ["2026-01-01", "2026-01-02"], "data": [1, 2]},
            {"label": "b, c", "count": 0, "days": ["2026-01-01", "2026-01-02"], "data": [0, 0]},
        ]});
        let expected = "count,data,days,label\r\n3,1,2026-01-01,a\r\n3,2,2026-01-02,a\r\n0,0,2026-01-01,\"b, c\"\r\n\
                        0,0,2026-01-02,\"b, c\"\r\n";
        assert_eq!(csv(&answer), expected);
    }

    #[test]
    fn rows_of_sql_keep_their_columns_and_formulas_are_texts() {
        let answer = json!({
            "columns": [{"name": "n"}, {"name": "t"}],
            "results": [[-1, "=1+1"], [null, "a \"b\""], [true, {"x": 1}]],
        });
        assert_eq!(csv(&answer), "n,t\r\n-1,'=1+1\r\n,\"a \"\"b\"\"\"\r\ntrue,\"{\"\"x\"\":1}\"\r\n");
    }

    #[test]
    fn answers_of_every_kind_have_their_numbers_in_lines() {
        let lines = |results: Value| csv(&json!({ "results": results }));
        let steps = json!({"steps": ["a", "b"], "counts": [2, 1], "conversion_rates": [100, 50]});
        assert_eq!(lines(steps), "conversion_rates,counts,steps\r\n100,2,a\r\n50,1,b\r\n");
        let rows = json!({"steps": ["a", "b"], "rows": [{"breakdown": ["x"], "counts": [2, 1]},
                                                        {"breakdown": ["y"], "counts": [1, 0]}]});
        assert_eq!(lines(rows), "breakdown,counts,steps\r\nx,2,a\r\nx,1,b\r\ny,1,a\r\ny,0,b\r\n");
        let trends =
            json!({"steps": ["a", "b"], "labels": ["1"], "days": ["2026-01-01"], "reached_from_step": [3]});
        assert_eq!(lines(trends), "days,labels,reached_from_step\r\n2026-01-01,1,3\r\n");
        let times = json!({"steps": ["a", "b"], "bins": [[0, 2], [60, 1]], "average": 9});
        assert_eq!(lines(times), "average,people,seconds\r\n9,2,0\r\n9,1,60\r\n");
        let retention = json!({"days": ["d1", "d2"], "rows": [[2, 1], [3]]});
        assert_eq!(lines(retention), "day,interval,people\r\nd1,0,2\r\nd1,1,1\r\nd2,0,3\r\n");
        let tables = json!({"days": ["d1"], "breakdowns": [{"breakdown": "x", "rows": [[2]]}]});
        assert_eq!(lines(tables), "breakdown,day,interval,people\r\nx,d1,0,2\r\n");
        let tables = json!({"days": ["d1"], "breakdowns": [{"breakdown": ["x", "y"], "rows": [[2]]}]});
        let of_two = "breakdown,day,interval,people\r\n\"[\"\"x\"\",\"\"y\"\"]\",d1,0,2\r\n";
        assert_eq!(lines(tables), of_two);
        let lifecycle = json!({"new": [1, 0], "dormant": [0, -1], "days": ["d1", "d2"]});
        assert_eq!(lines(lifecycle), "days,dormant,new\r\nd1,0,1\r\nd2,-1,0\r\n");
        let stickiness = json!({"data": [5, 2], "series": [{"event": "a", "data": [5, 2]}]});
        assert_eq!(lines(stickiness), "data,event,intervals\r\n5,a,1\r\n2,a,2\r\n");
        let paths =
            json!({"edges": [["1_a", "2_b", 3]], "links": [{"source": "1_a", "target": "2_b", "value": 3}]});
        assert_eq!(lines(paths), "source,target,value\r\n1_a,2_b,3\r\n");
    }

    #[test]
    fn an_answer_without_rows_is_no_error() {
        assert_eq!(csv(&json!({"results": []})), "\r\n");
        assert_eq!(
            csv(&json!({"persons": [{"id": "x", "distinct_ids": ["a", "b"], "properties": {}}]})),
            "distinct_ids,id,properties\r\na,x,{}\r\nb,x,{}\r\n"
        );
    }
}
