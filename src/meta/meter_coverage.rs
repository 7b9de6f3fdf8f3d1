//! Which meters' usage is tracked for all of the past.

use sea_orm::ActiveValue;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;

use super::{Meta, MetaError};
use crate::event::Timestamp;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "meter_coverage")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub meter_id: String,
    /// Versions that the meter had when the rebuild began.
    pub versions: i64,
    pub covered_at: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// What a rebuild of a meter's usage has covered.
pub type CoveredMeter = Model;

/// The finder and writer of coverage. A meter is found in its scope first; this goes by its id.
pub struct MeterCoverage<'a>(pub(super) &'a Meta);

impl MeterCoverage<'_> {
    /// How many versions of a meter a rebuild has covered; none: no rebuild has finished.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn versions(&self, meter_id: &str) -> Result<Option<i64>, MetaError> {
        let found = self.0.track(Entity::find_by_id(meter_id).one(self.0.connection()).await)?;
        Ok(found.map(|row| row.versions))
    }

    /// A rebuild has covered so many versions of a meter.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set(&self, meter_id: &str, versions: i64) -> Result<(), MetaError> {
        let now = self.0.now();
        let row = ActiveModel {
            meter_id: ActiveValue::Set(meter_id.to_owned()),
            versions: ActiveValue::Set(versions),
            covered_at: ActiveValue::Set(now),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        let newer = OnConflict::column(Column::MeterId)
            .update_columns([Column::Versions, Column::CoveredAt, Column::UpdatedAt])
            .to_owned();
        self.0.track(
            Entity::insert(row).on_conflict(newer).exec_without_returning(self.0.connection()).await,
        )?;
        Ok(())
    }
}
