//! A store with ReplacingMergeTree's semantics: rows collapse by sort key when read, blocks by token for a while.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rng, TopicId};

/// A row as inserted. `month` is the table partition; a block lands one month at a time.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: u32,
    pub(super) key: u8,
    pub(super) mapper: u32,
    pub(super) month: u8,
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// The server refuses this row.
    pub(super) poison: bool,
    /// Its sender gave the id.
    pub(super) given: bool,
}

#[derive(Default)]
pub(super) struct Warehouse {
    pub(super) rows: Vec<Row>,
    tokens: BTreeSet<(String, u8)>,
    /// Which rows a token has stood for.
    meanings: BTreeMap<String, Vec<(i32, i64)>>,
    pub(super) down: bool,
}

pub(super) enum Insert {
    Stored,
    Partly,
    Rejected(usize),
}

impl Warehouse {
    /// Inserts a block. With `only`, just some months land before the server fails.
    pub(super) fn insert(&mut self, token: &str, rows: &[Row], only: Option<u8>) -> Insert {
        let places: Vec<_> = rows.iter().map(|row| (row.partition, row.offset)).collect();
        let meaning = self.meanings.entry(token.to_owned()).or_insert_with(|| places.clone());
        assert_eq!(*meaning, places, "one token stands for different rows");
        if let Some(poison) = rows.iter().position(|row| row.poison) {
            return Insert::Rejected(poison);
        }
        for month in 0..2 {
            if only.is_some_and(|only| only != month) || !self.tokens.insert((token.to_owned(), month)) {
                continue;
            }
            self.rows.extend(rows.iter().filter(|row| row.month == month).cloned());
        }
        if only.is_some() { Insert::Partly } else { Insert::Stored }
    }

    pub(super) fn expire_tokens(&mut self, rng: &mut Rng) {
        self.tokens.retain(|_| !rng.percent(50));
    }

    pub(super) fn offsets(&self, topic_id: TopicId, partition: i32, from: i64) -> Vec<i64> {
        let mine = |row: &&Row| row.topic_id == topic_id && row.partition == partition && row.offset >= from;
        let offsets: BTreeSet<i64> = self.rows.iter().filter(mine).map(|row| row.offset).collect();
        offsets.into_iter().collect()
    }

    /// Is this very record stored, or another event with its id?
    pub(super) fn knows(&self, id: u32) -> bool {
        self.rows.iter().any(|row| row.id == id)
    }
}
