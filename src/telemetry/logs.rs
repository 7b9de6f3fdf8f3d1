//! The subscriber: pretty on a terminal, JSON elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `serve`.
    Stdout,
    /// Every other command: stdout carries data.
    Stderr,
}

/// Installs the process's subscriber.
///
/// # Errors
/// `log.level` is not a level or a list of directives, or a subscriber is installed already.
pub fn install(log: &Log, target: Target) -> anyhow::Result<()> {
    match target {
        Target::Stdout => install_to(log, std::io::stdout, std::io::stdout().is_terminal()),
        Target::Stderr => install_to(log, std::io::stderr, std::io::stderr().is_terminal()),
    }
}

/// Libraries that speak of their own affairs at `info`, and one that calls every closed connection an error; a level that
/// names them is obeyed.
const QUIET: [(&str, &str); 4] =
    [("fjall", "warn"), ("lsm_tree", "warn"), ("actix_server", "warn"), ("klickhouse", "off")];

fn directives(level: &str) -> String {
    let mut directives = level.to_owned();
    for (library, quiet) in QUIET.iter().filter(|(library, _)| !level.contains(library)) {
        directives.extend([",", library, "=", quiet]);
    }
    directives
}

fn install_to<W>(log: &Log, writer: W, terminal: bool) -> anyhow::Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(directives(&log.level))
        .map_err(|error| anyhow::anyhow!("log.level: {error}; given {:?}, try \"info\"", log.level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let pretty = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let installed = if pretty {
        builder.with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("logs: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        assert_eq!(
            directives("debug,fjall=trace"),
            "debug,fjall=trace,lsm_tree=warn,actix_server=warn,klickhouse=off"
        );
    }
}
