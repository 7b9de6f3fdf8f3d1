//! The command line: how people and scripts start FlexFlow and ask it things.
//!
//! Data goes to stdout (a table for people, `--json` for programs), talk and logs to stderr; only `serve` logs to
//! stdout. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a check found a problem, 130 interrupted.
//! Every command that needs the log, the store or the database goes through [`operator`], over HTTP.

mod accounts;
mod args;
mod dlq;
mod engine;
mod events;
mod generate;
mod operator;
mod output;
mod properties;
mod reprocess;
mod rollups;
mod schemas;
mod scopes;
mod serve;
mod settings;
mod status;
mod test_accounts;
#[cfg(test)]
mod tests;
mod top;
mod transform;
mod webhooks;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use serde_json::json;

use self::args::{Cli, Command, Consumer, ConsumerCommand, Global, Listen, Remote, Scope};
use self::operator::Operator;
use self::output::Output;
use crate::app::Role;
use crate::config::{self, Config, ConfigError, Loaded, Origin, Sources};
use crate::lifecycle::wait_for_signal;
use crate::telemetry::logs::{self, Target};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// A check found a problem and said which.
    Problem,
    Interrupted,
}

/// Wrong usage that the parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl Usage {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Runs the command line of this process to its end. Expects that a rustls provider is installed.
pub fn main() -> ExitCode {
    run(std::env::args_os(), Sources::from_process_environment())
}

fn run(words: impl IntoIterator<Item = OsString>, sources: Sources) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to stdout; nobody listening is no reason to fail.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let output = Output::new(cli.global.json);
    match execute(cli, sources, output) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Problem) => ExitCode::from(3),
        Ok(Ended::Interrupted) => ExitCode::from(130),
        // Whoever read our output has seen enough.
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.talk(format_args!("error: {error:#}"));
            let usage = error.is::<ConfigError>() || error.is::<Usage>();
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(is_broken)
            || cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)
                == Some(std::io::ErrorKind::BrokenPipe)
    })
}

fn execute(cli: Cli, sources: Sources, output: Output) -> anyhow::Result<Ended> {
    // These need no configuration and work whatever it holds.
    match &cli.command {
        Command::Version => {
            let version = json!({ "name": "flexflow", "version": env!("CARGO_PKG_VERSION") });
            match output.json {
                true => output.value(&version)?,
                false => output.line(format_args!("flexflow {}", env!("CARGO_PKG_VERSION")))?,
            }
            return Ok(Ended::Done);
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "flexflow", &mut script);
            std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
            return Ok(Ended::Done);
        }
        Command::Config(args::ConfigCommand::Reference) => {
            output.line(config::REFERENCE.trim_end())?;
            return Ok(Ended::Done);
        }
        _ => {}
    }
    let roles = serve::roles(&cli.command);
    let mut loaded = load(&cli.global, listen(&cli.command), roles.as_deref(), sources)?;
    match &cli.command {
        Command::Config(command) => return Ok(settings::run(command, &loaded, output)?),
        Command::Engine(command) => return engine::run(command, &loaded.config, output),
        Command::Transform(command) if transform::remote(command).is_none() => {
            return transform::local(command, &loaded.config, output);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(roles) = roles {
            logs::install(&loaded.config.log, Target::Stdout)?;
            warn(&loaded);
            return Box::pin(serve::run(loaded.config, &roles)).await;
        }
        quiet(&mut loaded);
        logs::install(&loaded.config.log, Target::Stderr)?;
        warn(&loaded);
        Box::pin(command(cli.command, loaded.config, output)).await
    })
}

/// All layers of the configuration, with the flags that are short for a key.
fn load(
    global: &Global,
    listen: Option<&Listen>,
    roles: Option<&[Role]>,
    mut sources: Sources,
) -> anyhow::Result<Loaded> {
    for file in &global.config {
        sources.file(file);
    }
    for pair in &global.set {
        sources.set_pair(pair)?;
    }
    let listen = listen.and_then(|listen| listen.listen.as_ref());
    for (flag, key, value) in [
        ("--data-dir", "data_dir", global.data_dir.as_ref()),
        ("--log-level", "log.level", global.log_level.as_ref()),
        ("--listen", "server.listen", listen),
    ] {
        if let Some(value) = value {
            sources.set(flag, key, value);
        }
    }
    // A lone consumer listens on its own port; a wrong address is told by server.listen.
    if roles == Some(&[Role::Consumer])
        && let Some((_, port)) = listen.and_then(|address| address.rsplit_once(':'))
    {
        sources.set("--listen", "consumer.metrics_port", port);
    }
    Ok(config::load(&sources)?)
}

/// The address that a serving command was given.
fn listen(command: &Command) -> Option<&Listen> {
    match command {
        Command::Serve(serve) => Some(&serve.listen),
        Command::Capture(listen) | Command::Query(listen) | Command::Auth(listen) => Some(listen),
        Command::Consumer(consumer) => Some(&consumer.listen),
        _ => None,
    }
}

