//! `users`, `members`, `signing-keys` and `audit-log`.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::args::people::{AuditLog, Members, SigningKeys, Users};
use super::events::segment;
use super::operator::Operator;
use super::output::Output;
use super::scopes::project_id;

const USER_COLUMNS: &[&str] =
    &["id", "email", "name", "is_admin", "last_login_at", "disabled_at", "created_at"];
const MEMBER_COLUMNS: &[&str] = &["user_id", "email", "name", "role", "created_at"];
const INVITATION_COLUMNS: &[&str] = &["id", "email", "role", "expires_at", "accepted_at", "revoked_at"];
const AUDIT_COLUMNS: &[&str] =
    &["created_at", "actor_kind", "actor_name", "action", "project_id", "subject_id", "details"];

pub(super) async fn users(command: &Users, operator: &Operator, output: Output) -> anyhow::Result<()> {
    match command {
        Users::Create { email, name, admin, project, role, password_file } => {
            let mut asked = json!({ "email": email, "is_admin": admin });
            if let Some(name) = name {
                asked["name"] = json!(name);
            }
            if let (Some(project), Some(role)) = (project, role) {
                asked["project_id"] = json!(project_id(operator, project).await?);
                asked["role"] = json!(role);
            }
            with_password(&mut asked, password_file.as_deref())?;
            let made: Value = operator.post("/api/users", &asked).await?;
            show_with_password(&made, output)?;
        }
        Users::List => {
            let all: Value = operator.get("/api/users", &[]).await?;
            output.list(&all["users"], USER_COLUMNS)?;
        }
        Users::ResetPassword { user, password_file } => {
            let mut asked = json!({});
            with_password(&mut asked, password_file.as_deref())?;
            let path = format!("/api/users/{}/reset-password", segment(&user_id(operator, user).await?));
            let reset: Value = operator.post(&path, &asked).await?;
            show_with_password(&reset, output)?;
        }
        Users::Disable { user } => {
            let path = format!("/api/users/{}/disable", segment(&user_id(operator, user).await?));
            output.object(&operator.post::<Value>(&path, &json!({})).await?)?;
        }
        Users::Enable { user } => {
            let path = format!("/api/users/{}/enable", segment(&user_id(operator, user).await?));
            output.object(&operator.post::<Value>(&path, &json!({})).await?)?;
        }
    }
    Ok(())
}

fn with_password(asked: &mut Value, file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(file) = file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        asked["password"] = json!(text.trim_end_matches(['\r', '\n']));
    }
    Ok(())
}

fn show_with_password(user: &Value, output: Output) -> anyhow::Result<()> {
    output.object(user)?;
    if user["password"].is_string() {
        output.talk("the password is shown this once: keep it now");
    }
    Ok(())
}

async fn user_id(operator: &Operator, given: &str) -> anyhow::Result<String> {
    let all: Value = operator.get("/api/users", &[]).await?;
    let all = all["users"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|user| user["id"] == given || user["email"] == given.to_lowercase());
    match found.and_then(|user| user["id"].as_str()) {
        Some(id) => Ok(id.to_owned()),
        None => bail!("there is no account {given:?}; `flexflow users list` shows those there are"),
    }
}

pub(super) async fn members(command: &Members, operator: &Operator, output: Output) -> anyhow::Result<()> {
    let project = match command {
        Members::List { project }
        | Members::Add { project, .. }
        | Members::Change { project, .. }
        | Members::Remove { project, .. }
        | Members::Invite { project, .. }
        | Members::Invitations { project }
        | Members::Uninvite { project, .. } => project_id(operator, project).await?,
    };
    let project = segment(&project);
    let members = format!("/api/projects/{project}/members");
    let invitations = format!("/api/projects/{project}/invitations");
    let answer: Value = match command {
        Members::List { .. } => {
            let all: Value = operator.get(&members, &[]).await?;
            return Ok(output.list(&all["members"], MEMBER_COLUMNS)?);
        }
        Members::Invitations { .. } => {
            let all: Value = operator.get(&invitations, &[]).await?;
            return Ok(output.list(&all["invitations"], INVITATION_COLUMNS)?);
        }
        Members::Add { email, role, .. } => {
            operator.post(&members, &json!({ "email": email, "role": role })).await?
        }
        Members::Change { user, role, .. } => {
            let path = format!("{members}/{}", segment(&user_id(operator, user).await?));
            operator.patch(&path, &json!({ "role": role })).await?
        }
        Members::Remove { user, .. } => {
            operator.delete(&format!("{members}/{}", segment(&user_id(operator, user).await?))).await?
        }
        Members::Invite { email, role, .. } => {
            let made = operator.post(&invitations, &json!({ "email": email, "role": role })).await?;
            output.talk("the invitation is shown this once: send it to the person, who registers with it");
            made
        }
        Members::Uninvite { invitation, .. } => {
            operator.delete(&format!("{invitations}/{}", segment(invitation))).await?
        }
    };
    Ok(output.object(&answer)?)
}

pub(super) async fn signing_keys(
    command: &SigningKeys,
    operator: &Operator,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        SigningKeys::List => {
            let all: Value = operator.get("/api/signing-keys", &[]).await?;
            output.list(&all["signing_keys"], &["kid", "created_at", "retired_at"])?;
        }
        SigningKeys::Rotate => {
            let rotated: Value = operator.post("/api/signing-keys/rotate", &json!({})).await?;
            output.object(&rotated)?;
        }
    }
    Ok(())
}

pub(super) async fn audit_log(args: &AuditLog, operator: &Operator, output: Output) -> anyhow::Result<()> {
    let path = match &args.project {
        Some(project) => {
            format!("/api/projects/{}/audit-log", segment(&project_id(operator, project).await?))
        }
        None => "/api/audit-log".to_owned(),
    };
    let page: Value = operator.get(&path, &[("limit", args.limit.to_string())]).await?;
    Ok(output.list(&page["entries"], AUDIT_COLUMNS)?)
}
