//! `config {print,check,reference}`.

use std::io;

use serde_json::json;

use super::Ended;
use super::args::ConfigCommand;
use super::output::Output;
use crate::config::{Loaded, REFERENCE};

pub(super) fn run(command: &ConfigCommand, loaded: &Loaded, output: Output) -> io::Result<Ended> {
    match command {
        ConfigCommand::Print => print(loaded, output)?,
        ConfigCommand::Check => {
            for warning in &loaded.warnings {
                output.talk(format_args!("warning: {warning}"));
            }
            if output.json {
                output.value(&json!({ "ok": true, "warnings": loaded.warnings }))?;
            } else {
                output.line("the configuration is valid")?;
            }
        }
        ConfigCommand::Reference => output.line(REFERENCE.trim_end())?,
    }
    Ok(Ended::Done)
}

fn print(loaded: &Loaded, output: Output) -> io::Result<()> {
    let values: Vec<_> = loaded
        .settings
        .iter()
        .map(|setting| {
            json!({ "key": setting.key, "value": setting.shown, "source": setting.origin.to_string() })
        })
        .collect();
    let rows = loaded
        .settings
        .iter()
        .map(|setting| vec![setting.key.clone(), setting.shown.to_string(), setting.origin.to_string()]);
    output.rows(&values, &["key", "value", "source"], rows)
}
