//! Dashboards: questions that people keep, each with a name and a place, and ask together.
//!
//! A dashboard belongs to an environment of a project; whoever may ask questions there sees it and may change it. Its
//! tiles stand in the order of their list; `layout` is kept as it is sent, for whoever draws them.

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::http::{self, KINDS};
use super::{Query, saved};
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem};
use crate::meta::{Document, DocumentKind, Meta};

/// Longest name and description, in characters.
const NAME_CHARS_MAX: usize = 200;
const DESCRIPTION_CHARS_MAX: usize = 4000;
/// Most bytes of a tile's question and of its layout, as JSON.
const TILE_BYTES_MAX: usize = 64 * 1024;

const DASHBOARDS: DocumentKind =
    DocumentKind { name: "dashboard", plural: "dashboards", setting: "query.dashboards_max", audited: None };

/// A dashboard as it is sent to be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDashboard {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub tiles: Vec<Tile>,
    pub environment_id: Option<String>,
}

/// What of a dashboard is to be changed; what is absent stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DashboardChange {
    pub name: Option<String>,
    pub description: Option<String>,
    /// All tiles, in their new order.
    pub tiles: Option<Vec<Tile>>,
    /// The revision that the change was made from: refused if there is a newer one.
    pub revision: Option<i64>,
    pub environment_id: Option<String>,
}

/// A saved question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// `trends`, `funnel`, …: the last part of the question's path.
    pub kind: String,
    /// The question as it would be sent there.
    pub question: Value,
    /// Where it stands; kept as it is.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub layout: Value,
}

/// A dashboard as it is answered.
#[derive(Clone, Debug, Serialize)]
pub struct Dashboard {
    pub id: String,
    pub name: String,
    pub description: String,
    pub tiles: Vec<Tile>,
    /// Counts up with every change.
    pub revision: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Body {
    description: String,
    tiles: Vec<Tile>,
}

impl Dashboard {
    fn of(document: Document) -> Result<Self, Problem> {
        let body: Body = serde_json::from_value(document.body.0).map_err(Problem::internal)?;
        Ok(Self {
            id: document.id,
            name: document.name,
            description: body.description,
            tiles: body.tiles,
            revision: document.revision,
            created_at: document.created_at,
            updated_at: document.updated_at,
        })
    }
}

/// Every dashboard of this scope, oldest first.
///
/// # Errors
/// 503 while the metadata database does not answer.
pub(super) async fn list(query: &Query, scope: &Scope) -> Result<Value, Problem> {
    let found = meta(query)?.documents(DASHBOARDS).list(scope).await.map_err(saved::problem)?;
    let dashboards = found.into_iter().map(Dashboard::of).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "dashboards": dashboards }))
}

/// One dashboard.
///
/// # Errors
/// 404, and 503 while the metadata database does not answer.
pub(super) async fn show(query: &Query, scope: &Scope, id: &str) -> Result<Dashboard, Problem> {
    Dashboard::of(find(query, scope, id).await?)
}

/// Makes a dashboard.
///
/// # Errors
/// 400 for what cannot be kept or asked; 503 while the metadata database does not answer.
pub(super) async fn create(query: &Query, scope: &Scope, new: NewDashboard) -> Result<Dashboard, Problem> {
    check(query, Some(&new.name), Some(&new.description), Some(&new.tiles))?;
    let body = json!(Body { description: new.description, tiles: new.tiles });
    let max = query.limits.dashboards_max;
    let made = meta(query)?.documents(DASHBOARDS).create(scope, new.name.trim(), body, max).await;
    Dashboard::of(made.map_err(saved::problem)?)
}

/// Changes a dashboard.
///
/// # Errors
/// 400, 404; 409: it was changed meanwhile.
pub(super) async fn change(
    query: &Query,
    scope: &Scope,
    id: &str,
    change: DashboardChange,
) -> Result<Dashboard, Problem> {
    check(query, change.name.as_deref(), change.description.as_deref(), change.tiles.as_deref())?;
    let found = find(query, scope, id).await?;
    let now = Dashboard::of(found.clone())?;
    let newer = || {
        let message = "the dashboard was changed meanwhile: read it again and change that";
        Problem::new(ErrorCode::AlreadyExists, message).with("revision", found.revision)
    };
    if change.revision.is_some_and(|revision| revision != found.revision) {
        return Err(newer());
    }
    let name = change.name.unwrap_or(now.name);
    let body = json!(Body {
        description: change.description.unwrap_or(now.description),
        tiles: change.tiles.unwrap_or(now.tiles),
    });
    let documents = meta(query)?;
    let changed = documents.documents(DASHBOARDS).change(scope, &found, name.trim(), body).await;
    if !changed.map_err(saved::problem)? {
        return Err(newer());
    }
    show(query, scope, id).await
}

