//! How many events came in, over time, and how far the store is behind the log.

use super::Metering;
use std::sync::Arc;
use std::time::Duration;

use super::rows::{Which, window};
use super::window::Windows;
use crate::event::{Scope, Timestamp};
use crate::eventlog::{LogError, TopicPartition};
use crate::http::Problem;

/// How far back tombstones of a sweep that has just run are looked for: clocks differ, and sweeps take their time.
const SWEPT_BACK: Duration = Duration::from_secs(3600);

/// Counts of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Monitored {
    pub total: u64,
    /// Windows that have events.
    pub points: Vec<(Timestamp, u64)>,
    /// Records that are not stored yet; or why that is not known.
    pub lag: Result<i64, String>,
    /// Records that are not handed on, or not processed after that.
    pub post_processing_lag: Result<i64, String>,
}

impl Metering {
    /// Counts the events of a range.
    pub(super) async fn monitor(
        &self,
        scope: &Scope,
        (from, end): (Timestamp, Timestamp),
        windows: Option<&Windows>,
    ) -> Result<Monitored, Problem> {
        let max = self.limits.buckets_max;
        let bounds = match windows {
            None => vec![from, end],
            Some(windows) => {
                let last = Timestamp::from_millis(end.as_millis() - 1);
                windows.bounds(from, last, max).map_err(|_| {
                    let message = format!(
                        "the range has more than {max} windows (query.buckets_max): take a larger window"
                    );
                    Problem::invalid("window_size", message)
                        .with("max", max)
                        .with("setting", "query.buckets_max")
                })?
            }
        };
        let starts: Vec<i64> = bounds[..bounds.len() - 1].iter().map(|at| at.as_millis()).collect();
        let which = Which {
            scope,
            event_name: None,
            from,
            end,
            filters: Vec::new(),
            external_customer_id: None,
            customer_id: None,
            sources: &[],
            as_of: None,
        };
        let columns = window(&starts).push(" AS window_start, count() AS window_events");
        let sql = which.select(&columns).push(" GROUP BY window_start ORDER BY window_start");
        let rows: Vec<(i64, u64)> = self.select(sql).await?;
        let total = rows.iter().map(|(_, events)| events).sum();
        let points =
            rows.into_iter().map(|(start, events)| (Timestamp::from_millis(start), events)).collect();
        let (lag, post_processing_lag) =
            tokio::join!(self.in_time(self.lag()), self.in_time(self.post_processing_lag()));
        let post_processing_lag = post_processing_lag.and_then(|lag| {
            lag.ok_or_else(|| {
                "nothing processes events after they are stored: post_processing.enabled".to_owned()
            })
        });
        let points = if windows.is_some() { points } else { Vec::new() };
        Ok(Monitored { total, points, lag, post_processing_lag })
    }

    /// What the log answers, or why it does not.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, LogError>>) -> Result<T, String> {
        match tokio::time::timeout(self.limits.timeout, asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the event log did not answer in time".to_owned()),
        }
    }

    /// Prepares a total that is called final: hides resends that nobody has compared yet, and finds out whether the store
    /// has everything that was accepted. Answers the moment that the total is of, or why it cannot be final.
    ///
    /// # Errors
    /// 503: the store does not answer.
    pub(super) async fn finalize(&self, from: Timestamp) -> Result<Result<Timestamp, String>, Problem> {
        match self.in_time(self.unstored()).await {
            Ok(0) => {}
            Ok(lag) => {
                return Ok(Err(format!("{lag} records that were accepted are not stored yet: ask again")));
            }
            Err(reason) => return Ok(Err(reason)),
        }
        self.store.sweep(from, None).await.map_err(super::store_problem)?;
        if self.config.tracking {
            self.store.mirror_tombstones(self.now().minus(SWEPT_BACK)).await.map_err(super::store_problem)?;
        }
        Ok(Ok(self.now()))
    }

    /// Records that were accepted and are not stored: raw events and those that were reprocessed, too. In the order in
    /// which events go on, so that none is passed over in between.
    async fn unstored(&self) -> Result<i64, LogError> {
        let mut left = 0;
        let (raw, raw_group) = &self.raw;
        let [_, (output, output_group, _)] = &self.tracked_topics;
        for (topic, group) in [(raw, raw_group), (output, output_group)] {
            left += match self.lag_of(topic, group).await {
                // Nothing waits in a topic that there is not.
                Err(LogError::TopicMissing(_)) => 0,
                other => other?,
            };
        }
        Ok(left + self.lag().await?)
    }

    /// Records of the events topic that the store stage has not committed.
    async fn lag(&self) -> Result<i64, LogError> {
        self.lag_of(&self.events_topic, &self.events_group).await
    }

    /// Records that are stored, or will be, and not processed after that; none: nothing does so.
    async fn post_processing_lag(&self) -> Result<Option<i64>, LogError> {
        let Some([topic, handing_on, reading]) = &self.post_processing else { return Ok(None) };
        let waits = self.lag_of(&self.events_topic, handing_on).await?;
        Ok(Some(waits + self.lag_of(topic, reading).await?))
    }

    async fn lag_of(&self, topic: &Arc<str>, group: &str) -> Result<i64, LogError> {
        let topics = self.log.topics().await?;
        let committed = self.log.committed(group).await?;
        let Some(topic) = topics.into_iter().find(|found| found.name == *topic) else {
            return Err(LogError::TopicMissing(topic.clone()));
        };
        let lags = (0..).zip(&topic.partitions).map(|(partition, ends)| {
            let at = committed.get(&TopicPartition::new(topic.name.clone(), partition)).copied();
            (ends.end - at.unwrap_or(0).max(ends.log_start)).max(0)
        });
        Ok(lags.sum())
    }
}
