//! What goes wrong.

use std::time::Duration;

use super::broker::TOPIC;
use super::process::Request;
use super::world::Late;
use super::*;

impl World {
    /// One of the late things lands, or is lost for good.
    pub(super) fn land(&mut self) -> Result<(), String> {
        if self.late.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.late.len());
        match self.late.swap_remove(index) {
            Late::Insert { token, rows } if self.rng.percent(80) => {
                self.store.insert(&token, &rows, None);
            }
            Late::Commit { member, generation, offsets } if self.rng.percent(80) => {
                self.commit(member, generation, &offsets)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn fault(&mut self) -> Result<(), String> {
        let number = self.rng.below(self.processes.len());
        match self.rng.below(100) {
            0..14 => self.crash(number),
            14..24 => self.processes[number].asleep = true,
            24..36 => self.processes[number].asleep = false,
            36..48 => self.land()?,
            48..54 => self.rebalance(),
            54..62 => self.complete_rebalance(),
            62..64 => self.expel_dead(),
            64..68 => self.store.down = !self.store.down,
            68..70 => self.broker.letters_down = !self.broker.letters_down,
            70..72 => self.broker.down = !self.broker.down,
            72..77 => self.store.expire_tokens(&mut self.rng),
            77..80 => self.expel(number),
            80..84 => self.retention(),
            84..87 => self.recreate(),
            87..91 => self.deploy()?,
            91..94 => self.resume(),
            94..97 => self.processes[number].inbox.push_back(Input::Stop),
            _ => {
                let jump = Duration::from_secs(self.rng.below(3600) as u64);
                self.now.wall =
                    if self.rng.percent(50) { self.now.wall.plus(jump) } else { self.now.wall.minus(jump) };
            }
        }
        Ok(())
    }

    /// What was sent may still arrive after the sender is gone.
    pub(super) fn crash(&mut self, number: usize) {
        for request in std::mem::take(&mut self.processes[number].requests) {
            match request {
                Request::Insert { batch, rows, token, .. } => {
                    let rows = self.rows(number, &batch, &rows);
                    self.late.push(Late::Insert { token, rows });
                }
                Request::Commit { member, generation, offsets, .. } => {
                    self.late.push(Late::Commit { member, generation, offsets });
                }
                _ => {}
            }
        }
        if self.rng.percent(70) {
            let member = self.processes[number].member;
            self.broker.expel(member);
        }
        self.processes[number] = self.start();
    }

    /// The group gives a member up that it has not heard of.
    pub(super) fn expel(&mut self, number: usize) {
        let member = self.processes[number].member;
        self.broker.expel(member);
        self.lose_all(member);
        self.rebalance();
    }

    /// Members that crashed send no heartbeats.
    pub(super) fn expel_dead(&mut self) {
        for member in self.broker.members.clone() {
            if !self.processes.iter().any(|process| process.member == member) {
                self.broker.expel(member);
            }
        }
        self.rebalance();
    }

    pub(super) fn retention(&mut self) {
        let number = self.rng.below(self.broker.partitions.len());
        let partition = &mut self.broker.partitions[number];
        let span = partition.records.len() as i64 - partition.log_start;
        let log_start = partition.log_start + self.rng.below(span as usize / 2 + 1) as i64;
        for offset in partition.committed.unwrap_or(0).max(partition.log_start)..log_start {
            partition.expired.insert(offset);
        }
        partition.log_start = log_start;
    }

    /// The topic is deleted and made again: all positions are void, and the group begins anew.
    pub(super) fn recreate(&mut self) {
        let partitions = self.broker.partitions.len();
        self.broker.create(partitions);
        self.broker.preparing = None;
        self.broker.generation += 1;
        for member in self.broker.members.clone() {
            let process = self.processes.iter_mut().find(|process| process.member == member);
            if let Some(process) = process {
                process.inbox.push_back(Input::TopicMissing { topic: TOPIC.into() });
                process.inbox.push_back(Input::TopicBack { topic: TOPIC.into() });
            }
        }
        self.rebalance();
    }

    /// All processes end, what they sent is settled, and a version starts whose mapper makes other sort keys.
    pub(super) fn deploy(&mut self) -> Result<(), String> {
        for number in 0..self.processes.len() {
            self.crash(number);
        }
        while !self.late.is_empty() {
            self.land()?;
        }
        self.mapper += 1;
        for number in 0..self.processes.len() {
            let member = self.processes[number].member;
            self.broker.expel(member);
            self.processes[number] = self.start();
        }
        Ok(())
    }
}
