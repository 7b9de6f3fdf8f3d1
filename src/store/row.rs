//! Answers as Rust values, read by position.

use klickhouse::Value;
use klickhouse::block::Block;
use uuid::Uuid;

use super::StoreError;
use crate::event::Timestamp;

/// A row of an answer. Tuples of up to twelve [`FromCell`]s are rows; larger ones implement it by reading
/// [`RowCells::next`] once a column. Every column of a question needs a name of its own (`AS`).
pub trait Row: Sized {
    /// Takes the row's cells in the order of the question's columns.
    ///
    /// # Errors
    /// A cell has another type than is read, or there are too few.
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError>;
}

/// The cells of one row, taken from left to right.
#[derive(Debug)]
pub struct RowCells {
    /// What is left of each column, from this row on.
    columns: Vec<std::vec::IntoIter<Value>>,
    taken: usize,
}

impl RowCells {
    /// The next column.
    ///
    /// # Errors
    /// It has another type than is read, or there is none.
    #[expect(clippy::should_implement_trait, reason = "the type differs with every call")]
    pub fn next<T: FromCell>(&mut self) -> Result<T, StoreError> {
        let cell = self.columns.get_mut(self.taken).and_then(Iterator::next);
        self.taken += 1;
        let cell = cell
            .ok_or_else(|| StoreError::Query(format!("the answer has fewer columns than {}", self.taken)))?;
        T::from_cell(Cell(cell)).ok_or_else(|| {
            StoreError::Query(format!(
                "column {} of the answer cannot be read as {}",
                self.taken,
                std::any::type_name::<T>()
            ))
        })
    }
}

/// One value of an answer.
#[derive(Debug)]
pub struct Cell(Value);

/// A type that a value of an answer can be read as. Integers are read as any integer that holds them.
pub trait FromCell: Sized {
    /// `None`: the value is something else.
    fn from_cell(cell: Cell) -> Option<Self>;
}

fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::Int8(x) => (*x).into(),
        Value::Int16(x) => (*x).into(),
        Value::Int32(x) => (*x).into(),
        Value::Int64(x) => (*x).into(),
        Value::UInt8(x) => (*x).into(),
        Value::UInt16(x) => (*x).into(),
        Value::UInt32(x) => (*x).into(),
        Value::UInt64(x) => (*x).into(),
        _ => return None,
    })
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl FromCell for $type {
            fn from_cell(cell: Cell) -> Option<Self> {
                <$type>::try_from(integer(&cell.0)?).ok()
            }
        }
    )+};
}
integers!(u8, u16, u32, u64, usize, i32, i64);

impl FromCell for bool {
    fn from_cell(cell: Cell) -> Option<Self> {
        Some(integer(&cell.0)? != 0)
    }
}

impl FromCell for f64 {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::Float32(x) => Some(x.into()),
            Value::Float64(x) => Some(x),
            #[expect(
                clippy::cast_precision_loss,
                reason = "whoever asks for a float of an integer gets the nearest"
            )]
            other => integer(&other).map(|x| x as Self),
        }
    }
}

impl FromCell for String {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::String(bytes) => Some(Self::from_utf8(bytes).unwrap_or_else(|error| {
                // Bytes that are no text (a cut in the middle of a character) are shown as well as they can be.
                Self::from_utf8_lossy(error.as_bytes()).into_owned()
            })),
            _ => None,
        }
    }
}

/// Bytes that are no text, such as the state of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl FromCell for Blob {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::String(bytes) => Some(Self(bytes)),
            _ => None,
        }
    }
}

impl FromCell for Uuid {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::Uuid(uuid) => Some(uuid),
            _ => None,
        }
    }
}

impl FromCell for Timestamp {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::DateTime(at) => Some(Self::from_millis(i64::from(at.1) * 1000)),
            Value::DateTime64(at) => {
                // Ticks are signed on the wire.
                let ticks = i64::from_le_bytes(at.1.to_le_bytes());
                let precision = u32::try_from(at.2).ok()?;
                Some(Self::from_millis(match precision {
                    0..=3 => ticks.checked_mul(10_i64.pow(3 - precision))?,
                    _ => ticks.div_euclid(10_i64.checked_pow(precision - 3)?),
                }))
            }
            Value::Date(day) => Some(Self::from_millis(i64::from(day.0) * 86_400_000)),
            _ => None,
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::Null => Some(None),
            value => T::from_cell(Cell(value)).map(Some),
        }
    }
}

impl<T: FromCell> FromCell for Vec<T> {
    fn from_cell(cell: Cell) -> Option<Self> {
        match cell.0 {
            Value::Array(values) | Value::Tuple(values) => {
                values.into_iter().map(|value| T::from_cell(Cell(value))).collect()
            }
            _ => None,
        }
    }
}

