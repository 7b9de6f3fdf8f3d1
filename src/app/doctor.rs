//! Is everything as it should be? Every dependency, topic, table and setting, each with its cure.

use serde::Serialize;

use super::pools::Pools;
use super::topics;
use crate::config::Config;
use crate::event::ProjectId;
use crate::meta::Meta;
use crate::store::Store;

/// Environments of stored events that are looked at.
const SCOPES_MAX: u64 = 1000;

/// One thing looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub name: String,
    pub ok: bool,
    pub message: String,
    /// What to do; empty when nothing is wrong.
    pub cure: String,
}

impl Finding {
    fn new(name: &str, outcome: Result<String, String>, cure: &str) -> Self {
        let ok = outcome.is_ok();
        let message = outcome.unwrap_or_else(|message| message);
        Self { name: name.to_owned(), ok, message, cure: if ok { String::new() } else { cure.to_owned() } }
    }
}

/// Looks at everything.
pub(super) async fn run(config: &Config, pools: &Pools) -> Vec<Finding> {
    let mut findings = vec![
        data_dir(config),
        Finding::new(
            "meta",
            pools.meta.probe().await.map(|()| meta_message(&pools.meta)).map_err(|e| e.to_string()),
            "see meta.url; `flexflow migrate` creates missing tables",
        ),
        Finding::new(
            "eventlog",
            pools
                .log
                .probe()
                .await
                .map(|()| format!("the {} log takes writes", pools.log.kind()))
                .map_err(|e| e.to_string()),
            "embedded: free disk space; Kafka: the message names the setting or the command; see eventlog.* in \
             `flexflow config reference`",
        ),
        topics_finding(config, pools).await,
    ];
    findings.push(configured(&pools.meta).await);
    if let Some(store) = &pools.store {
        findings.push(environments(pools, store).await);
        match store.check().await {
            Ok(checked) => findings.extend(checked.into_iter().map(|finding| Finding {
                name: finding.name,
                ok: finding.ok,
                message: finding.message,
                cure: if finding.ok { String::new() } else { finding.cure },
            })),
            Err(error) => findings.push(Finding::new(
                "store",
                Err(error.to_string()),
                "see store.url, or the engine's log below data_dir; `flexflow engine install` fetches the engine",
            )),
        }
    }
    findings
}

/// Environments that stored events name and that no project has: events nobody can ask for.
async fn environments(pools: &Pools, store: &Store) -> Finding {
    let looked = async {
        let stored = store.scopes(SCOPES_MAX).await.map_err(|error| error.to_string())?;
        let known = pools.meta.environments().known(&stored).await.map_err(|error| error.to_string())?;
        let stray: Vec<String> = stored
            .iter()
            .filter(|scope| !known.contains(*scope))
            .map(|(project, environment)| format!("{environment} (project {project})"))
            .collect();
        if stray.is_empty() {
            return Ok(format!("the environments of all stored events exist ({} of them)", stored.len()));
        }
        Err(format!("stored events name environments that no project has: {}", stray.join(", ")))
    };
    let cure = "whoever sent them used another installation's keys or this database is not theirs: restore the metadata database, or list them in auth.static_keys";
    Finding::new("environments", looked.await, cure)
}

/// Projects that the configuration names and that are deleted: their keys go on, and nobody else sees them.
async fn configured(meta: &Meta) -> Finding {
    let outcome = match meta.deleted_configured().await {
        Err(error) => Err(error.to_string()),
        Ok(deleted) if deleted.is_empty() => {
            Ok("no project that the configuration names is deleted".to_owned())
        }
        Ok(deleted) => {
            let ids: Vec<&str> = deleted.iter().map(ProjectId::as_str).collect();
            Err(format!("the configuration names projects that are deleted: {}", ids.join(", ")))
        }
    };
    let cure = "take them out of auth.static_keys and consumer.sources, or give those another project_id";
    Finding::new("configured_projects", outcome, cure)
}

fn meta_message(meta: &Meta) -> String {
    let clear = "; what signs webhooks and access tokens stands in it in clear: set meta.secret_key";
    format!("the metadata database answers{}", if meta.seals_secrets() { "" } else { clear })
}

fn data_dir(config: &Config) -> Finding {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&config.data_dir).map(|data| data.permissions().mode() & 0o777);
    let outcome = match mode {
        Ok(0o700) => Ok(format!("{} is its owner's alone", config.data_dir.display())),
        Ok(mode) => Err(format!("{} has mode {mode:o}, others may read it", config.data_dir.display())),
        Err(error) => Err(error.to_string()),
    };
    Finding::new("data_dir", outcome, &format!("chmod 700 {}", config.data_dir.display()))
}

async fn topics_finding(config: &Config, pools: &Pools) -> Finding {
    let outcome = match topics::looked_at(&*pools.log, config).await {
        Err(error) => Err(error.to_string()),
        Ok((_, comparison)) => {
            if comparison.missing.is_empty() {
                let mut message = "all topics are there".to_owned();
                comparison.remarks.iter().for_each(|remark| message.extend(["; ", remark]));
                Ok(message)
            } else {
                Err(format!("missing: {}", comparison.missing.join(", ")))
            }
        }
    };
    Finding::new("topics", outcome, "`flexflow topics create`")
}
