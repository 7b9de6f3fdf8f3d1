//! `engine {install,path}`: the embedded ClickHouse engine on this machine.

use serde_json::json;

use super::Ended;
use super::args::Engine;
use super::output::Output;
use crate::config::Config;
use crate::store::engine::{InstallStep, VERSION, install, locate};

/// Blocks: fetching and unpacking take some seconds to minutes.
pub(super) fn run(command: &Engine, config: &Config, output: Output) -> anyhow::Result<Ended> {
    let path = match command {
        Engine::Install => fetch(output)?,
        Engine::Path => match locate(&config.store.engine)? {
            Some(found) => found.path().to_owned(),
            None => anyhow::bail!("the engine is not installed: run `flexflow engine install`"),
        },
    };
    if output.json {
        output.value(&json!({ "path": path, "version": VERSION }))?;
    } else {
        output.line(path.display())?;
    }
    Ok(Ended::Done)
}

fn fetch(output: Output) -> anyhow::Result<std::path::PathBuf> {
    let bar = output.progress(0, "engine");
    let path = install(|step| match step {
        InstallStep::Fetching => {
            output.talk(format_args!("fetching the ClickHouse engine {VERSION} through npm (about 180 MB)"));
        }
        InstallStep::Verifying => output.talk("comparing its hash"),
        InstallStep::Unpacking { done, of } => {
            bar.set_length(of);
            bar.set_position(done);
        }
        InstallStep::Done => bar.finish_and_clear(),
    })?;
    Ok(path)
}