/// Deletes a dashboard.
///
/// # Errors
/// 404, and 503 while the metadata database does not answer.
pub(super) async fn delete(query: &Query, scope: &Scope, id: &str) -> Result<(), Problem> {
    let deleted = meta(query)?.documents(DASHBOARDS).delete(scope, id).await;
    if deleted.map_err(saved::problem)? { Ok(()) } else { Err(missing(id)) }
}

/// Asks every question of a dashboard anew, `query.dashboard_concurrency` at a time. One that fails says so in its
/// place; the others are answered.
///
/// # Errors
/// 404, and 503 while the metadata database does not answer.
pub(super) async fn refresh(query: &Query, scope: &Scope, id: &str) -> Result<Value, Problem> {
    let dashboard = show(query, scope, id).await?;
    let asked = dashboard.tiles.iter().map(|tile| async move {
        let mut question = tile.question.clone();
        if let Some(fields) = question.as_object_mut() {
            fields.insert("refresh".to_owned(), Value::Bool(true));
        }
        match http::ask_kind(&tile.kind, question, query, scope).await {
            Ok(answer) => json!({ "name": tile.name, "kind": tile.kind, "answer": answer, "error": null }),
            Err(problem) => {
                let error = json!({ "code": problem.code.as_str(), "message": problem.message, "details": problem.details });
                json!({ "name": tile.name, "kind": tile.kind, "answer": null, "error": error })
            }
        }
    });
    let at_once = query.limits.dashboard_concurrency.max(1);
    let tiles: Vec<Value> = futures::stream::iter(asked).buffered(at_once).collect().await;
    Ok(json!({ "id": dashboard.id, "name": dashboard.name, "tiles": tiles }))
}

fn meta(query: &Query) -> Result<&Meta, Problem> {
    query.database.as_ref().ok_or_else(|| Problem::internal(anyhow::anyhow!("no metadata database is given")))
}

async fn find(query: &Query, scope: &Scope, id: &str) -> Result<Document, Problem> {
    let found = meta(query)?.documents(DASHBOARDS).find(scope, id).await;
    found.map_err(saved::problem)?.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Problem {
    let shown: String = id.chars().take(100).collect();
    Problem::new(ErrorCode::NotFound, "no dashboard of this project and environment has this id")
        .with("given", shown)
}

fn check(
    query: &Query,
    name: Option<&str>,
    description: Option<&str>,
    tiles: Option<&[Tile]>,
) -> Result<(), Problem> {
    name.map_or(Ok(()), |name| saved::check_name("name", name, NAME_CHARS_MAX))?;
    if description.is_some_and(|text| text.chars().count() > DESCRIPTION_CHARS_MAX) {
        let message = format!("description has more than {DESCRIPTION_CHARS_MAX} characters");
        return Err(Problem::invalid("description", message).with("max", DESCRIPTION_CHARS_MAX));
    }
    let (tiles, max) = (tiles.unwrap_or_default(), query.limits.dashboard_tiles_max);
    if tiles.len() > max {
        let message =
            format!("tiles has {} entries, more than {max} (query.dashboard_tiles_max)", tiles.len());
        let problem = Problem::invalid("tiles", message).with("max", max);
        return Err(problem.with("setting", "query.dashboard_tiles_max"));
    }
    for (place, tile) in tiles.iter().enumerate() {
        let at = format!("tiles[{place}]");
        saved::check_name(&format!("{at}.name"), &tile.name, NAME_CHARS_MAX)?;
        for (field, value) in [("question", &tile.question), ("layout", &tile.layout)] {
            if value.to_string().len() > TILE_BYTES_MAX {
                let field = format!("{at}.{field}");
                let message = format!("{field} has more than {TILE_BYTES_MAX} bytes");
                return Err(Problem::invalid(&field, message).with("max", TILE_BYTES_MAX));
            }
        }
        if !KINDS.contains(&tile.kind.as_str()) {
            let message = format!("{at}.kind is {:?}, but must be one of {}", tile.kind, KINDS.join(", "));
            let field = format!("{at}.kind");
            return Err(Problem::invalid(&field, message)
                .with("given", tile.kind.clone())
                .with("valid", KINDS.to_vec()));
        }
        http::check_kind(&tile.kind, &tile.question).map_err(|problem| {
            let inner = problem.details.get("field").and_then(Value::as_str).unwrap_or_default();
            let field = format!("{at}.question.{inner}");
            let message = format!("{at}.question: {}", problem.message);
            Problem { message, ..problem }.with("field", field.trim_end_matches('.'))
        })?;
    }
    Ok(())
}
