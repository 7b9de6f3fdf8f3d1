//! What may be typed is a contract, and so are the exit codes.

use clap::CommandFactory as _;

use super::*;

#[test]
fn verify_cli() {
    Cli::command().debug_assert();
}

/// Every command's help, at the width it has when it is not a terminal's.
#[test]
fn the_help_of_every_command_is_a_contract() {
    fn collect(command: &mut clap::Command, path: &str, all: &mut Vec<String>) {
        all.push(format!("$ {path} --help\n{}", command.render_long_help()));
        for inner in command.get_subcommands_mut() {
            let path = format!("{path} {}", inner.get_name());
            collect(inner, &path, all);
        }
    }
    let mut command = Cli::command().term_width(110);
    command.build();
    let mut all = Vec::new();
    collect(&mut command, "flexflow", &mut all);
    insta::assert_snapshot!(all.join("\n----\n"));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert!(broken_pipe(&anyhow::Error::from(closed).context("while printing")));
    assert!(!broken_pipe(&anyhow::anyhow!("no")));
}
