//! Prometheus' text format, read: samples by metric and labels.

use std::collections::BTreeMap;

/// The labels of a sample.
type Labels = BTreeMap<String, String>;

/// What `/metrics` answered, of one process or of several together.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Samples(BTreeMap<String, Vec<(Labels, f64)>>);

impl Samples {
    /// Lines that are no samples are passed over.
    pub(super) fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, labels, value)) = sample(line) {
                samples.0.entry(name).or_default().push((labels, value));
            }
        }
        samples
    }

    /// Another process's samples beside these.
    pub(super) fn add(&mut self, other: Self) {
        for (name, more) in other.0 {
            self.0.entry(name).or_default().extend(more);
        }
    }

    /// The sum over all labels.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// Sums by one label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.of(name) {
            *sums.entry(labels.get(label).map_or("", String::as_str)).or_default() += value;
        }
        sums
    }

    /// The greatest by one label.
    pub(super) fn greatest_by(&self, name: &str, label: &str) -> BTreeMap<&str, f64> {
        let mut found: BTreeMap<&str, f64> = BTreeMap::new();
        for (labels, value) in self.of(name) {
            let known = found.entry(labels.get(label).map_or("", String::as_str)).or_insert(f64::MIN);
            *known = known.max(*value);
        }
        found
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &(Labels, f64)> {
        self.0.get(name).into_iter().flatten()
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), labels, value))
}

/// What stands between the braces, and what follows them.
fn labels(text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = quoted.get(end..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# TYPE a counter\na 1\nb{x=\"1\",y=\"p,\\\"}\\n\"} 2.5\nb{x=\"2\"} 4 1700000000\nnonsense\n\nc{x=\"\n";
        let samples = Samples::parse(text);
        assert!((samples.sum("a") - 1.0).abs() < f64::EPSILON);
        assert!((samples.sum("b") - 6.5).abs() < f64::EPSILON);
        assert_eq!(samples.by("b", "x"), BTreeMap::from([("1", 2.5), ("2", 4.0)]));
        assert_eq!(samples.by("b", "y"), BTreeMap::from([("p,\"}\n", 2.5), ("", 4.0)]));
        assert!(samples.by("c", "x").is_empty() && samples.by("d", "x").is_empty());
    }

    #[test]
    fn another_process_is_counted_together_with_this_one() {
        let mut samples = Samples::parse("a{x=\"1\"} 1\n");
        samples.add(Samples::parse("a{x=\"1\"} 2\nz 5\n"));
        assert_eq!(samples.by("a", "x"), BTreeMap::from([("1", 3.0)]));
        assert_eq!(samples.greatest_by("a", "x"), BTreeMap::from([("1", 2.0)]));
        assert!((samples.sum("z") - 5.0).abs() < f64::EPSILON);
    }
}
