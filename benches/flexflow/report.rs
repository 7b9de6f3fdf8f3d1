//! What was measured, as the table for `benches/RESULTS.md`.

use std::sync::Mutex;

struct Line {
    what: String,
    result: String,
    target: String,
    met: Option<bool>,
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

fn add(what: impl Into<String>, result: impl Into<String>, target: impl Into<String>, met: Option<bool>) {
    let line = Line { what: what.into(), result: result.into(), target: target.into(), met };
    println!("{}: {}{}", line.what, line.result, if met == Some(false) { "  <-- MISSED" } else { "" });
    LINES.lock().expect("nobody panicked").push(line);
}

/// A figure without a target of its own.
pub fn note(what: impl Into<String>, result: impl Into<String>) {
    add(what, result, "", None);
}

/// A figure with its target.
pub fn check(what: impl Into<String>, result: impl Into<String>, target: impl Into<String>, met: bool) {
    add(what, result, target, Some(met));
}

/// Prints the table.
pub fn print(heading: &str) {
    println!("\n## {heading}\n\n| what | result | target | |\n|---|---|---|---|");
    for line in LINES.lock().expect("nobody panicked").iter() {
        let met = line.met.map_or("", |met| if met { "✓" } else { "✗" });
        println!("| {} | {} | {} | {met} |", line.what, line.result, line.target);
    }
}
