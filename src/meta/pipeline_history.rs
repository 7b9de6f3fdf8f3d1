//! What the processes of the installation counted, minute by minute, and how far the consumer groups were behind then.
//!
//! A row of counts is of one process and one minute and is written anew until the minute is over, so a write whose answer
//! was lost can be repeated. They are of the whole installation.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue, FromQueryResult, QueryOrder, QuerySelect};
use serde::Serialize;
use serde_json::Value as Json;

use super::{JsonText, Meta, MetaError};
use crate::event::Timestamp;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "pipeline_minutes")]
pub(super) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub minute: Timestamp,
    #[sea_orm(primary_key, auto_increment = false)]
    pub process: String,
    pub roles: String,
    pub captured: i64,
    pub batches: i64,
    pub stored: i64,
    pub duplicates: i64,
    pub dead_letters: i64,
    pub insert_errors: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(super) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

mod lag {
    use sea_orm::entity::prelude::*;

    use super::{JsonText, Timestamp};

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "pipeline_lags")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub minute: Timestamp,
        pub lags: JsonText,
        pub created_at: Timestamp,
        pub updated_at: Timestamp,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromQueryResult)]
pub struct PipelineCounts {
    pub captured: i64,
    pub batches: i64,
    pub stored: i64,
    pub duplicates: i64,
    pub dead_letters: i64,
    pub insert_errors: i64,
}

/// What all processes counted in one minute.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct PipelineMinute {
    pub minute: Timestamp,
    pub processes: i64,
    #[sea_orm(nested)]
    pub counts: PipelineCounts,
}

/// What one process counted, from its first minute to its last.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct PipelineProcess {
    pub process: String,
    pub roles: String,
    pub first: Timestamp,
    pub last: Timestamp,
    #[sea_orm(nested)]
    pub counts: PipelineCounts,
}

/// How far the groups were behind in a minute.
pub type PipelineLag = lag::Model;

/// The columns that are added up, by their names in the answers.
const COUNTED: [(&str, Column); 6] = [
    ("captured", Column::Captured),
    ("batches", Column::Batches),
    ("stored", Column::Stored),
    ("duplicates", Column::Duplicates),
    ("dead_letters", Column::DeadLetters),
    ("insert_errors", Column::InsertErrors),
];

/// The sums of what is counted; PostgreSQL's sums of whole numbers are none, until they are told to be.
fn summed(mut found: Select<Entity>) -> Select<Entity> {
    use sea_orm::sea_query::ExprTrait;

    for (name, column) in COUNTED {
        found = found.column_as(ExprTrait::cast_as(column.sum(), "BIGINT"), name);
    }
    found
}

/// The finders and writers of the history.
pub struct PipelineHistory<'a>(pub(super) &'a Meta);

