//! How the project's own words are kept in columns: ids as text, times as milliseconds, JSON as text.

use sea_orm::sea_query::{ArrayType, ColumnType, Nullable, StringLen, ValueType, ValueTypeErr};
use sea_orm::{ColIdx, DbErr, IntoActiveValue, QueryResult, TryFromU64, TryGetError, TryGetable, Value};

use super::{DeliveryState, JobState, Origin, Role, WebhookStatus};
use crate::event::{EnvironmentId, ProjectId, Timestamp};

/// A JSON value in a text column.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct JsonText(pub serde_json::Value);

/// Keeps `$name` in a column of text: `$write` makes the text, `$read` takes it back.
macro_rules! text_column {
    ($name:ty, $write:expr, $read:expr) => {
        impl From<$name> for Value {
            fn from(value: $name) -> Self {
                let write: fn($name) -> String = $write;
                Self::String(Some(write(value)))
            }
        }

        impl TryGetable for $name {
            fn try_get_by<I: ColIdx>(row: &QueryResult, column: I) -> Result<Self, TryGetError> {
                let read: fn(String) -> Result<Self, String> = $read;
                let text = String::try_get_by(row, column)?;
                read(text).map_err(|message| TryGetError::DbErr(DbErr::Type(message)))
            }
        }

        impl ValueType for $name {
            fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
                let read: fn(String) -> Result<Self, String> = $read;
                let text = <String as ValueType>::try_from(value)?;
                read(text).map_err(|_| ValueTypeErr)
            }

            fn type_name() -> String {
                stringify!($name).to_owned()
            }

            fn array_type() -> ArrayType {
                ArrayType::String
            }

            fn column_type() -> ColumnType {
                ColumnType::String(StringLen::None)
            }
        }

        impl Nullable for $name {
            fn null() -> Value {
                Value::String(None)
            }
        }

        impl IntoActiveValue<$name> for $name {
            fn into_active_value(self) -> sea_orm::ActiveValue<$name> {
                sea_orm::ActiveValue::Set(self)
            }
        }
    };
}

/// Keys are made by us, never by the database.
macro_rules! key_column {
    ($name:ident) => {
        text_column!($name, |id| id.as_str().to_owned(), |text| Ok($name::new(text)));

        impl TryFromU64 for $name {
            fn try_from_u64(_: u64) -> Result<Self, DbErr> {
                Err(DbErr::ConvertFromU64(stringify!($name)))
            }
        }
    };
}

key_column!(ProjectId);
key_column!(EnvironmentId);

text_column!(JsonText, |json| json.0.to_string(), |text| serde_json::from_str(&text)
    .map(JsonText)
    .map_err(|error| error.to_string()));

text_column!(JobState, |state| state.as_str().to_owned(), |text| JobState::from_name(&text)
    .ok_or_else(|| format!("{text:?} is not a state of a job")));

text_column!(Origin, |origin| origin.as_str().to_owned(), |text| Origin::from_name(&text)
    .ok_or_else(|| format!("{text:?} is not an origin")));

text_column!(Role, |role| role.as_str().to_owned(), |text| Role::from_name(&text)
    .ok_or_else(|| format!("{text:?} is not a role")));

text_column!(WebhookStatus, |status| status.as_str().to_owned(), |text| WebhookStatus::from_name(&text)
    .ok_or_else(|| format!("{text:?} is not a status of a webhook")));

text_column!(DeliveryState, |state| state.as_str().to_owned(), |text| DeliveryState::from_name(&text)
    .ok_or_else(|| format!("{text:?} is not a state of a delivery")));

impl From<Timestamp> for Value {
    fn from(at: Timestamp) -> Self {
        Self::BigInt(Some(at.as_millis()))
    }
}

impl TryGetable for Timestamp {
    fn try_get_by<I: ColIdx>(row: &QueryResult, column: I) -> Result<Self, TryGetError> {
        i64::try_get_by(row, column).map(Self::from_millis)
    }
}

impl ValueType for Timestamp {
    fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
        <i64 as ValueType>::try_from(value).map(Self::from_millis)
    }

    fn type_name() -> String {
        "Timestamp".to_owned()
    }

    fn array_type() -> ArrayType {
        ArrayType::BigInt
    }

    fn column_type() -> ColumnType {
        ColumnType::BigInteger
    }
}

impl TryFromU64 for Timestamp {
    fn try_from_u64(_: u64) -> Result<Self, DbErr> {
        Err(DbErr::ConvertFromU64("Timestamp"))
    }
}

impl Nullable for Timestamp {
    fn null() -> Value {
        Value::BigInt(None)
    }
}

impl IntoActiveValue<Timestamp> for Timestamp {
    fn into_active_value(self) -> sea_orm::ActiveValue<Self> {
        sea_orm::ActiveValue::Set(self)
    }
}
