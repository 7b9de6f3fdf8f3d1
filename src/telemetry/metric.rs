//! What a metric is, and the one recorder of the process.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::names;

/// Counter, gauge or histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With these upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// A metric's name, kind, labels and help. Make handles once and keep them: looking one up allocates.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Metric {
    /// The counter with these labels (all that the metric names, no others).
    pub fn counter(&self, labels: &[(&'static str, &str)]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        metrics::counter!(self.name, self.labels(labels))
    }

    /// The gauge with these labels.
    pub fn gauge(&self, labels: &[(&'static str, &str)]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        metrics::gauge!(self.name, self.labels(labels))
    }

    /// The histogram with these labels.
    pub fn histogram(&self, labels: &[(&'static str, &str)]) -> Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)), "{}", self.name);
        metrics::histogram!(self.name, self.labels(labels))
    }

    fn labels(&self, labels: &[(&'static str, &str)]) -> Vec<Label> {
        debug_assert!(labels.iter().map(|(name, _)| name).eq(self.labels.iter()), "labels of {}", self.name);
        labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
    }
}

/// The process's recorder of metrics; the text of `/metrics` comes from it.
#[derive(Clone)]
pub struct Recorder(PrometheusHandle);

impl Recorder {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// The series of these metrics with what they are now: name, labels as they are written, value.
    pub fn series(&self, wanted: &[&Metric]) -> Vec<(&'static str, String, f64)> {
        series(&self.render(), wanted)
    }

    /// Drops old samples of histograms; called every few seconds.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn series(text: &str, wanted: &[&Metric]) -> Vec<(&'static str, String, f64)> {
    let read = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let metric = wanted.iter().find(|metric| metric.name == name)?;
        Some((metric.name, labels.strip_suffix('}')?.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

/// Installs the recorder on first use; the same one ever after. Call it before any handle is made: handles made
/// earlier count nowhere.
///
/// # Errors
/// Another recorder is installed already.
pub fn recorder() -> anyhow::Result<Recorder> {
    static RECORDER: OnceLock<Recorder> = OnceLock::new();
    if let Some(recorder) = RECORDER.get() {
        return Ok(recorder.clone());
    }
    static INSTALL: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = INSTALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(recorder) = RECORDER.get() {
        return Ok(recorder.clone());
    }
    let mut builder = PrometheusBuilder::new();
    for metric in names::ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let handle = builder.install_recorder()?;
    for metric in names::ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    begin_at_zero();
    Ok(RECORDER.get_or_init(|| Recorder(handle)).clone())
}

/// See [`names::FROM_ZERO`].
fn begin_at_zero() {
    for metric in names::ALL.iter().filter(|metric| metric.kind == Kind::Counter && metric.labels.is_empty())
    {
        metric.counter(&[]).increment(0);
    }
    for (metric, values) in names::FROM_ZERO {
        for value in *values {
            let labels: Vec<_> = metric.labels.iter().map(|label| (*label, *value)).collect();
            metric.counter(&labels).increment(0);
        }
    }
}

/// What a test counts, apart from all others.
#[cfg(test)]
pub struct Counted(metrics_exporter_prometheus::PrometheusRecorder);

#[cfg(test)]
impl Counted {
    /// Nothing so far.
    pub fn begin() -> Self {
        Self(PrometheusBuilder::new().build_recorder())
    }

    /// Counts what this thread does, until the guard is dropped.
    pub fn here(&self) -> metrics::LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(&self.0)
    }

    /// As [`Recorder::render`].
    pub fn render(&self) -> String {
        self.0.handle().render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_read_as_it_is_written() {
        let text = "# TYPE breaker_state gauge\nbreaker_state{dependency=\"a log\"} 1\nbreaker_state_of 5\n\nup_total 3\n";
        let found = |name: &'static str| {
            let metric = Metric { name, kind: Kind::Gauge, labels: &[], help: "" };
            series(text, &[&metric])
        };
        assert_eq!(found("breaker_state"), [("breaker_state", "dependency=\"a log\"".to_owned(), 1.0)]);
        assert_eq!(found("up_total"), [("up_total", String::new(), 3.0)]);
        assert_eq!(found("up"), []);
    }
}
