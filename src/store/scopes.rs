//! Which projects and environments have events: for the operator, over all of them.

use super::{Row, RowCells, Sql, Store, StoreError};
use crate::event::{EnvironmentId, ProjectId};

struct Pair(ProjectId, EnvironmentId);

impl Row for Pair {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        let (project, environment): (String, String) = (cells.next()?, cells.next()?);
        Ok(Self(ProjectId::new(project), EnvironmentId::new(environment)))
    }
}

impl Store {
    /// The projects and environments of stored events, at most `limit`. Both stand first in the sort key, so this
    /// reads little.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn scopes(&self, limit: u64) -> Result<Vec<(ProjectId, EnvironmentId)>, StoreError> {
        let sql = Sql::new(
            "SELECT project_id, environment_id FROM events GROUP BY project_id, environment_id LIMIT ",
        )
        .arg(limit);
        let found: Vec<Pair> = self.select(sql).await?;
        Ok(found.into_iter().map(|Pair(project, environment)| (project, environment)).collect())
    }
}
