//! Every key there is, taken from the compiled-in reference: its default, its variable, its secret, its nearest likeness.

use indexmap::IndexMap;
use toml::Value;

use super::{ConfigError, ConfigProblem, Origin, REFERENCE};

/// Keys whose value is never printed.
const SECRETS: &[&str] = &[
    "store.password",
    "store.reader_password",
    "eventlog.kafka.sasl.password",
    "meta.secret_key",
    "meta.previous_secret_key",
    "auth.signing_key",
    "auth.previous_signing_key",
];

/// Keys whose value may hold a password (`scheme://user:password@host`), which is never printed.
const SECRET_URLS: &[&str] = &["store.url", "meta.url"];

/// Names that the runbooks FlexFlow replaces use. They lose against the `FLEXFLOW_` name.
pub(super) const LEGACY_VARIABLES: &[(&str, &str)] = &[
    ("CAPTURE_REQUIRE_API_KEY", "capture.require_api_key"),
    ("QUERY_REQUIRE_API_KEY", "query.require_api_key"),
    ("CONSUMER_KAFKA_BOOTSTRAP_SERVERS", "eventlog.kafka.bootstrap_servers"),
    ("CAPTURE_KAFKA_BOOTSTRAP_SERVERS", "eventlog.kafka.bootstrap_servers"),
    ("CONSUMER_KAFKA_GROUP_ID", "consumer.group_id"),
    ("CONSUMER_DLQ_TOPIC", "consumer.dlq_topic"),
    ("CONSUMER_METRICS_PORT", "consumer.metrics_port"),
    ("FLEXPRICE_RAW_EVENTS_REPROCESSING_ENABLED", "reprocess.enabled"),
    ("FLEXPRICE_RAW_EVENTS_REPROCESSING_OUTPUT_TOPIC", "reprocess.output_topic"),
];

/// Variables that are not settings: where the command line finds a remote server.
const CLIENT_VARIABLES: &[&str] = &["FLEXFLOW_URL", "FLEXFLOW_API_KEY"];

/// What this program says to its own children, and what the test suite says to itself.
const INTERNAL_PREFIXES: &[&str] = &["FLEXFLOW_INTERNAL_", "FLEXFLOW_TEST_", "FLEXFLOW_SIM_"];

pub(super) const VARIABLE_PREFIX: &str = "FLEXFLOW_";

/// Below this likeness (0 to 1) a name is not worth suggesting.
const LIKENESS_MIN: f64 = 0.8;

/// Every key with its default, in the order of the reference.
pub(super) fn reference() -> Result<IndexMap<String, Value>, ConfigError> {
    fn leaves(prefix: &str, table: toml::Table, keys: &mut IndexMap<String, Value>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) => leaves(&key, inner, keys),
                leaf => {
                    keys.insert(key, leaf);
                }
            }
        }
    }
    let table = REFERENCE.parse::<toml::Table>().map_err(|error| ConfigProblem::Syntax {
        origin: Origin::Default,
        reason: error.message().to_owned(),
    })?;
    let mut keys = IndexMap::new();
    leaves("", table, &mut keys);
    Ok(keys)
}

/// `server.listen` is `FLEXFLOW_SERVER__LISTEN`.
pub(super) fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// May this variable's value come from a file (`…_FILE`)?
pub(super) fn is_secret(key: &str) -> bool {
    SECRETS.contains(&key) || SECRET_URLS.contains(&key)
}

/// Is this variable none of the configuration's business?
pub(super) fn is_foreign(variable: &str) -> bool {
    CLIENT_VARIABLES.contains(&variable)
        || INTERNAL_PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

/// The value as it may be shown: secrets are `***`.
pub(super) fn shown(key: &str, value: &Value) -> Value {
    match value {
        Value::String(text) if SECRETS.contains(&key) && !text.is_empty() => Value::String("***".to_owned()),
        Value::String(text) if SECRET_URLS.contains(&key) => Value::String(without_password(text)),
        other => other.clone(),
    }
}

/// `scheme://user:password@host` with `***` for the password; all of it is hidden if it has `@` but no such form.
fn without_password(url: &str) -> String {
    let Some(at) = url.rfind('@') else { return url.to_owned() };
    let start = url.find("://").map_or(0, |scheme| scheme + 3);
    match url.get(start..at).and_then(|login| login.find(':')) {
        Some(colon) => format!("{}:***{}", &url[..start + colon], &url[at..]),
        None if start <= at => url.to_owned(),
        None => "***".to_owned(),
    }
}

/// The name most like `given`, also when only its last part is right (`listen` for `server.listen`).
pub(super) fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let given = given.to_lowercase();
    let last =
        |name: &str| name.rsplit("__").next().and_then(|name| name.rsplit('.').next()).map(str::to_owned);
    names
        .into_iter()
        .map(|name| {
            let lower = name.to_lowercase();
            let whole = strsim::jaro_winkler(&given, &lower);
            let tail = match (last(&given), last(&lower)) {
                (Some(given), Some(name)) => strsim::jaro_winkler(&given, &name) * 0.9,
                _ => 0.0,
            };
            (strsim::normalized_damerau_levenshtein(&given, &lower), whole.max(tail), name)
        })
        .filter(|(_, likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)))
        .map(|(_, _, name)| name.to_owned())
}

/// What a value of this key looks like, told by its default.
pub(super) fn form(key: &str, default: &Value) -> String {
    match default {
        Value::Boolean(_) => "true or false".to_owned(),
        Value::Integer(example) => format!("a whole number such as {example}"),
        Value::Float(example) => format!("a number such as {example}"),
        Value::Array(_) if key == "auth.static_keys" => {
            "a list of tables with sha256, project_id, environment_id and scopes".to_owned()
        }
        Value::Array(_) if key == "consumer.sources" => {
            "a list of tables with topic, decoder (flexflow, flexprice, flexprice_raw or raw), project_id and \
             environment_id"
                .to_owned()
        }
        Value::Array(_) => "a list of texts such as [\"a\", \"b\"]".to_owned(),
        Value::String(text) => text_form(key, text),
        other => format!("a value such as {other}"),
    }
}

fn text_form(key: &str, default: &str) -> String {
    if default.parse::<std::net::SocketAddr>().is_ok() {
        format!("an address and port such as \"{default}\"")
    } else if humantime::parse_duration(default).is_ok() {
        format!("a duration such as \"{default}\"")
    } else if default.parse::<bytesize::ByteSize>().is_ok() {
        format!("a size such as \"{default}\"")
    } else if key.ends_with("_bytes") {
        "a size such as \"16 MiB\", or \"\" for none".to_owned()
    } else if default.is_empty() {
        "a text, or \"\" for none".to_owned()
    } else {
        format!("a text such as \"{default}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_hidden_and_nothing_else() {
        assert_eq!(without_password("clickhouse://u:se@cret@h:9000/d"), "clickhouse://u:***@h:9000/d");
        assert_eq!(without_password("clickhouse://h:9000"), "clickhouse://h:9000");
        assert_eq!(without_password("clickhouse://u@h:9000"), "clickhouse://u@h:9000");
        assert_eq!(without_password("a@b://"), "***");
    }

    #[test]
    fn the_nearest_name_is_found_by_its_whole_or_its_last_part() {
        let names = ["server.listen", "server.cors_origins", "store.url", "meta.url"];
        assert_eq!(nearest("servr.listen", names).as_deref(), Some("server.listen"));
        assert_eq!(nearest("listen", names).as_deref(), Some("server.listen"));
        assert_eq!(nearest("store.uri", names).as_deref(), Some("store.url"));
        assert_eq!(nearest("zzz", names), None);
    }
}
