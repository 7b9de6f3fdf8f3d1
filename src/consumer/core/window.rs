//! The id window (layer 3): ids of events that are **stored**, remembered per partition to recognise a resend that
//! changed its time, name or distinct id.
//!
//! Bounded by time and by memory; the oldest go first, over all partitions. An id takes 12 bytes (a 64-bit hash,
//! checked by 32 bits more) in a chunk and 5 to 8 in the index of its partition. The window holds no offsets: its owner
//! puts an id in only once every record before it is done with, and never one from an offset it has still to read, so
//! that "is in the window" means "is stored from a smaller offset".

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;

use crate::event::Timestamp;
use crate::eventlog::TopicPartition;

/// 128-bit hash of (project, environment, event id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct IdHash(pub u128);

impl IdHash {
    /// Hashes the identity of an event. `seed` is this process's own, so that nobody can prepare collisions.
    pub fn of(seed: u64, project_id: &str, environment_id: &str, event_id: &str) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::with_seed(seed);
        // A byte that UTF-8 never holds parts the three, so that no two identities share their bytes.
        hasher.update(project_id.as_bytes());
        hasher.update(&[0xff]);
        hasher.update(environment_id.as_bytes());
        hasher.update(&[0xff]);
        hasher.update(event_id.as_bytes());
        Self(hasher.digest128())
    }

    fn slot_hash(self) -> u64 {
        (self.0 >> 64) as u64
    }

    fn entry(self) -> Entry {
        let hash = self.slot_hash();
        Entry { high: (hash >> 32) as u32, low: hash as u32, check: self.0 as u32 }
    }
}

/// The hash of what is a hash already.
#[derive(Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// 96 bits of an [`IdHash`] in 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    high: u32,
    low: u32,
    check: u32,
}

impl Entry {
    fn slot_hash(self) -> u64 {
        (u64::from(self.high) << 32) | u64::from(self.low)
    }
}

/// A slot of the index: where an id stands, and 8 bits of it. A look at another id mostly ends here, without a walk to
/// its chunk: most of what a lookup costs is memory that no cache holds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const EMPTY: Self = Self(u32::MAX);

    fn new(entry: Entry, place: u32) -> Self {
        Self((entry.check & 0xff) << PLACE_BITS | place)
    }

    fn place(self) -> u32 {
        self.0 & ((1 << PLACE_BITS) - 1)
    }

    fn may_be(self, entry: Entry) -> bool {
        self.0 >> PLACE_BITS == entry.check & 0xff
    }
}

const CHUNK_BITS: u32 = 10;
const CHUNK_IDS: usize = 1 << CHUNK_BITS;
/// A partition has places for 16 million ids, at 19 bytes each.
const PLACE_BITS: u32 = 24;
/// The last number is left out: with it a full slot could look empty.
const CHUNKS_MAX: usize = (1 << (PLACE_BITS - CHUNK_BITS)) - 1;

/// Ids that entered together; they leave together.
struct Chunk {
    entries: Vec<Entry>,
    newest: Timestamp,
}

impl Chunk {
    fn new() -> Self {
        Self { entries: Vec::with_capacity(CHUNK_IDS), newest: Timestamp::from_millis(i64::MIN) }
    }
}

/// One partition's ids: chunks in order of age, and an open-addressing index into them.
struct PartitionIds {
    /// By number; numbers are used again.
    chunks: Vec<Option<Chunk>>,
    free: Vec<u32>,
    /// Numbers of the chunks, oldest first.
    order: VecDeque<u32>,
    /// The chunk that rebuilding fills, at the old end.
    rebuilding: Option<u32>,
    index: Vec<Slot>,
    ids: usize,
    /// Everything stored since is remembered.
    covered_from: Timestamp,
    /// Ids had to go: older ones than the rest are not taken any more, there would be a gap between.
    evicted: bool,
    chunks_max: usize,
}

