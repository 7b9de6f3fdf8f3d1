//! The promise, as checks.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Is a record done with: stored, a duplicate of a stored one, or a dead letter?
fn is_settled(world: &World, number: usize, offset: i64) -> bool {
    let topic_id = world.broker.topic_id();
    let record = world.broker.partitions[number].records[offset as usize];
    let place = (topic_id, number as i32, offset);
    if world.broker.letters.contains_key(&place) {
        return true;
    }
    if record.bad {
        return false;
    }
    let stored = world
        .store
        .rows
        .iter()
        .any(|row| (row.topic_id, row.partition, row.offset) == place && row.id == record.id);
    stored || (record.given && world.store.knows(record.id))
}

/// Nothing is committed before it is settled.
pub(super) fn commit(world: &World, number: usize, offset: i64) -> Result<(), String> {
    let partition = &world.broker.partitions[number];
    let end = partition.records.len() as i64;
    if offset > end {
        return Err(format!("{number}: offset {offset} is committed, and the log ends at {end}"));
    }
    let from = partition.committed.unwrap_or(0).max(partition.log_start);
    for unsettled in from..offset {
        if !is_settled(world, number, unsettled) {
            return Err(format!("{number}@{unsettled} is committed, and it is nowhere"));
        }
    }
    Ok(())
}

/// After everything came to rest.
pub(super) fn promise(world: &World) -> Result<(), String> {
    nothing_is_lost(world)?;
    nothing_is_visible_twice(world)?;
    only_refused_records_are_dead_letters(world)?;
    for (number, process) in world.processes.iter().enumerate() {
        let accounted = process.finished + process.released + process.in_flight();
        if process.taken != accounted {
            return Err(format!(
                "accounting of process {number}: {} taken, {accounted} told of",
                process.taken
            ));
        }
    }
    Ok(())
}

fn nothing_is_lost(world: &World) -> Result<(), String> {
    for (number, partition) in world.broker.partitions.iter().enumerate() {
        for offset in 0..partition.records.len() as i64 {
            if !partition.expired.contains(&offset) && !is_settled(world, number, offset) {
                return Err(format!("{number}@{offset} is lost: {:?}", partition.records[offset as usize]));
            }
        }
    }
    Ok(())
}

/// One event under one sort key is one row, whoever wrote it how often. (A resend that changed its sort key while the
/// id window was being rebuilt is the sweep's.)
fn nothing_is_visible_twice(world: &World) -> Result<(), String> {
    let mut visible: BTreeMap<(u32, u8), BTreeSet<usize>> = BTreeMap::new();
    for (number, row) in world.store.rows.iter().enumerate() {
        let row_in_view = if world.mutation.identity { number } else { row.mapper as usize };
        visible.entry((row.id, row.key)).or_default().insert(row_in_view);
    }
    match visible.iter().find(|(_, rows)| rows.len() > 1) {
        Some(((id, key), rows)) => Err(format!("event {id} (key {key}) is visible {} times", rows.len())),
        None => Ok(()),
    }
}

fn only_refused_records_are_dead_letters(world: &World) -> Result<(), String> {
    for (topic_id, partition, offset) in world.broker.letters.keys() {
        if *topic_id != world.broker.topic_id() {
            continue;
        }
        let record = world.broker.partitions[*partition as usize].records[*offset as usize];
        if !record.bad && !record.poison {
            return Err(format!("{partition}@{offset} is a dead letter although nothing is wrong with it"));
        }
    }
    Ok(())
}
