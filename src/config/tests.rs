//! The reference and the sections agree, every way to set a key works, and every mistake is told in full.

use std::fmt::Write as _;

use secrecy::ExposeSecret;
use toml::Value;

use super::*;

/// Another value of the same form, as a variable or a flag would say it.
fn another(key: &str, default: &Value) -> String {
    match (key, default) {
        // The other one needs to know the brokers.
        ("eventlog.kind", _) => "embedded".to_owned(),
        ("eventlog.kafka.bootstrap_servers", _) => "k1:9092,k2:9092".to_owned(),
        ("eventlog.kafka.compression", _) => "lz4".to_owned(),
        ("eventlog.kafka.sasl.mechanism", _) => "PLAIN".to_owned(),
        ("log.format", _) => "json".to_owned(),
        ("log.level", _) => "debug".to_owned(),
        ("store.url", _) => "clickhouse://db:9000".to_owned(),
        ("meta.url", _) => "sqlite://elsewhere.db".to_owned(),
        ("server.trusted_proxies", _) => "10.0.0.1,fd00::1".to_owned(),
        ("auth.registration", _) => "open".to_owned(),
        (
            "auth.signing_key" | "auth.previous_signing_key" | "meta.secret_key" | "meta.previous_secret_key",
            _,
        ) => "k".repeat(32),
        ("eventlog.retention_bytes", _) => "1 GiB".to_owned(),
        ("server.listen", _) => "127.0.0.1:8081".to_owned(),
        ("server.cors_origins", _) => "https://a.example,https://b.example:444".to_owned(),
        ("consumer.sources", _) => "[{ topic = \"clicks\", decoder = \"flexprice\" }]".to_owned(),
        ("auth.static_keys", _) => format!(
            "[{{ sha256 = \"{}\", project_id = \"p\", environment_id = \"e\", scopes = [\"query\"] }}]",
            "ab".repeat(32)
        ),
        (_, Value::Boolean(set)) => (!set).to_string(),
        (_, Value::Integer(number)) => (number + 1).to_string(),
        (_, Value::Float(number)) => (number / 2.0).to_string(),
        (_, Value::String(text)) => match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => {
                humantime::format_duration(duration + std::time::Duration::from_millis(1)).to_string()
            }
            _ => match text.parse::<bytesize::ByteSize>() {
                Ok(size) => format!("{} B", size.0 + 1),
                Err(_) => format!("{text}x"),
            },
        },
        (_, other) => panic!("no other value for {key} = {other}"),
    }
}

fn seen(config: &Config) -> String {
    let secrets = [
        &config.store.password,
        &config.store.reader_password,
        &config.eventlog.kafka.sasl.password,
        &config.auth.signing_key,
        &config.auth.previous_signing_key,
        &config.meta.secret_key,
        &config.meta.previous_secret_key,
    ];
    format!("{config:?} {:?}", secrets.map(|secret| secret.expose_secret().to_owned()))
}

#[test]
fn every_key_of_the_reference_is_a_field_and_none_is_missing() {
    for key in keys::reference().unwrap().keys() {
        let mut root = REFERENCE.parse::<toml::Table>().unwrap();
        let mut table = &mut root;
        let (sections, name) = key.rsplit_once('.').unwrap_or(("", key));
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            table = table[section].as_table_mut().unwrap();
        }
        table.remove(name).unwrap();
        let error = Value::Table(root).try_into::<Config>().unwrap_err();
        assert!(error.to_string().contains(&format!("missing field `{name}`")), "{key}: {error}");
    }
}

#[test]
fn every_key_has_a_variable_and_a_flag_that_change_what_the_program_sees() {
    let default = seen(&load(&Sources::default()).unwrap().config);
    for (key, value) in keys::reference().unwrap() {
        let text = another(&key, &value);
        let variable = keys::variable(&key);
        let mut sources = Sources::default();
        if key == "store.cluster" {
            // It is one of servers.
            sources.variable("FLEXFLOW_STORE__URL", "clickhouse://db:9000");
        }
        let mut flags = sources.clone();
        let by_variable = load(sources.variable(&variable, &text)).unwrap_or_else(|e| panic!("{e}"));
        if key != "eventlog.kind" {
            assert_ne!(seen(&by_variable.config), default, "{variable}={text}");
        }
        let setting = by_variable.settings.iter().find(|setting| setting.key == key).unwrap();
        assert_eq!(setting.origin, Origin::Environment(variable));
        let by_flag = load(flags.set("--set", &key, &text)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(seen(&by_flag.config), seen(&by_variable.config), "{key}={text}");
    }
}

#[test]
fn every_key_can_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.toml");
    std::fs::write(&path, REFERENCE).unwrap();
    let loaded = load(Sources::default().file(&path)).unwrap();
    assert!(loaded.settings.iter().all(|setting| setting.origin == Origin::File(path.clone())));
}