impl PartitionIds {
    fn new(now: Timestamp, chunks_max: usize) -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            rebuilding: None,
            index: Vec::new(),
            ids: 0,
            covered_from: now,
            evicted: false,
            chunks_max,
        }
    }

    fn bytes(&self) -> usize {
        self.order.len() * (CHUNK_IDS * size_of::<Entry>() + 64) + self.index.len() * size_of::<Slot>()
    }

    fn entry(&self, place: u32) -> Option<Entry> {
        self.chunk(place >> CHUNK_BITS)?.entries.get(place as usize & (CHUNK_IDS - 1)).copied()
    }

    fn chunk(&self, number: u32) -> Option<&Chunk> {
        self.chunks.get(number as usize)?.as_ref()
    }

    /// The slot of the index where probing for `hash` begins.
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.index.len() as u128) >> 64) as usize
    }

    fn find(&self, wanted: Entry) -> Option<usize> {
        if self.index.is_empty() {
            return None;
        }
        let mut slot = self.home(wanted.slot_hash());
        loop {
            match self.index[slot] {
                Slot::EMPTY => return None,
                found if found.may_be(wanted) && self.entry(found.place()) == Some(wanted) => {
                    return Some(slot);
                }
                _ => slot = self.after(slot),
            }
        }
    }

    fn link(&mut self, entry: Entry, place: u32) {
        let mut slot = self.home(entry.slot_hash());
        while self.index[slot] != Slot::EMPTY {
            slot = self.after(slot);
        }
        self.index[slot] = Slot::new(entry, place);
    }

    /// The slot behind this one.
    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.index.len() { 0 } else { slot + 1 }
    }

    /// Keeps the index at most 0.8 full.
    fn grow(&mut self) {
        if (self.ids + 1) * 5 <= self.index.len() * 4 {
            return;
        }
        let size = (self.index.len() * 3 / 2).max(CHUNK_IDS);
        let slots = std::mem::replace(&mut self.index, vec![Slot::EMPTY; size]);
        for slot in slots {
            if let Some(entry) = (slot != Slot::EMPTY).then(|| self.entry(slot.place())).flatten() {
                self.link(entry, slot.place());
            }
        }
    }

    fn open_chunk(&mut self, oldest: bool) -> u32 {
        if !self.has_free_chunk() {
            self.evict_oldest();
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() as u32 - 1
        });
        self.chunks[number as usize] = Some(Chunk::new());
        if oldest {
            self.order.push_front(number);
            self.rebuilding = Some(number);
        } else {
            self.order.push_back(number);
        }
        number
    }

    fn has_free_chunk(&self) -> bool {
        !self.free.is_empty() || self.chunks.len() < self.chunks_max
    }

    /// May an id be put in at the old end without another one going?
    fn takes_older(&self) -> bool {
        !self.evicted
            && (self.rebuilding.is_some_and(|number| self.has_room(number)) || self.has_free_chunk())
    }

    fn has_room(&self, number: u32) -> bool {
        self.chunk(number).is_some_and(|chunk| chunk.entries.len() < CHUNK_IDS)
    }

    fn insert(&mut self, id: IdHash, at: Timestamp, oldest: bool) {
        let entry = id.entry();
        if self.find(entry).is_some() {
            return;
        }
        self.grow();
        let current = if oldest {
            self.rebuilding
        } else {
            self.order.back().copied().filter(|number| Some(*number) != self.rebuilding)
        };
        let number = match current.filter(|number| self.has_room(*number)) {
            Some(number) => number,
            None => self.open_chunk(oldest),
        };
        let Some(Some(chunk)) = self.chunks.get_mut(number as usize) else { return };
        let place = (number << CHUNK_BITS) | chunk.entries.len() as u32;
        chunk.entries.push(entry);
        chunk.newest = chunk.newest.max(at);
        self.ids += 1;
        self.link(entry, place);
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.order.front().and_then(|number| self.chunk(*number)).map(|chunk| chunk.newest)
    }

    fn evict_oldest(&mut self) {
        let Some(number) = self.order.pop_front() else { return };
        if self.rebuilding == Some(number) {
            self.rebuilding = None;
        }
        let Some(chunk) = self.chunk(number) else { return };
        let (entries, newest) = (chunk.entries.clone(), chunk.newest);
        for entry in &entries {
            if let Some(slot) = self.find(*entry) {
                self.unlink(slot);
            }
        }
        self.chunks[number as usize] = None;
        self.free.push(number);
        self.ids -= entries.len();
        self.evicted = true;
        self.covered_from = self.covered_from.max(newest);
    }

    /// Empties a slot and moves later ones of its run back, so that probing still finds them.
    fn unlink(&mut self, mut hole: usize) {
        let size = self.index.len();
        self.index[hole] = Slot::EMPTY;
        let mut slot = hole;
        loop {
            slot = self.after(slot);
            let found = self.index[slot];
            if found == Slot::EMPTY {
                return;
            }
            let Some(entry) = self.entry(found.place()) else { return };
            let home = self.home(entry.slot_hash());
            if (slot + size - home) % size >= (slot + size - hole) % size {
                self.index[hole] = found;
                self.index[slot] = Slot::EMPTY;
                hole = slot;
            }
        }
    }
}

