//! FlexFlow on a real Kafka.

mod harness;
