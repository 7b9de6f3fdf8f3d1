//! The people behind an edge.

use serde::{Deserialize, Serialize};

use super::Paths;
use super::fold::GAP;
use crate::event::Scope;
use crate::http::Problem;
use crate::query::Query;
use crate::query::gather::Values;
use crate::query::http::Question;
use crate::query::people::{Page, People, Place};
use crate::telemetry::{Metric, names};

/// A question for people, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathsPeople {
    /// The paths, as they were asked.
    pub paths: Paths,
    /// Both ends of the edge, as in the answer: `1_/`, `2_/pricing`.
    pub source: String,
    pub target: String,
    /// People on a page; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// What is said of a person.
#[derive(Debug, Serialize)]
pub(in crate::query) struct Count {
    /// Paths of theirs that have the edge.
    pub count: i64,
}

impl Question for PathsPeople {
    const NAME: &'static str = "paths_people";
    type Answer = People<Count>;

    fn duration() -> &'static Metric {
        &names::QUERY_PATHS_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.paths.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        self.paths.timezone()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Self::Answer, Problem> {
        let actors = query.actors(scope).await?;
        let plan = self.paths.check(&query.limits, &actors, query.clock.now())?;
        let (place, source) = end("source", &self.source)?;
        let (next, target) = end("target", &self.target)?;
        if next != place + 1 {
            let message =
                format!("an edge leads from one place to the next: {} after {}", self.target, self.source);
            return Err(Problem::invalid("target", message).with("given", self.target.as_str()));
        }
        let list = (Self::NAME, scope, Self { limit: None, cursor: None, ..self.clone() });
        let list = serde_json::to_string(&list).map_err(Problem::internal)?;
        let mut page = Page::new(&list, self.limit, self.cursor.as_deref(), &query.limits)?;
        let asked = query.begin().await?;
        let mut values = Values::new(query.limits.gather_values_max);
        let mut number = |text: &str| if text == "..." { Ok(GAP) } else { values.number(text.to_owned()) };
        let edge = [number(source)?, number(target)?];
        let mut current: Option<(u64, i64)> = None;
        self.paths
            .paths(query, scope, &actors, &plan, &mut values, |actor, path| {
                let has = path.get(place - 1..=place).is_some_and(|pair| [pair[0].1, pair[1].1] == edge);
                if has {
                    // A person's paths come one after the other.
                    match &mut current {
                        Some((of, count)) if *of == actor => *count += 1,
                        _ => {
                            if let Some((actor, count)) = current.replace((actor, 1)) {
                                page.offer(Place::most(count, actor), || Count { count });
                            }
                        }
                    }
                }
                Ok(())
            })
            .await?;
        if let Some((actor, count)) = current {
            page.offer(Place::most(count, actor), || Count { count });
        }
        query.named((scope, &actors), plan.gather.range, &list, page, &asked).await
    }
}

/// `2_/pricing` as place and name.
fn end<'a>(field: &str, text: &'a str) -> Result<(usize, &'a str), Problem> {
    let parts = text.split_once('_').and_then(|(place, name)| Some((place.parse::<usize>().ok()?, name)));
    parts.filter(|(place, _)| *place > 0).ok_or_else(|| {
        let message = format!("{field} is {text:?}; expected a place and a name, such as 1_/pricing");
        Problem::invalid(field, message).with("given", text)
    })
}
