//! What commands write: data to stdout, as a table for people or JSON for programs; talk to stderr.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

/// Where and in which form a command writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub json: bool,
    /// Is stdout a terminal?
    pub terminal: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// One line of data.
    pub(super) fn line(&self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// One JSON value, on one line.
    pub(super) fn value(&self, value: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        out.write_all(b"\n")
    }

    /// `value` as JSON if asked for, else these rows: with lines on a terminal, in bare columns elsewhere.
    pub(super) fn rows(
        &self,
        value: &impl Serialize,
        header: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> io::Result<()> {
        if self.json {
            return self.value(value);
        }
        self.line(self.table(header, rows))
    }

    pub(super) fn table(&self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let mut table = Table::new();
        if self.terminal {
            table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.load_style(NOTHING);
        }
        table.set_header(header.to_vec());
        table.add_rows(rows);
        table.trim_fmt()
    }

    /// A line for people.
    pub(super) fn talk(&self, text: impl std::fmt::Display) {
        // Nobody listening is no reason to fail.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A bar on stderr if that is a terminal; it shows nothing elsewhere.
    pub(super) fn progress(&self, length: u64, what: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.with_message(what.to_owned())
    }
}

impl Output {
    /// A list of objects: as it is for programs, these columns of it for people.
    pub(super) fn list(&self, items: &Value, columns: &[&str]) -> io::Result<()> {
        let items_of = items.as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = items_of.iter().map(|item| columns.iter().map(|column| cell(&item[*column])).collect());
        self.rows(items, columns, rows)
    }

    /// An object: as it is for programs, a line a field for people, nested names joined by dots.
    pub(super) fn object(&self, value: &Value) -> io::Result<()> {
        let mut rows = Vec::new();
        fields("", value, &mut rows);
        self.rows(value, &["field", "value"], rows)
    }
}

/// A value in a cell: texts bare, nothing for null.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn fields(prefix: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                fields(&name, value, rows);
            }
        }
        Value::Null => {}
        leaf => rows.push(vec![prefix.to_owned(), cell(leaf)]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_told_field_by_field_and_what_is_not_there_is_left_out() {
        let mut rows = Vec::new();
        fields("", &json!({"a": {"b": 1, "c": null}, "d": ["x", "y"], "e": {}}), &mut rows);
        assert_eq!(rows, [["a.b", "1"], ["d", "x, y"], ["e", "{}"]]);
    }

    #[test]
    fn elsewhere_than_on_a_terminal_a_table_is_bare_columns() {
        let output = Output { json: false, terminal: false };
        let table = output.table(&["name", "n"], [vec!["long name".to_owned(), "1".to_owned()]]);
        assert_eq!(table.lines().map(str::trim_end).collect::<Vec<_>>(), [" name       n", " long name  1"]);
    }
}
