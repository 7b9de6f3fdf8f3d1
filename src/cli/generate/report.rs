//! What came of it: counts, speed, and how long requests took, in bounded memory.

use std::time::Duration;

use serde::Serialize;

use crate::demo::Kind;

/// Each bucket is this much wider than the one before it: a quantile is right within 2 %.
const GROWTH: f64 = 1.02;
/// Up to 1.02^1100 µs, nearly an hour.
const BUCKETS: usize = 1100;

/// Latencies of any number of requests.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, latency: Duration) {
        let micros = latency.as_secs_f64() * 1e6;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let bucket = (micros.max(1.0).ln() / GROWTH.ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
    }

    /// The latency that this share of requests did not exceed, in milliseconds.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rank to within 2^53 requests")]
        let rank = (self.count as f64 * share).ceil();
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            if below > 0 && below as f64 >= rank {
                #[expect(clippy::cast_precision_loss, reason = "below BUCKETS")]
                let micros = GROWTH.powf(bucket as f64 + 0.5);
                return (micros / 10.0).round() / 100.0;
            }
        }
        0.0
    }
}

/// What was meant, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    pub duplicates: u64,
    pub invalid: u64,
    pub late: u64,
}

impl Kinds {
    pub(super) fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Good => {}
            Kind::Late => self.late += 1,
            Kind::Duplicate => self.duplicates += 1,
            Kind::Invalid => self.invalid += 1,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.duplicates += other.duplicates;
        self.invalid += other.invalid;
        self.late += other.late;
    }
}

/// The tally while sending.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Events of batches that got an answer.
    pub sent: u64,
    pub accepted: u64,
    pub rejected: u64,
    /// Events of batches that were given up.
    pub unsent: u64,
    pub kinds: Kinds,
    pub requests: u64,
    pub retries: u64,
    pub latencies: Latencies,
    /// Why batches were given up: the first reason.
    pub failure: Option<String>,
    /// Why an item was rejected: the first few messages that differ.
    pub reasons: Vec<String>,
}

/// The summary, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub seed: u64,
    pub sent: u64,
    pub accepted: u64,
    pub rejected: u64,
    /// Given up: not answered within the patience.
    pub unsent: u64,
    pub duplicates_intended: u64,
    pub invalid_intended: u64,
    pub late_intended: u64,
    pub requests: u64,
    pub retries: u64,
    pub seconds: f64,
    pub events_per_second: f64,
    pub latency_ms: Quantiles,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

impl Tally {
    pub(super) fn summary(&self, seed: u64, elapsed: Duration) -> Summary {
        let seconds = elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.sent as f64 / seconds.max(0.001);
        Summary {
            seed,
            sent: self.sent,
            accepted: self.accepted,
            rejected: self.rejected,
            unsent: self.unsent,
            duplicates_intended: self.kinds.duplicates,
            invalid_intended: self.kinds.invalid,
            late_intended: self.kinds.late,
            requests: self.requests,
            retries: self.retries,
            seconds: (seconds * 1000.0).round() / 1000.0,
            events_per_second: rate.round(),
            latency_ms: Quantiles {
                p50: self.latencies.quantile_ms(0.5),
                p99: self.latencies.quantile_ms(0.99),
            },
            reasons: self.reasons.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_two_per_cent() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|ms| latencies.add(Duration::from_millis(ms)));
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let told = latencies.quantile_ms(share);
            assert!((told / exact - 1.0).abs() < 0.02, "{share}: {told}");
        }
        assert!(Latencies::default().quantile_ms(0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn a_latency_beyond_all_buckets_is_counted_in_the_last() {
        let mut latencies = Latencies::default();
        latencies.add(Duration::from_secs(1_000_000));
        assert!(latencies.quantile_ms(0.5) > 1e6);
    }
}
