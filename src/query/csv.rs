//! Any answer as CSV (RFC 4180, UTF-8, lines end with CR LF).
//!
//! The answer's rows are its `results` (`events` or `persons` of a list). A row that is an object gives a column for each
//! of its scalars; lists of one length in it (`labels`, `days`, `data`, …) are turned so that each place is a line of its
//! own. Nested values are JSON. A text that a spreadsheet would take for a formula gets an apostrophe before it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The answer as CSV; one without rows is a head line alone.
pub(super) fn csv(answer: &Value) -> String {
    let mut out = String::new();
    if let Some(columns) = answer.get("columns").and_then(Value::as_array) {
        let names = columns.iter().filter_map(|column| column.get("name"));
        line(&mut out, names.map(cell));
        for row in rows(answer) {
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

fn rows(answer: &Value) -> &[Value] {
    ["results", "events", "persons"]
        .iter()
        .find_map(|name| answer.get(name)?.as_array())
        .map(Vec::as_slice)
        .unwrap_or_default()
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
    fn an_answer_without_rows_is_no_error() {
        assert_eq!(csv(&json!({"results": []})), "\r\n");
        assert_eq!(
            csv(&json!({"persons": [{"id": "x", "distinct_ids": ["a", "b"], "properties": {}}]})),
            "distinct_ids,id,properties\r\na,x,{}\r\nb,x,{}\r\n"
        );
    }
}
