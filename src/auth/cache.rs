//! What this process remembers of keys, so that a known one costs a lookup in memory.
//!
//! Keys that exist and keys that do not are kept apart: a flood of guesses cannot push out a key in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::limits::KeyLimit;
use super::secret::KeyDigest;
use super::{Access, Denied};
use crate::config;
use crate::event::{ProjectId, Timestamp};

/// A key as the database had it at `checked_at`.
pub(super) struct Entry {
    pub access: Access,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub checked_at: Timestamp,
    /// Somebody is asking the database again already.
    refreshing: AtomicBool,
    /// Outlives the entry: the next one of the same key takes it over.
    pub usage: Arc<Usage>,
}

/// When a key was last used, and which of that the database knows.
pub(super) struct Usage {
    pub project: ProjectId,
    pub key_id: Arc<str>,
    used: AtomicI64,
    written: AtomicI64,
    limit: Option<KeyLimit>,
}

impl Usage {
    pub(super) fn new(project: ProjectId, key_id: Arc<str>, limit: Option<KeyLimit>) -> Self {
        Self { project, key_id, used: AtomicI64::new(i64::MIN), written: AtomicI64::new(i64::MIN), limit }
    }

    /// The last use, if the database does not know it.
    pub(super) fn unwritten(&self) -> Option<Timestamp> {
        let used = self.used.load(Ordering::Relaxed);
        (used > self.written.load(Ordering::Relaxed)).then(|| Timestamp::from_millis(used))
    }

    pub(super) fn written(&self, used: Timestamp) {
        self.written.fetch_max(used.as_millis(), Ordering::Relaxed);
    }
}

impl Entry {
    pub(super) fn new(
        access: Access,
        expires_at: Option<Timestamp>,
        revoked_at: Option<Timestamp>,
        checked_at: Timestamp,
        usage: Arc<Usage>,
    ) -> Self {
        Self { access, expires_at, revoked_at, checked_at, refreshing: AtomicBool::new(false), usage }
    }

    /// What the key may do at `now`; notes the use.
    pub(super) fn access(&self, now: Timestamp) -> Result<Access, Denied> {
        if let Some(at) = self.revoked_at {
            return Err(Denied::Revoked { at });
        }
        if let Some(at) = self.expires_at.filter(|at| *at <= now) {
            return Err(Denied::Expired { at });
        }
        if let Some(limit) = &self.usage.limit {
            limit.check().map_err(|wait| Denied::TooOften { wait })?;
        }
        self.usage.used.store(now.as_millis(), Ordering::Relaxed);
        Ok(self.access.clone())
    }

    /// True for one caller: the one that shall ask the database again.
    pub(super) fn begin_refresh(&self) -> bool {
        !self.refreshing.load(Ordering::Relaxed) && !self.refreshing.swap(true, Ordering::Relaxed)
    }

    pub(super) fn end_refresh(&self) {
        self.refreshing.store(false, Ordering::Relaxed);
    }

    /// Is it as old as `age` at `now`? A clock that jumped back makes it old: the database is asked again.
    pub(super) fn is_older(&self, now: Timestamp, age: Duration) -> bool {
        now < self.checked_at || now.since(self.checked_at) >= age
    }
}

/// What is remembered of a key.
pub(super) enum Recall {
    /// Checked within `auth.key_cache_ttl`.
    Fresh(Arc<Entry>),
    /// Checked longer ago: to be believed only while the database does not answer.
    Old(Arc<Entry>),
    /// Checked within `auth.key_cache_ttl`: there is no such key.
    Unknown,
    Nothing,
}

/// The memory of keys.
pub(super) struct KeyCache {
    known: Cache<KeyDigest, Arc<Entry>>,
    /// When it was seen that there is no such key.
    unknown: Cache<KeyDigest, Timestamp>,
    ttl: Duration,
    /// How often keys were forgotten because what was remembered of them is wrong.
    forgotten: AtomicU64,
}

impl KeyCache {
    pub(super) fn new(config: &config::Auth) -> Self {
        let ttl = config.key_cache_ttl;
        // Ages are judged by the injected clock; moka's own only frees what nothing asks for any more.
        let lasting = |time: Duration| time.saturating_mul(2).clamp(Duration::from_secs(1), LONGEST);
        let entries = config.key_cache_entries_max;
        Self {
            known: Cache::builder()
                .max_capacity(entries)
                .time_to_live(lasting(ttl.max(config.stale_key_ttl)))
                .build(),
            unknown: Cache::builder().max_capacity(entries).time_to_live(lasting(ttl)).build(),
            ttl,
            forgotten: AtomicU64::new(0),
        }
    }

    /// To be called before the database is asked for what [`KeyCache::remember`] is given.
    pub(super) fn begin(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    pub(super) fn recall(&self, digest: &KeyDigest, now: Timestamp) -> Recall {
        if let Some(entry) = self.known.get(digest) {
            return if entry.is_older(now, self.ttl) { Recall::Old(entry) } else { Recall::Fresh(entry) };
        }
        match self.unknown.get(digest) {
            Some(checked) if checked <= now && now.since(checked) < self.ttl => Recall::Unknown,
            _ => Recall::Nothing,
        }
    }

    /// Remembers a key. A revocation that is remembered stays, and what was forgotten since `begun` stays so: a lookup
    /// that read the row just before the key was revoked must not bring the key back.
    pub(super) fn remember(&self, digest: KeyDigest, entry: Arc<Entry>, begun: u64) -> Arc<Entry> {
        let kept = self.known.entry(digest).and_compute_with(|known| match known {
            Some(known) if known.value().revoked_at.is_some() && entry.revoked_at.is_none() => Op::Nop,
            _ => Op::Put(entry.clone()),
        });
        self.unknown.invalidate(&digest);
        // After the insert, so that either this sees that keys were forgotten, or that takes the insert away.
        if self.forgotten.load(Ordering::SeqCst) != begun && entry.revoked_at.is_none() {
            self.known.invalidate(&digest);
        }
        kept.into_entry().map_or(entry, moka::Entry::into_value)
    }

    pub(super) fn remember_unknown(&self, digest: KeyDigest, now: Timestamp) {
        self.known.invalidate(&digest);
        self.unknown.insert(digest, now);
    }

    /// The key was revoked in this process: it stops at once.
    pub(super) fn revoke(&self, digest: KeyDigest, entry: Entry) {
        self.known.insert(digest, Arc::new(entry));
    }

    /// A project was deleted in this process: its keys are asked for again.
    pub(super) fn forget_project(&self, project: &ProjectId) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        let own: Vec<KeyDigest> = self
            .known
            .iter()
            .filter(|(_, entry)| entry.usage.project == *project)
            .map(|(digest, _)| *digest)
            .collect();
        own.iter().for_each(|digest| self.known.invalidate(digest));
    }

    /// The uses that the database does not know yet.
    pub(super) fn unwritten_uses(&self) -> Vec<Arc<Usage>> {
        self.known
            .iter()
            .map(|(_, entry)| entry.usage.clone())
            .filter(|usage| usage.unwritten().is_some())
            .collect()
    }
}

/// Longest that a memory may last; moka takes no longer ones.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