#[test]
fn a_later_source_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (base, over) = (dir.path().join("base.toml"), dir.path().join("over.toml"));
    std::fs::write(
        &base,
        "[consumer]\ngroup_id = \"base\"\ndlq_topic = \"base\"\nlanes = 1\n[log]\nlevel = \"warn\"\n",
    )
    .unwrap();
    std::fs::write(&over, "[consumer]\ngroup_id = \"over\"\n").unwrap();
    let mut sources = Sources::default();
    sources.file(&base).file(&over);
    sources.variable("CONSUMER_DLQ_TOPIC", "legacy").variable("FLEXFLOW_CONSUMER__LANES", "2");
    sources.set("--set", "consumer.lanes", "3");
    let loaded = load(&sources).unwrap();
    let consumer = &loaded.config.consumer;
    assert_eq!((&*consumer.group_id, &*consumer.dlq_topic, consumer.lanes), ("over", "legacy", 3));
    assert_eq!(loaded.config.log.level, "warn");
}

#[test]
fn a_name_of_the_old_runbooks_works_and_loses_against_ours() {
    for (old, key) in keys::LEGACY_VARIABLES {
        let default = keys::reference().unwrap()[*key].clone();
        let text = another(key, &default);
        let loaded = load(Sources::default().variable(*old, &text)).unwrap();
        let setting = loaded.settings.iter().find(|setting| setting.key == *key).unwrap();
        assert_eq!(setting.origin, Origin::Environment((*old).to_owned()));

        let mut both = Sources::default();
        let own = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        both.variable(keys::variable(key), own).variable(*old, &text);
        let loaded = load(&both).unwrap();
        let setting = loaded.settings.iter().find(|setting| setting.key == *key).unwrap();
        assert_eq!(
            (setting.shown.clone(), setting.origin.clone()),
            (default, Origin::Environment(keys::variable(key)))
        );
    }
}

#[test]
fn a_secret_comes_from_a_file_without_its_line_end_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    std::fs::write(&path, "hunter2\n").unwrap();
    let loaded = load(Sources::default().variable("FLEXFLOW_STORE__PASSWORD_FILE", &path)).unwrap();
    assert_eq!(loaded.config.store.password.expose_secret(), "hunter2");
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn variables_of_the_client_of_children_and_of_others_are_no_mistake() {
    let mut sources = Sources::default();
    sources.variable("FLEXFLOW_URL", "http://elsewhere").variable("FLEXFLOW_API_KEY", "ff_x");
    sources.variable("FLEXFLOW_INTERNAL_ENGINE", "1").variable("PATH", "/bin");
    load(&sources).unwrap();
}

#[test]
fn what_is_printed_by_default_is_a_contract() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let mut text = String::new();
    for Setting { key, shown, origin } in loaded.settings {
        writeln!(text, "{key} = {shown} ({origin})").unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn listening_beyond_this_machine_is_allowed_with_a_warning() {
    let loaded = load(Sources::default().set("--listen", "server.listen", "0.0.0.0:8080")).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
}

fn told(sources: &Sources) -> String {
    load(sources).unwrap_err().to_string()
}

#[test]
fn an_unknown_name_is_told_with_its_place_and_the_nearest_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.toml");
    std::fs::write(
        &path,
        "dataa_dir = \"x\"\nlisten = \"x\"\n[consumer]\nbatch_row_max = 1\n[consumers]\nx = 1\n",
    )
    .unwrap();
    let mut sources = Sources::default();
    sources.file(&path);
    sources.variable("FLEXFLOW_SERVER_LISTEN", "x").variable("FLEXFLOW_TOPICS__EVENTS_FILE", "/x");
    sources.variable("FLEXFLOW_QQQ", "x");
    sources.set("--set", "store.passwort", "x");
    let text = told(&sources).replace(&*path.to_string_lossy(), "wrong.toml");
    insta::assert_snapshot!(text);
}