macro_rules! tuples {
    ($(($($name:ident),+))+) => {$(
        impl<$($name: FromCell),+> Row for ($($name,)+) {
            fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
                Ok(($(cells.next::<$name>()?,)+))
            }
        }

        impl<$($name: FromCell),+> FromCell for ($($name,)+) {
            fn from_cell(cell: Cell) -> Option<Self> {
                let Value::Tuple(values) = cell.0 else { return None };
                let mut values = values.into_iter();
                Some(($($name::from_cell(Cell(values.next()?))?,)+))
            }
        }
    )+};
}
tuples! {
    (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) (A, B, C, D, E, F, G) (A, B, C, D, E, F, G, H)
    (A, B, C, D, E, F, G, H, I) (A, B, C, D, E, F, G, H, I, J) (A, B, C, D, E, F, G, H, I, J, K)
    (A, B, C, D, E, F, G, H, I, J, K, L)
}

/// The rows of a block.
pub(super) fn rows<T: Row>(block: Block) -> Result<Vec<T>, StoreError> {
    let count = usize::try_from(block.rows).unwrap_or(usize::MAX);
    let columns = block.column_data.into_values().map(Vec::into_iter).collect();
    let mut cells = RowCells { columns, taken: 0 };
    let mut out = Vec::with_capacity(count.min(65_536));
    for _ in 0..count {
        cells.taken = 0;
        out.push(T::from_cells(&mut cells)?);
        // What was not read of the row.
        cells.columns.iter_mut().skip(cells.taken).for_each(|column| drop(column.next()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use klickhouse::block::BlockInfo;
    use klickhouse::{DynDateTime64, Type, Tz};

    use super::*;

    fn block(rows: u64, columns: &[(&str, &[u8])]) -> Block {
        let types = columns.iter().map(|(name, _)| ((*name).to_owned(), Type::UInt8));
        let values = |values: &[u8]| values.iter().map(|value| Value::UInt8(*value)).collect();
        Block {
            info: BlockInfo::default(),
            rows,
            column_types: types.collect(),
            column_data: columns.iter().map(|(name, each)| ((*name).to_owned(), values(each))).collect(),
        }
    }

    fn read<T: FromCell>(value: Value) -> Option<T> {
        T::from_cell(Cell(value))
    }

    #[test]
    fn an_integer_is_read_as_any_that_holds_it() {
        assert_eq!(read::<i64>(Value::UInt64(5)), Some(5));
        assert_eq!(read::<u8>(Value::Int32(256)), None);
        assert_eq!(read::<u64>(Value::Int64(-1)), None);
        assert_eq!(read::<f64>(Value::UInt64(3)), Some(3.0));
    }

    #[test]
    fn times_of_every_precision_are_milliseconds() {
        let at = |ticks: i64, precision| {
            read::<Timestamp>(Value::DateTime64(DynDateTime64(
                Tz::UTC,
                u64::from_le_bytes(ticks.to_le_bytes()),
                precision,
            )))
        };
        assert_eq!(at(7, 0), Some(Timestamp::from_millis(7000)));
        assert_eq!(at(7, 3), Some(Timestamp::from_millis(7)));
        assert_eq!(at(-1, 6), Some(Timestamp::from_millis(-1)));
        assert_eq!(at(1_999_999, 9), Some(Timestamp::from_millis(1)));
    }

    #[test]
    fn null_is_none_and_nothing_else_is() {
        assert_eq!(read::<Option<String>>(Value::Null), Some(None));
        assert_eq!(read::<Option<String>>(Value::string("")), Some(Some(String::new())));
        assert_eq!(read::<String>(Value::Null), None);
    }

    #[test]
    fn a_row_with_too_few_columns_is_an_error() {
        let block = |rows| block(rows, &[("a", &[1])]);
        assert!(rows::<(u8, u8)>(block(1)).is_err());
        assert_eq!(rows::<(u8,)>(block(1)).unwrap(), [(1,)]);
        assert!(rows::<(u8,)>(block(2)).is_err());
    }

    #[test]
    fn columns_that_are_not_read_are_passed_over_with_their_row() {
        struct First(u8);
        impl Row for First {
            fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
                Ok(Self(cells.next()?))
            }
        }
        let block = block(2, &[("a", &[1, 2]), ("b", &[8, 9])]);
        let read: Vec<u8> = rows::<First>(block).unwrap().into_iter().map(|First(value)| value).collect();
        assert_eq!(read, [1, 2]);
    }
}
