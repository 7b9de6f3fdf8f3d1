//! What members tell each other through the coordinator, which passes it on unread: the subscription (what a member
//! wants and has) and the assignment (what it shall have), byte for byte as Kafka's own consumers write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::eventlog::TopicPartition;

/// The first with the generation of what is owned. Later ones only add to their end.
const SUBSCRIPTION_VERSION: i16 = 2;
const WITH_OWNED: i16 = 1;
const WITH_GENERATION: i16 = 2;
const ASSIGNMENT_VERSION: i16 = 0;
/// In place of a length: there is nothing.
const NULL: i32 = -1;

/// What a member wants and has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Subscription {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) owned: Vec<TopicPartition>,
    /// The generation that gave `owned` to it; -1: none did.
    pub(super) generation: i32,
}

/// The bytes of another member make no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what a member of the group says is unreadable: {0}")]
pub(super) struct Unreadable(&'static str);

impl Subscription {
    pub(super) fn write(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_i16(SUBSCRIPTION_VERSION);
        put_count(&mut bytes, self.topics.len());
        self.topics.iter().for_each(|topic| put_text(&mut bytes, topic));
        bytes.put_i32(NULL);
        put_partitions(&mut bytes, &self.owned);
        bytes.put_i32(self.generation);
        bytes.freeze()
    }

    /// # Errors
    /// The bytes are no subscription.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        let version = reader.version()?;
        let topics = (0..reader.i32()?).map(|_| reader.text()).collect::<Result<_, _>>()?;
        reader.skip_data()?;
        let owned = if version >= WITH_OWNED { reader.partitions()? } else { Vec::new() };
        let generation = if version >= WITH_GENERATION { reader.i32()? } else { -1 };
        Ok(Self { topics, owned, generation })
    }
}

pub(super) fn write_assignment(partitions: &[TopicPartition]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(ASSIGNMENT_VERSION);
    put_partitions(&mut bytes, partitions);
    bytes.put_i32(NULL);
    bytes.freeze()
}

/// No bytes at all is what a coordinator hands out where the leader named nothing.
///
/// # Errors
/// The bytes are no assignment.
pub(super) fn read_assignment(bytes: &[u8]) -> Result<Vec<TopicPartition>, Unreadable> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut reader = Reader(bytes);
    reader.version()?;
    reader.partitions()
}

fn put_count(bytes: &mut BytesMut, count: usize) {
    bytes.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
}

/// Names of topics are 249 bytes at most.
fn put_text(bytes: &mut BytesMut, text: &str) {
    bytes.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    bytes.put_slice(text.as_bytes());
}

fn put_partitions(bytes: &mut BytesMut, partitions: &[TopicPartition]) {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    put_count(bytes, topics.len());
    for (topic, partitions) in topics {
        put_text(bytes, topic);
        put_count(bytes, partitions.len());
        partitions.into_iter().for_each(|partition| bytes.put_i32(partition));
    }
}

/// Reads no further than the bytes go, and allocates nothing on the word of a length: the bytes are another program's.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn version(&mut self) -> Result<i16, Unreadable> {
        let version = self.0.try_get_i16().map_err(|_| Unreadable("it is cut off"))?;
        if version < 0 { Err(Unreadable("its version is negative")) } else { Ok(version) }
    }

    fn i32(&mut self) -> Result<i32, Unreadable> {
        self.0.try_get_i32().map_err(|_| Unreadable("it is cut off"))
    }

    fn slice(&mut self, length: usize) -> Result<&[u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<Arc<str>, Unreadable> {
        let length = self.0.try_get_i16().map_err(|_| Unreadable("it is cut off"))?;
        let length = usize::try_from(length).map_err(|_| Unreadable("a name is missing"))?;
        let text = std::str::from_utf8(self.slice(length)?).map_err(|_| Unreadable("a name is no UTF-8"))?;
        Ok(text.into())
    }

    fn skip_data(&mut self) -> Result<(), Unreadable> {
        match usize::try_from(self.i32()?) {
            Ok(length) => self.slice(length).map(|_| ()),
            Err(_null) => Ok(()),
        }
    }

    fn partitions(&mut self) -> Result<Vec<TopicPartition>, Unreadable> {
        let mut partitions = Vec::new();
        for _ in 0..self.i32()? {
            let topic = self.text()?;
            for _ in 0..self.i32()? {
                partitions.push(TopicPartition { topic: topic.clone(), partition: self.i32()? });
            }
        }
        Ok(partitions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partitions() -> impl Strategy<Value = Vec<TopicPartition>> {
        let one = ("[a-z.]{1,9}", 0..2000_i32).prop_map(|(topic, n)| TopicPartition::new(topic, n));
        // A set: what is owned is owned once, and stands in this order.
        proptest::collection::btree_set(one, 0..40).prop_map(|set| set.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_subscription_comes_back_as_written(
            topics in proptest::collection::vec("\\PC{0,20}", 0..5),
            owned in partitions(),
            generation in -1..i32::MAX,
        ) {
            let topics = topics.iter().map(|topic| topic.as_str().into()).collect();
            let subscription = Subscription { topics, owned, generation };
            prop_assert_eq!(Subscription::read(&subscription.write()), Ok(subscription));
        }

        #[test]
        fn an_assignment_comes_back_as_written(assigned in partitions()) {
            prop_assert_eq!(read_assignment(&write_assignment(&assigned)), Ok(assigned));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let bytes = Bytes::from(bytes);
            let _ = Subscription::read(&bytes);
            let _ = read_assignment(&bytes);
        }
    }

    #[test]
    fn a_subscription_is_written_as_kafkas_own_consumer_writes_it() {
        let subscription = Subscription {
            topics: vec!["ev".into()],
            owned: vec![TopicPartition::new("ev", 0), TopicPartition::new("ev", 3)],
            generation: 7,
        };
        // Version 2; one topic "ev"; no user data; one owned topic "ev" with the partitions 0 and 3; generation 7.
        let expected: &[u8] = &[
            0, 2, 0, 0, 0, 1, 0, 2, b'e', b'v', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 2, b'e', b'v', 0, 0,
            0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 7,
        ];
        assert_eq!(&*subscription.write(), expected);
    }

    #[test]
    fn a_subscription_of_a_newer_version_is_read_as_far_as_it_is_known() {
        let subscription = Subscription { topics: vec!["ev".into()], owned: Vec::new(), generation: 7 };
        let mut newer = BytesMut::from(&*subscription.write());
        newer[1] = 9;
        newer.extend_from_slice(&[0xff, 0xff, 1, 2, 3]);
        assert_eq!(Subscription::read(&newer.freeze()), Ok(subscription));
    }
}