#[test]
fn a_value_of_the_wrong_type_or_unit_is_told_with_what_would_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.toml");
    std::fs::write(&path, "server = 5\n[eventlog]\npartitions = \"four\"\nretention_age = 7\n[capture]\nrequire_api_key = \"yes\"\n").unwrap();
    let mut sources = Sources::default();
    sources.file(&path).variable("FLEXFLOW_CONSUMER__LANES", "two");
    sources.set("--set", "server.cors_origins", "[1").set("--set", "consumer.flood_ratio_max", "half");
    let types = told(&sources).replace(&*path.to_string_lossy(), "wrong.toml");

    let mut sources = Sources::default();
    sources.variable("FLEXFLOW_SERVER__LISTEN", "localhost").variable("FLEXFLOW_QUERY__TIMEOUT", "30");
    sources.variable("FLEXFLOW_QUERY__MEMORY_MAX", "2 Gigs").variable("FLEXFLOW_EVENTLOG__KIND", "pulsar");
    sources.variable("FLEXFLOW_CONSUMER__LANES", "-1").variable("FLEXFLOW_CONSUMER__METRICS_PORT", "65536");
    sources.variable("FLEXFLOW_EVENTLOG__RETENTION_BYTES", "much");
    sources.set("--set", "auth.static_keys", "[{ sha256 = 1 }]").set("--set", "log.format", "xml");
    insta::assert_snapshot!(format!("{types}\n---\n{}", told(&sources)));
}

#[test]
fn limits_that_make_no_sense_are_told_all_at_once() {
    let mut sources = Sources::default();
    for (key, value) in [
        ("data_dir", ""),
        ("server.cors_origins", "app.example.com"),
        ("server.history_interval", "2m"),
        ("server.history_retention", "30m"),
        ("server.history_rows_max", "0"),
        ("capture.batch_events_max", "0"),
        ("capture.inflated_bytes_max", "1 MiB"),
        ("capture.properties_bytes_max", "3 MiB"),
        ("eventlog.partitions", "0"),
        ("eventlog.retention_age", "0s"),
        ("consumer.batch_rows_max", "0"),
        ("consumer.backoff_max", "1ms"),
        ("consumer.flood_ratio_max", "1.5"),
        ("consumer.dlq_topic", "events"),
        ("topics.events", "events"),
        ("consumer.group_id", " "),
        (
            "consumer.sources",
            "[{ topic = \"raw_events\", decoder = \"raw\" }, { topic = \"a/b\", decoder = \"flexprice\", project_id = \"p\" }]",
        ),
        ("store.url", "http://db:8123"),
        ("store.database", "a-b"),
        ("meta.url", "mysql://x"),
        ("log.level", "loud,flexflow=debug"),
        (
            "auth.static_keys",
            "[{ sha256 = \"zz\", project_id = \"\", environment_id = \"e\", scopes = [\"write\"] }]",
        ),
    ] {
        sources.set("--set", key, value);
    }
    insta::assert_snapshot!(told(&sources));
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.toml");
    std::fs::write(&path, "[server\nlisten = 1").unwrap();
    let mut sources = Sources::default();
    sources.file(&path).file(dir.path().join("absent.toml"));
    insta::assert_snapshot!(told(&sources).replace(&*dir.path().to_string_lossy(), "/dir"));
}

#[test]
fn a_secret_given_twice_or_in_an_error_stays_secret() {
    let mut sources = Sources::default();
    sources
        .variable("FLEXFLOW_STORE__PASSWORD", "hunter2")
        .variable("FLEXFLOW_STORE__PASSWORD_FILE", "/dev/null");
    let twice = told(&sources);
    assert!(twice.contains("FLEXFLOW_STORE__PASSWORD is set too"), "{twice}");
    let refused = told(Sources::default().set("--set", "store.url", "http://user:hunter2@db"));
    assert!(refused.contains("http://user:***@db") && !refused.contains("hunter2"), "{refused}");
}

#[test]
fn overrides_are_the_short_way_for_tests() {
    let config = Config::from_overrides(&[("server.listen", "127.0.0.1:0"), ("data_dir", "/tmp/x")]).unwrap();
    assert_eq!((config.server.listen.port(), config.data_dir.to_str()), (0, Some("/tmp/x")));
    assert!(Config::from_overrides(&[("server.port", "1")]).is_err());
}
