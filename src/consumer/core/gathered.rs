//! Records of a partition that were read and wait for their batch.

use std::collections::VecDeque;

use super::Item;

/// Records in the order of their offsets, in the pieces in which they came: to add some moves none of the others.
#[derive(Debug)]
pub(super) struct Gathered<P> {
    pieces: VecDeque<VecDeque<Item<P>>>,
    len: usize,
    bytes: usize,
}

impl<P> Default for Gathered<P> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), len: 0, bytes: 0 }
    }
}

impl<P> Gathered<P> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of the first.
    pub(super) fn first(&self) -> Option<i64> {
        Some(self.pieces.front()?.front()?.offset)
    }

    pub(super) fn push(&mut self, items: Vec<Item<P>>) {
        if !items.is_empty() {
            self.len += items.len();
            self.bytes += items.iter().map(|item| item.bytes).sum::<usize>();
            self.pieces.push_back(items.into());
        }
    }

    /// Takes the first ones: at most `rows`, and no more than `bytes_max` bytes unless the first alone has more. Their
    /// bytes come with them.
    pub(super) fn take(&mut self, rows: usize, bytes_max: usize) -> (Vec<Item<P>>, usize) {
        let (mut count, mut bytes) = (0, 0);
        for item in self.pieces.iter().flatten().take(rows) {
            if count > 0 && bytes + item.bytes > bytes_max {
                break;
            }
            bytes += item.bytes;
            count += 1;
        }
        self.len -= count;
        self.bytes -= bytes;
        if self.pieces.front().is_some_and(|piece| piece.len() == count) {
            return (self.pieces.pop_front().unwrap_or_default().into(), bytes);
        }
        let mut taken = Vec::with_capacity(count);
        while let Some(mut piece) = self.pieces.pop_front() {
            let wanted = piece.len().min(count - taken.len());
            taken.extend(piece.drain(..wanted));
            if !piece.is_empty() {
                self.pieces.push_front(piece);
                break;
            }
        }
        (taken, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::consumer::core::Verdict;
    use crate::event::ErrorKind;

    fn item(offset: i64, bytes: usize) -> Item<()> {
        Item { offset, bytes, verdict: Verdict::Refused(ErrorKind::InvalidJson), payload: () }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_a_plain_list_would_give(
            steps in prop::collection::vec((prop::collection::vec(1usize..10, 0..5), 0usize..8, 0usize..30), 1..40),
        ) {
            let (mut gathered, mut plain) = (Gathered::default(), Vec::new());
            let mut offset = 0;
            for (pushed, rows, bytes_max) in steps {
                let items: Vec<(i64, usize)> = pushed.into_iter().map(|bytes| { offset += 1; (offset, bytes) }).collect();
                plain.extend(items.clone());
                gathered.push(items.into_iter().map(|(offset, bytes)| item(offset, bytes)).collect());
                let mut expected = Vec::new();
                let mut total = 0;
                while let Some((_, bytes)) = plain.first()
                    && expected.len() < rows
                    && (expected.is_empty() || total + bytes <= bytes_max)
                {
                    total += bytes;
                    expected.push(plain.remove(0));
                }
                let (taken, bytes) = gathered.take(rows, bytes_max);
                let taken: Vec<(i64, usize)> = taken.iter().map(|item| (item.offset, item.bytes)).collect();
                prop_assert_eq!((taken, bytes), (expected, total));
                prop_assert_eq!(gathered.len(), plain.len());
                prop_assert_eq!(gathered.is_empty(), plain.is_empty());
                prop_assert_eq!(gathered.bytes(), plain.iter().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert_eq!(gathered.first(), plain.first().map(|(offset, _)| *offset));
            }
        }
    }
}
