//! `projects`, `environments` and `keys`: who may do what, and where.

use anyhow::bail;
use serde_json::{Value, json};

use super::args::{Environments, Keys, Projects};
use super::events::segment;
use super::operator::Operator;
use super::output::Output;

const KEY_COLUMNS: &[&str] = &[
    "id",
    "prefix",
    "name",
    "environment_id",
    "scopes",
    "created_at",
    "expires_at",
    "revoked_at",
    "last_used_at",
];

pub(super) async fn projects(command: &Projects, operator: &Operator, output: Output) -> anyhow::Result<()> {
    match command {
        Projects::Create { name } => {
            let made: Value = operator.post("/api/projects", &json!({ "name": name })).await?;
            output.object(&made)?;
        }
        Projects::Rename { project, name } => {
            let path = format!("/api/projects/{}", segment(&project_id(operator, project).await?));
            output.object(&operator.patch::<Value>(&path, &json!({ "name": name })).await?)?;
        }
        Projects::Zone { project, time_zone } => {
            let path = format!("/api/projects/{}", segment(&project_id(operator, project).await?));
            output.object(&operator.patch::<Value>(&path, &json!({ "time_zone": time_zone })).await?)?;
        }
        Projects::Delete { project_id } => {
            let path = format!("/api/projects/{}", segment(project_id));
            output.object(&operator.delete(&path).await?)?;
        }
        Projects::List => {
            let all: Value = operator.get("/api/projects", &[]).await?;
            output.list(&all["projects"], &["id", "name", "time_zone", "origin", "created_at"])?;
        }
    }
    Ok(())
}

pub(super) async fn environments(
    command: &Environments,
    operator: &Operator,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        Environments::Create { project, name } => {
            let path =
                format!("/api/projects/{}/environments", segment(&project_id(operator, project).await?));
            let made: Value = operator.post(&path, &json!({ "name": name })).await?;
            output.object(&made)?;
        }
        Environments::Rename { environment, name, project } => {
            let project = project_id(operator, project).await?;
            let environment = environment_id(operator, &project, environment).await?;
            let path = format!("/api/projects/{}/environments/{}", segment(&project), segment(&environment));
            output.object(&operator.patch::<Value>(&path, &json!({ "name": name })).await?)?;
        }
        Environments::List { project } => {
            let path =
                format!("/api/projects/{}/environments", segment(&project_id(operator, project).await?));
            let all: Value = operator.get(&path, &[]).await?;
            output.list(&all["environments"], &["id", "name", "origin", "created_at"])?;
        }
    }
    Ok(())
}

pub(super) async fn keys(command: &Keys, operator: &Operator, output: Output) -> anyhow::Result<()> {
    match command {
        Keys::Create { project, environment, scopes, name, expires_at, rate_max } => {
            let project = project_id(operator, project).await?;
            let environment_id = environment_id(operator, &project, environment).await?;
            let mut asked = json!({ "environment_id": environment_id, "scopes": scopes });
            if let Some(name) = name {
                asked["name"] = json!(name);
            }
            if let Some(at) = expires_at {
                asked["expires_at"] = json!(at);
            }
            if let Some(rate) = rate_max {
                asked["rate_max"] = json!(rate);
            }
            let made: Value =
                operator.post(&format!("/api/projects/{}/api-keys", segment(&project)), &asked).await?;
            output.object(&made)?;
            output.talk("the key is shown this once: keep it now");
        }
        Keys::List { project } => {
            let path = format!("/api/projects/{}/api-keys", segment(&project_id(operator, project).await?));
            let all: Value = operator.get(&path, &[]).await?;
            output.list(&all["api_keys"], KEY_COLUMNS)?;
        }
        Keys::Revoke { key_id, project } => {
            let project = project_id(operator, project).await?;
            let revoked = operator
                .delete(&format!("/api/projects/{}/api-keys/{}", segment(&project), segment(key_id)))
                .await?;
            output.object(&revoked)?;
        }
    }
    Ok(())
}

/// The id of the project with this id or name.
///
/// # Errors
/// There is none, or the name is that of several.
pub(super) async fn project_id(operator: &Operator, given: &str) -> anyhow::Result<String> {
    let all: Value = operator.get("/api/projects", &[]).await?;
    find("project", given, &all["projects"])
}

/// The id of the project's environment with this id or name.
///
/// # Errors
/// There is none.
pub(super) async fn environment_id(
    operator: &Operator,
    project: &str,
    given: &str,
) -> anyhow::Result<String> {
    let all: Value = operator.get(&format!("/api/projects/{}/environments", segment(project)), &[]).await?;
    find("environment", given, &all["environments"])
}

/// The same among those that the caller's key, or the default project, has.
///
/// # Errors
/// There is none.
pub(super) async fn own_environment_id(operator: &Operator, given: &str) -> anyhow::Result<String> {
    let all: Value = operator.get("/api/environments", &[]).await?;
    find("environment", given, &all["environments"])
}

fn find(what: &str, given: &str, all: &Value) -> anyhow::Result<String> {
    let all = all.as_array().map(Vec::as_slice).unwrap_or_default();
    let id = |one: &Value| one["id"].as_str().map(str::to_owned);
    if let Some(found) = all.iter().find(|one| one["id"] == given).and_then(id) {
        return Ok(found);
    }
    let named: Vec<String> = all.iter().filter(|one| one["name"] == given).filter_map(id).collect();
    let valid = || {
        let valid = all.iter().map(|one| {
            format!("{} ({})", super::output::cell(&one["id"]), super::output::cell(&one["name"]))
        });
        valid.collect::<Vec<_>>().join(", ")
    };
    match named.as_slice() {
        [found] => Ok(found.clone()),
        [] => bail!("there is no {what} {given:?}; there are {}", valid()),
        several => {
            bail!("{} {what}s are called {given:?}: give the id; there are {}", several.len(), valid())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_an_id_unless_several_have_it() {
        let all = json!([{"id": "p1", "name": "a"}, {"id": "p2", "name": "b"}, {"id": "p3", "name": "b"}]);
        assert_eq!(find("project", "a", &all).unwrap(), "p1");
        assert_eq!(find("project", "p3", &all).unwrap(), "p3");
        let several = find("project", "b", &all).unwrap_err().to_string();
        assert!(several.starts_with("2 projects are called \"b\": give the id"), "{several}");
        let none = find("project", "c", &all).unwrap_err().to_string();
        assert_eq!(none, "there is no project \"c\"; there are p1 (a), p2 (b), p3 (b)");
    }
}