/// The windows of all partitions this process owns. See the [module](self).
pub struct IdWindow {
    partitions: BTreeMap<TopicPartition, PartitionIds>,
    bytes: usize,
    bytes_max: usize,
    /// Of each partition.
    chunks_max: usize,
    reach: std::time::Duration,
}

impl IdWindow {
    /// A window that reaches back `reach` and takes at most about `bytes_max` bytes; 0: remembers nothing.
    pub fn new(reach: std::time::Duration, bytes_max: usize) -> Self {
        Self { partitions: BTreeMap::new(), bytes: 0, bytes_max, chunks_max: CHUNKS_MAX, reach }
    }

    /// Does it remember anything at all?
    pub fn is_enabled(&self) -> bool {
        self.bytes_max > 0
    }

    /// Begins an empty window for a partition that was just assigned.
    pub fn begin(&mut self, partition: &TopicPartition, now: Timestamp) {
        self.forget(partition);
        if self.is_enabled() {
            self.partitions.insert(partition.clone(), PartitionIds::new(now, self.chunks_max));
        }
    }

    /// Drops the window of a partition that was given up.
    pub fn forget(&mut self, partition: &TopicPartition) {
        if let Some(ids) = self.partitions.remove(partition) {
            self.bytes -= ids.bytes();
        }
    }

    /// Is this id stored from an earlier record of the partition?
    pub fn contains(&self, partition: &TopicPartition, id: IdHash) -> bool {
        self.partitions.get(partition).is_some_and(|ids| ids.find(id.entry()).is_some())
    }

    /// Remembers an id whose row the store has confirmed.
    pub fn insert(&mut self, partition: &TopicPartition, id: IdHash, received_at: Timestamp) {
        self.put(partition, id, received_at, false);
        while self.bytes > self.bytes_max && self.evict_oldest() {}
    }

    /// Remembers an id found in the store while rebuilding, newest first; passed over where its partition's places are
    /// taken. False: memory is full, so stop rebuilding.
    pub fn insert_older(&mut self, partition: &TopicPartition, id: IdHash, received_at: Timestamp) -> bool {
        if self.bytes + CHUNK_IDS * (size_of::<Entry>() + 8) > self.bytes_max {
            return false;
        }
        let Some(ids) = self.partitions.get_mut(partition).filter(|ids| ids.takes_older()) else {
            return true;
        };
        ids.covered_from = ids.covered_from.min(received_at);
        self.put(partition, id, received_at, true);
        true
    }

    /// Rebuilding a partition came to its end: everything since `since` is remembered.
    pub fn rebuilt(&mut self, partition: &TopicPartition, since: Timestamp) {
        if let Some(ids) = self.partitions.get_mut(partition) {
            ids.rebuilding = None;
            if ids.takes_older() {
                ids.covered_from = ids.covered_from.min(since);
            }
        }
    }

    /// Lets go of what is older than the window.
    pub fn expire(&mut self, now: Timestamp) {
        let horizon = now.minus(self.reach);
        for ids in self.partitions.values_mut() {
            let before = ids.bytes();
            while ids.oldest().is_some_and(|newest| newest < horizon) {
                ids.evict_oldest();
            }
            self.bytes = self.bytes + ids.bytes() - before;
        }
    }

    /// Ids remembered.
    pub fn ids(&self) -> usize {
        self.partitions.values().map(|ids| ids.ids).sum()
    }

    /// How many ids memory has room for, about.
    pub fn ids_max(&self) -> usize {
        self.bytes_max / 19
    }

    /// How far back the ids of every partition reach; the configured reach when nothing is owned.
    pub fn effective(&self, now: Timestamp) -> std::time::Duration {
        self.partitions
            .values()
            .map(|ids| now.since(ids.covered_from))
            .min()
            .unwrap_or(self.reach)
            .min(self.reach)
    }

    fn put(&mut self, partition: &TopicPartition, id: IdHash, at: Timestamp, oldest: bool) {
        let Some(ids) = self.partitions.get_mut(partition) else { return };
        let before = ids.bytes();
        ids.insert(id, at, oldest);
        self.bytes = self.bytes + ids.bytes() - before;
    }

