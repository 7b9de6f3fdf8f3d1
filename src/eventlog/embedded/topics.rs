//! Creating, growing and deleting topics, on the writer's thread.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::catalog::{Catalog, Partition, PartitionState, Topic};
use super::store::{Store, StoreError, Write};
use super::writer::Writer;
use crate::eventlog::{LogError, TopicId, TopicSpec};

impl Writer {
    pub(super) fn create(&self, store: &Store, specs: &[TopicSpec]) -> Result<Vec<Arc<str>>, ChangeError> {
        let mut catalog = Catalog::clone(&self.shared.catalog());
        let mut made = Vec::new();
        let mut write = store.write();
        for spec in specs {
            let topic = match catalog.topics.get(&spec.name) {
                Some(topic) => {
                    let spec = TopicSpec { partitions: topic.spec.partitions, ..spec.clone() };
                    if spec == topic.spec {
                        continue;
                    }
                    Topic::new(spec, topic.id, topic.partitions.clone())
                }
                None => {
                    let spec = TopicSpec { partitions: spec.partitions.max(1), ..spec.clone() };
                    let id = TopicId(self.ids.uuid_v7(self.clock.now()));
                    let partitions = new_partitions(store, &mut write, id, 0..spec.partitions)?;
                    made.push(spec.name.clone());
                    Topic::new(spec, id, partitions)
                }
            };
            write.topic(&topic.spec, topic.id)?;
            catalog.topics.insert(spec.name.clone(), Arc::new(topic));
        }
        self.install(write, catalog)?;
        Ok(made)
    }

    pub(super) fn grow(&self, store: &Store, name: &Arc<str>, partitions: i32) -> Result<(), ChangeError> {
        let mut catalog = Catalog::clone(&self.shared.catalog());
        let topic = catalog.topics.get(name).ok_or_else(|| LogError::TopicMissing(name.clone()))?;
        if partitions <= topic.spec.partitions {
            return Ok(());
        }
        let mut write = store.write();
        let mut all = topic.partitions.clone();
        all.extend(new_partitions(store, &mut write, topic.id, topic.spec.partitions..partitions)?);
        let grown = Topic::new(TopicSpec { partitions, ..topic.spec.clone() }, topic.id, all);
        write.topic(&grown.spec, grown.id)?;
        catalog.topics.insert(name.clone(), Arc::new(grown));
        self.install(write, catalog)
    }

    pub(super) fn delete(&self, store: &Store, name: &Arc<str>) -> Result<(), ChangeError> {
        let mut catalog = Catalog::clone(&self.shared.catalog());
        let topic = catalog.topics.remove(name).ok_or_else(|| LogError::TopicMissing(name.clone()))?;
        let mut write = store.write();
        let mut segments = Vec::new();
        {
            let committed = self.shared.committed.read().unwrap_or_else(PoisonError::into_inner);
            write.forget_topic(&topic, &committed);
        }
        for partition in &topic.partitions {
            let state = partition.read();
            for segment in &state.segments {
                write.forget_segment(topic.id, partition.number, segment.base);
            }
            segments.extend(state.segments.iter().cloned());
        }
        self.install(write, catalog)?;
        let mut committed = self.shared.committed.write().unwrap_or_else(PoisonError::into_inner);
        committed.retain(|(_, id, _), _| *id != topic.id);
        drop(committed);
        for partition in &topic.partitions {
            let mut state = partition.write();
            state.segments.clear();
        }
        for segment in segments {
            store.delete_segment(&segment)?;
        }
        Ok(())
    }

    /// Makes a change of topics durable, then visible.
    fn install(&self, write: Write<'_>, catalog: Catalog) -> Result<(), ChangeError> {
        write.commit()?;
        self.shared.set_catalog(catalog);
        self.shared.groups.notify();
        self.shared.changed();
        Ok(())
    }
}

fn new_partitions(
    store: &Store,
    write: &mut Write<'_>,
    topic: TopicId,
    numbers: Range<i32>,
) -> Result<Vec<Arc<Partition>>, StoreError> {
    numbers
        .map(|number| {
            let segment = store.create_segment(topic, number, 0)?;
            write.segment(topic, number, &segment)?;
            let state = PartitionState::new(vec![segment])
                .ok_or_else(|| StoreError::Corrupt("a new segment".to_owned()))?;
            Ok(Arc::new(Partition::new(number, state)))
        })
        .collect()
}

/// Why a change was not made.
pub(super) enum ChangeError {
    Refused(LogError),
    Store(StoreError),
}

impl From<LogError> for ChangeError {
    fn from(error: LogError) -> Self {
        Self::Refused(error)
    }
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
