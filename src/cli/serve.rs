//! `serve` and its short forms: start, say so, run until told to stop, drain.

use std::io::Write as _;

use super::Ended;
use super::args::{Command, Serve};
use crate::app::{App, Options, Role, Running};
use crate::config::Config;
use crate::lifecycle::wait_for_signal;

/// The roles that a serving command runs; `None`: it serves nothing.
pub(super) fn roles(command: &Command) -> Option<Vec<Role>> {
    match command {
        Command::Serve(Serve { role, .. }) if role.is_empty() => Some(Role::ALL.to_vec()),
        Command::Serve(Serve { role, .. }) => {
            let mut roles: Vec<Role> = role.iter().filter_map(|name| Role::from_name(name)).collect();
            roles.sort_unstable();
            roles.dedup();
            Some(roles)
        }
        Command::Capture(_) => Some(vec![Role::Capture]),
        Command::Consumer(consumer) if consumer.command.is_none() => Some(vec![Role::Consumer]),
        Command::Query(_) => Some(vec![Role::Query]),
        Command::Auth(_) => Some(vec![Role::Auth]),
        _ => None,
    }
}

/// Runs until a signal or a task that the process cannot do without ends; a second signal ends it at once.
///
/// # Errors
/// It cannot start, a task failed, or the drain took too long.
pub(super) async fn run(config: Config, roles: &[Role]) -> anyhow::Result<Ended> {
    let data_dir = config.data_dir.clone();
    let has_page = config.server.web && (roles.contains(&Role::Query) || roles.contains(&Role::Auth));
    // Boxed: a start carries every pool it opens, and every command would carry the start.
    let running = Box::pin(App::start(config, roles, Options::default())).await?;
    tracing::info!(url = running.url(), roles = ?running.roles(), "listening");
    let first = running.is_first_start();
    let ready = async {
        running.ready().await;
        say(&format!("ready on {}", running.url()));
        if first {
            let link = if has_page { running.login_link().await } else { None };
            say(&what_to_try(&running, &data_dir.display().to_string(), link.as_deref()));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ready => {}
        signal = wait_for_signal() => tracing::info!(signal = signal?, "draining"),
        () = running.failed() => tracing::error!("a task ended on its own: draining"),
    }
    tokio::select! {
        stopped = running.stop() => stopped.map(|()| Ended::Done),
        signal = wait_for_signal() => {
            tracing::warn!(signal = signal?, "second signal: ending at once");
            Ok(Ended::Interrupted)
        }
    }
}

fn say(text: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The lines that make the first event and the first question, ready to paste.
fn what_to_try(running: &Running, data_dir: &str, link: Option<&str>) -> String {
    let Some(first) = running.first_run() else { return String::new() };
    let (url, key) = (running.url(), &first.api_key);
    let (email, password) = (first.email.unwrap_or_default(), first.password.unwrap_or_default());
    let page =
        link.map(|link| format!("\nlook at it (this link logs in once):\n  {link}\n")).unwrap_or_default();
    format!(
        "
first start: project default with environments production and development, an API key for production, and an
administrator: {email} with password {password}
(kept in {data_dir}/first-run.json)
{page}
send an event:
  curl -sS {url}/capture -H 'X-API-Key: {key}' -H 'Content-Type: application/json' \\
    -d '{{\"event\":\"ad clicked\",\"distinct_id\":\"ada\",\"properties\":{{\"ad_id\":\"food_42\",\"item_id\":42}}}}'

ask for it:
  curl -sS '{url}/api/query/events?limit=1' -H 'X-API-Key: {key}'

see traffic:
  flexflow generate --data-dir {data_dir}
  flexflow tail --data-dir {data_dir}
"
    )
}