    fn evict_oldest(&mut self) -> bool {
        let oldest = self
            .partitions
            .values_mut()
            .filter_map(|ids| ids.oldest().map(|at| (at, ids)))
            .min_by_key(|(at, _)| *at);
        let Some((_, ids)) = oldest else { return false };
        let before = ids.bytes();
        ids.evict_oldest();
        self.bytes = self.bytes + ids.bytes() - before;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> IdHash {
        IdHash::of(7, "p", "e", &n.to_string())
    }

    fn partition() -> TopicPartition {
        TopicPartition::new("events", 0)
    }

    #[test]
    fn the_oldest_ids_go_first_when_memory_is_full() {
        let mut window = IdWindow::new(Duration::from_secs(3600), 200_000);
        window.begin(&partition(), Timestamp::EPOCH);
        for n in 0..50_000 {
            window.insert(&partition(), id(n), Timestamp::from_millis(n as i64));
        }
        assert!(window.contains(&partition(), id(49_999)));
        assert!(!window.contains(&partition(), id(0)));
        assert!(window.bytes <= 200_000);
        assert!(window.ids() > 200_000 / 24, "{}", window.ids());
        assert!(window.effective(Timestamp::from_millis(50_000)) < Duration::from_secs(20));
    }

    #[test]
    fn the_parts_of_an_identity_do_not_run_into_each_other() {
        assert_ne!(IdHash::of(0, "ab", "c", "d"), IdHash::of(0, "a", "bc", "d"));
    }

    #[test]
    fn a_rebuild_stops_at_full_memory_and_never_pushes_newer_ids_out() {
        let mut window = IdWindow::new(Duration::from_secs(3600), 100_000);
        window.begin(&partition(), Timestamp::from_millis(1_000_000));
        window.insert(&partition(), id(0), Timestamp::from_millis(1_000_000));
        let taken = (1..100_000).take_while(|n| {
            window.insert_older(&partition(), id(*n), Timestamp::from_millis(1_000_000 - *n as i64))
        });
        let taken = taken.count();
        assert!(taken > 2_000 && taken < 10_000, "{taken}");
        assert!(window.contains(&partition(), id(0)));
        assert!(window.contains(&partition(), id(taken as u64)));
    }

    #[test]
    fn a_rebuild_stops_where_the_places_of_a_partition_are_taken_and_says_how_far_back_it_came() {
        let mut window = IdWindow::new(Duration::from_secs(3600), usize::MAX / 2);
        window.chunks_max = 3;
        let (now, at) = (Timestamp::from_millis(1_000_000), |n: u64| 1_000_000 - n as i64);
        let other = TopicPartition::new("events", 1);
        window.begin(&partition(), now);
        window.begin(&other, now);
        window.insert(&partition(), id(0), now);
        for n in 1..10_000 {
            assert!(window.insert_older(&partition(), id(n), Timestamp::from_millis(at(n))));
            assert!(window.insert_older(&other, id(n), Timestamp::from_millis(at(n))));
        }
        window.rebuilt(&partition(), Timestamp::EPOCH);
        assert_eq!(window.partitions[&partition()].ids, 1 + 2 * CHUNK_IDS);
        for n in 0..=2 * CHUNK_IDS as u64 {
            assert!(window.contains(&partition(), id(n)), "{n}");
        }
        let covered = window.partitions[&partition()].covered_from;
        assert_eq!(covered, Timestamp::from_millis(at(2 * CHUNK_IDS as u64)));
        // The newest ids take the places of the oldest; what is asked for then is not taken, to leave no gap.
        for n in 20_000..20_000 + 2 * CHUNK_IDS as u64 {
            window.insert(&partition(), id(n), now);
        }
        assert!(window.insert_older(&partition(), id(30_000), Timestamp::EPOCH));
        assert!(!window.contains(&partition(), id(30_000)));
        window.rebuilt(&partition(), Timestamp::EPOCH);
        assert!(window.partitions[&partition()].covered_from > covered);
    }

    proptest! {
        #[test]
        fn the_window_remembers_what_a_plain_list_remembers(steps in prop::collection::vec((0u64..3000, 0u8..20), 1..4000)) {
            let mut window = IdWindow::new(Duration::from_secs(1), usize::MAX / 2);
            window.begin(&partition(), Timestamp::EPOCH);
            let mut model: BTreeMap<u64, ()> = BTreeMap::new();
            for (n, action) in steps {
                if action == 0 {
                    let Some(ids) = window.partitions.get_mut(&partition()) else { unreachable!() };
                    let gone: Vec<Entry> = ids.order.front().map(|c| ids.chunk(*c).unwrap().entries.clone()).unwrap_or_default();
                    ids.evict_oldest();
                    model.retain(|n, ()| !gone.contains(&id(*n).entry()));
                } else {
                    window.insert(&partition(), id(n), Timestamp::EPOCH);
                    model.insert(n, ());
                }
            }
            prop_assert_eq!(window.ids(), model.len());
            for n in 0..3000 {
                prop_assert_eq!(window.contains(&partition(), id(n)), model.contains_key(&n));
            }
        }
    }
}