/// Commands other than `serve` keep quiet unless asked: what they have to say is their output.
fn quiet(loaded: &mut Loaded) {
    let is_default =
        |setting: &config::Setting| setting.key == "log.level" && setting.origin == Origin::Default;
    if loaded.settings.iter().any(is_default) {
        "warn".clone_into(&mut loaded.config.log.level);
    }
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

/// Ends with the first signal.
async fn interruptible(command: impl Future<Output = anyhow::Result<Ended>>) -> anyhow::Result<Ended> {
    tokio::select! {
        ended = command => ended,
        Ok(_) = wait_for_signal() => Ok(Ended::Interrupted),
    }
}

/// Runs a command that talks to a server.
async fn command(command: Command, config: Config, output: Output) -> anyhow::Result<Ended> {
    match command {
        Command::Generate(args) => generate::run(&args, &config, output).await,
        command => Box::pin(operate(command, config, output)).await,
    }
}

/// Connects, asks, and lets go of the server, whatever came of the question.
async fn operate(command: Command, config: Config, output: Output) -> anyhow::Result<Ended> {
    let nowhere = Remote::default();
    let (scope, remote) = match &command {
        Command::Dlq(command) => (&Scope::default(), dlq::remote(command)),
        Command::Webhooks(command) => (command.scope(), &nowhere),
        Command::Reprocess(command) => reprocess::remote(command),
        Command::Transform(command) => match transform::remote(command) {
            Some(asked) => asked,
            None => (&Scope::default(), &nowhere),
        },
        Command::Trace(args) => (&args.scope, &args.remote),
        Command::Tail(args) => (&args.scope, &args.remote),
        Command::Lag(args) => (&Scope::default(), &args.remote),
        Command::Top(args) => (&Scope::default(), &args.remote),
        Command::Audit(args) => (&Scope::default(), &args.remote),
        Command::Rollups(command) => command.place(),
        Command::Schemas(command) => command.place(),
        Command::TestAccounts(command) => command.place(),
        _ => (&Scope::default(), &nowhere),
    };
    let connecting = operator::connect(&config, remote);
    let (operator, own) = tokio::select! {
        connected = connecting => connected?,
        Ok(_) = wait_for_signal() => return Ok(Ended::Interrupted),
    };
    let ended = interruptible(async {
        let operator = operator.scoped(scope).await?;
        ask(&command, &config, &operator, output).await
    });
    let ended = ended.await;
    if let Some(own) = own {
        own.stop().await?;
    }
    ended
}

async fn ask(
    command: &Command,
    config: &Config,
    operator: &Operator,
    output: Output,
) -> anyhow::Result<Ended> {
    match command {
        Command::Doctor => return status::doctor(operator, output).await,
        Command::Migrate => return status::migrate(operator, output).await,
        Command::Topics(command) => return status::topics(command, operator, output).await,
        Command::Lag(args) => return status::lag(args, operator, output).await,
        Command::Top(args) => return top::run(args, operator, output).await,
        Command::Audit(args) if args.metadata => return status::metadata(args, operator, output).await,
        Command::Audit(_) => return status::audit(operator, output).await,
        Command::Dlq(command) => return dlq::run(command, operator, output).await,
        Command::Webhooks(command) => return webhooks::run(command, operator, output).await,
        Command::Rollups(command) => return rollups::run(command, operator, output).await,
        Command::Schemas(command) => return schemas::run(command, operator, output).await,
        Command::TestAccounts(command) => return test_accounts::run(command, operator, output).await,
        Command::Properties(command) => return properties::run(command, operator, output).await,
        Command::Transform(command) => return transform::run(command, operator, output).await,
        Command::Reprocess(command) => return reprocess::run(command, operator, output).await,
        Command::Trace(args) => return events::trace(args, operator, output).await,
        Command::Tail(args) => return events::tail(args, operator, output).await,
        Command::Projects(command) => scopes::projects(command, operator, output).await?,
        Command::Environments(command) => scopes::environments(command, operator, output).await?,
        Command::Keys(command) => scopes::keys(command, operator, output).await?,
        Command::Users(command) => accounts::users(command, operator, output).await?,
        Command::Members(command) => accounts::members(command, operator, output).await?,
        Command::SigningKeys(command) => accounts::signing_keys(command, operator, output).await?,
        Command::AuditLog(args) => accounts::audit_log(args, operator, output).await?,
        Command::Consumer(Consumer {
            command: Some(ConsumerCommand::Resume { topic, partition }), ..
        }) => {
            let topic = topic.as_deref().unwrap_or(&config.topics.events);
            return status::resume(topic, *partition, operator, output).await;
        }
        other => unreachable!("{other:?} asks no server"),
    }
    Ok(Ended::Done)
}
