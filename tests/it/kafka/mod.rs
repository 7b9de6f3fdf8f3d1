//! FlexFlow on a real Kafka.

mod harness;
mod logs;
mod produce;
mod refusals;
mod start;
