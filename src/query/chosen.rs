//! Questions about some people alone, named by their distinct ids.

use serde::{Deserialize, Serialize};

use super::filter::Ground;
use crate::http::Problem;
use crate::store::Sql;

/// People, each by any of their distinct ids; a question with them is about nobody else. Both names mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct People {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub persons: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cohort_of_persons: Vec<String>,
}

impl People {
    /// Holds for the events of these people; `field` is where they stand in the request.
    ///
    /// # Errors
    /// 400: nobody is named, or more than `query.people_max`.
    pub(super) fn condition(&self, field: &str, ground: &Ground<'_>) -> Result<Sql, Problem> {
        let ids: Vec<&str> = self.persons.iter().chain(&self.cohort_of_persons).map(String::as_str).collect();
        let max = ground.limits.people_max;
        if ids.is_empty() || ids.len() > max {
            let message =
                format!("{field} names {} people; it may name 1 to {max} (query.people_max)", ids.len());
            return Err(Problem::invalid(field, message)
                .with("max", max)
                .with("setting", "query.people_max"));
        }
        let actors = ground.actors;
        Ok(Sql::new("").append(&actors.id()).push(" IN ").append(&actors.named(&ids)))
    }
}