impl PipelineHistory<'_> {
    /// Writes what a process counted in these minutes, in place of what it had written of them.
    ///
    /// # Errors
    /// The database does not answer: written again, nothing counts twice.
    pub async fn write(
        &self,
        process: &str,
        roles: &str,
        minutes: &[(Timestamp, PipelineCounts)],
    ) -> Result<(), MetaError> {
        let now = self.0.now();
        for some in minutes.chunks(500) {
            let rows = some.iter().map(|(minute, counts)| ActiveModel {
                minute: ActiveValue::Set(*minute),
                process: ActiveValue::Set(process.to_owned()),
                roles: ActiveValue::Set(roles.to_owned()),
                captured: ActiveValue::Set(counts.captured),
                batches: ActiveValue::Set(counts.batches),
                stored: ActiveValue::Set(counts.stored),
                duplicates: ActiveValue::Set(counts.duplicates),
                dead_letters: ActiveValue::Set(counts.dead_letters),
                insert_errors: ActiveValue::Set(counts.insert_errors),
                created_at: ActiveValue::Set(now),
                updated_at: ActiveValue::Set(now),
            });
            let counted = COUNTED.map(|(_, column)| column);
            let again = OnConflict::columns([Column::Minute, Column::Process])
                .update_columns(counted)
                .update_column(Column::UpdatedAt)
                .to_owned();
            let insert = Entity::insert_many(rows).on_conflict(again);
            self.0.track(insert.exec_without_returning(self.0.connection()).await)?;
        }
        Ok(())
    }

    /// When the lag of this minute was last looked at, by any process.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn lag_looked_at(&self, minute: Timestamp) -> Result<Option<Timestamp>, MetaError> {
        let found = lag::Entity::find_by_id(minute).select_only().column(lag::Column::UpdatedAt);
        self.0.track(found.into_tuple::<Timestamp>().one(self.0.connection()).await)
    }

    /// Writes how far the groups are behind in this minute, in place of what any process had written of it.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn write_lag(&self, minute: Timestamp, lags: Json) -> Result<(), MetaError> {
        let now = self.0.now();
        let row = lag::ActiveModel {
            minute: ActiveValue::Set(minute),
            lags: ActiveValue::Set(JsonText(lags)),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        let again = OnConflict::column(lag::Column::Minute)
            .update_columns([lag::Column::Lags, lag::Column::UpdatedAt])
            .to_owned();
        let insert = lag::Entity::insert(row).on_conflict(again);
        self.0.track(insert.exec_without_returning(self.0.connection()).await)?;
        Ok(())
    }

    /// Forgets minutes from before this time, and the oldest where there are more than `rows_max` rows.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn forget(&self, before: Timestamp, rows_max: u64) -> Result<(), MetaError> {
        let newest = Entity::find().select_only().column(Column::Minute).order_by_desc(Column::Minute);
        let over = newest.offset(rows_max).limit(1).into_tuple::<Timestamp>().one(self.0.connection()).await;
        // Of a minute that no longer fits nothing is left, so that its sums are never those of some processes.
        let until = self
            .0
            .track(over)?
            .map_or(before, |minute| before.max(Timestamp::from_millis(minute.as_millis() + 1)));
        let gone = Entity::delete_many().filter(Column::Minute.lt(until)).exec(self.0.connection()).await;
        self.0.track(gone)?;
        let gone = lag::Entity::delete_many().filter(lag::Column::Minute.lt(until));
        self.0.track(gone.exec(self.0.connection()).await)?;
        Ok(())
    }

    /// What all processes counted, by minute, from this one on.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn minutes(&self, from: Timestamp) -> Result<Vec<PipelineMinute>, MetaError> {
        let found = Entity::find().select_only().column(Column::Minute);
        let found = summed(found.column_as(Column::Process.count(), "processes"))
            .filter(Column::Minute.gte(from))
            .group_by(Column::Minute)
            .order_by_asc(Column::Minute);
        self.0.track(found.into_model::<PipelineMinute>().all(self.0.connection()).await)
    }

    /// What each process counted from this minute on, those that were seen last first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn processes(&self, from: Timestamp, limit: u64) -> Result<Vec<PipelineProcess>, MetaError> {
        let found = Entity::find()
            .select_only()
            .column(Column::Process)
            .column(Column::Roles)
            .column_as(Column::Minute.min(), "first")
            .column_as(Column::Minute.max(), "last");
        let found = summed(found)
            .filter(Column::Minute.gte(from))
            .group_by(Column::Process)
            .group_by(Column::Roles)
            .order_by_desc(Column::Minute.max())
            .order_by_asc(Column::Process)
            .limit(limit);
        self.0.track(found.into_model::<PipelineProcess>().all(self.0.connection()).await)
    }

    /// How far the groups were behind, by minute, from this one on.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn lags(&self, from: Timestamp) -> Result<Vec<PipelineLag>, MetaError> {
        let found =
            lag::Entity::find().filter(lag::Column::Minute.gte(from)).order_by_asc(lag::Column::Minute);
        self.0.track(found.all(self.0.connection()).await)
    }
}
