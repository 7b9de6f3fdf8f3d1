//! Wrong addresses, wrong credentials, TLS against plaintext, and what is not allowed: one clear error each, that names
//! the setting.

use std::time::Duration;

use flexflow::config::Config;
use flexflow::eventlog::{
    EventLog, FetchFrom, FetchLimits, GroupEvent, GroupSpec, KafkaLog, LogError, TopicPartition,
};

use super::logs::{describe, open, produce_one, spec};
use crate::support::kafka::{Kafka, VERSION};

/// A password that SASLprep would turn into `paffword`: Kafka keeps it as it is, and so has whoever logs in.
const LIGATURE: &str = "pa\u{fb00}word";

/// A broker that also listens with TLS and a login, and lets `writer` do little.
pub(super) struct Guarded {
    pub(super) kafka: Kafka,
    /// `host:port` of the port with TLS and login.
    pub(super) address: String,
    pub(super) ca_file: String,
    _dir: tempfile::TempDir,
}

pub(super) async fn guarded() -> Guarded {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.pem()).unwrap();
    let inline = |pem: &str| pem.trim().replace('\r', "").replace('\n', "\\n");
    let users = "org.apache.kafka.common.security.plain.PlainLoginModule required \
                 user_admin=\"secret\" user_writer=\"pencil\" username=\"admin\" password=\"secret\";";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let properties = format!(
        "listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{{extra}},CONTROLLER://127.0.0.1:{{control}}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://localhost:{{extra}}\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config={users}\n\
         listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram}\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}\n\
         ssl.keystore.type=PEM\n\
         ssl.keystore.certificate.chain={}\n\
         ssl.keystore.key={}\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:admin\n",
        inline(&certificate.pem()),
        inline(&key.serialize_pem()),
    );
    let kafka = Kafka::start(1, VERSION, &properties).await;
    for (user, password) in [("scram", "octopus"), ("ligature", LIGATURE)] {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let add = format!("{mechanism}=[iterations=4096,password={password}]");
            let args = ["--alter", "--entity-type", "users", "--entity-name", user, "--add-config", &add];
            kafka.tool("configs", &args).await;
        }
    }
    let port: u16 = kafka.bootstrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let address = format!("localhost:{}", port + 2);
    Guarded { kafka, address, ca_file: ca_file.display().to_string(), _dir: dir }
}

async fn refused(bootstrap: &str, settings: &[(&str, &str)]) -> String {
    let log = open(bootstrap, settings);
    let begun = tokio::time::Instant::now();
    let error = log.probe().await.expect_err("refused").to_string();
    assert!(begun.elapsed() < Duration::from_secs(12), "told after {:?}", begun.elapsed());
    error
}

fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_certificates_are_checked_and_each_mistake_is_named() {
    let guarded = guarded().await;
    let Guarded { kafka, address, ca_file, .. } = &guarded;
    let login = |mechanism: &'static str, user: &'static str, password: &'static str| {
        vec![
            ("eventlog.kafka.tls", "true"),
            ("eventlog.kafka.tls_ca_file", ca_file.as_str()),
            ("eventlog.kafka.sasl.mechanism", mechanism),
            ("eventlog.kafka.sasl.username", user),
            ("eventlog.kafka.sasl.password", password),
        ]
    };
    for (mechanism, user, password) in [
        ("PLAIN", "admin", "secret"),
        ("SCRAM-SHA-256", "scram", "octopus"),
        ("SCRAM-SHA-512", "scram", "octopus"),
        ("SCRAM-SHA-256", "ligature", LIGATURE),
    ] {
        let log = open(address, &login(mechanism, user, password));
        log.probe().await.unwrap_or_else(|error| panic!("{mechanism}: {error}"));
    }
    let wrong = "eventlog.kafka.sasl.username and eventlog.kafka.sasl.password";
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let error = refused(address, &login(mechanism, "scram", "wrong")).await;
        says(&error, &["refuses the login", wrong]);
    }
    // An unbelieved certificate, TLS to a port without it, no TLS to a port with it, no login where one is needed.
    let mut strange = login("PLAIN", "admin", "secret");
    strange.remove(1);
    says(&refused(address, &strange).await, &["eventlog.kafka.tls_ca_file"]);
    says(
        &refused(kafka.bootstrap(), &login("PLAIN", "admin", "secret")).await,
        &["eventlog.kafka.tls = false"],
    );
    says(&refused(address, &[]).await, &["eventlog.kafka.tls = true"]);
    let tls_only = &login("PLAIN", "admin", "secret")[..2];
    says(&refused(address, tls_only).await, &["eventlog.kafka.sasl.mechanism"]);

    // Known, and allowed nothing: each refusal says what to run.
    let log = open(address, &login("PLAIN", "writer", "pencil"));
    let error = log.create_topics(&[spec("events", 3)]).await.unwrap_err();
    assert!(matches!(error, LogError::Forbidden(_)), "{error:?}");
    says(&error.to_string(), &["kafka-topics --bootstrap-server", "--create --topic events --partitions 3"]);
    open(kafka.bootstrap(), &[]).create_topics(&[spec("events", 3)]).await.unwrap();
    let seen = produce_one(&log, "events", "key", "value").await.unwrap_err();
    assert!(matches!(seen, LogError::Forbidden(_) | LogError::TopicMissing(_)), "{seen:?}");
    let allow = |operation: &'static str| {
        ["--add", "--allow-principal", "User:writer", "--topic", "events", "--operation", operation]
    };
    kafka.tool("acls", &allow("Describe")).await;
    let log = open(address, &login("PLAIN", "writer", "pencil"));
    let error = produce_one(&log, "events", "key", "value").await.unwrap_err();
    says(&error.to_string(), &["--operation Write"]);
    kafka.tool("acls", &allow("Write")).await;
    crate::support::eventually("what is allowed works without a restart", || async {
        let answer = produce_one(&log, "events", "key", "value").await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    groups_are_refused_and_allowed(&log, kafka).await;
}

/// The same login in a group: it may do nothing with the group, then read none of the records, then all of it.
async fn groups_are_refused_and_allowed(log: &KafkaLog, kafka: &Kafka) {
    let workers = GroupSpec {
        group: "workers".into(),
        topics: vec!["events".into()],
        client_id: "test".into(),
        instance_id: None,
    };
    let lacking = [
        "eventlog.kafka.sasl.username (writer)",
        "group workers",
        "--allow-principal User:writer --operation Read --group workers`",
    ];
    says(&log.join(workers.clone()).await.err().expect("refused").to_string(), &lacking);
    says(&log.committed("workers").await.unwrap_err().to_string(), &lacking);
    let allow = |kind: &'static str, name: &'static str| {
        ["--add", "--allow-principal", "User:writer", kind, name, "--operation", "Read"]
    };
    kafka.tool("acls", &allow("--group", "workers")).await;
    let mut member = crate::support::eventually("it may join", || async {
        log.join(workers.clone()).await.map_err(|error| error.to_string())
    })
    .await;
    let GroupEvent::Assigned { generation, partitions } = member.next().await.unwrap() else { panic!() };
    assert_eq!(partitions.len(), 3);
    let from: Vec<FetchFrom> = partitions
        .iter()
        .map(|one| FetchFrom {
            topic_partition: one.topic_partition.clone(),
            topic_id: one.topic_id,
            offset: 0,
        })
        .collect();
    let limits = FetchLimits {
        wait_max: Duration::from_millis(500),
        partition_bytes_max: 1 << 16,
        bytes_max: 1 << 20,
    };
    let unread = ["may not read topic events", "--operation Read --topic events`"];
    says(&log.fetch(&from, limits).await.unwrap_err().to_string(), &unread);
    let at = [(TopicPartition::new("events", 0), 0)].into();
    let refused = member.committer().commit(generation, &at).await.unwrap_err().to_string();
    says(&refused, &["group workers", "--operation Read --topic events`"]);
    kafka.tool("acls", &allow("--topic", "events")).await;
    crate::support::eventually("it reads and commits", || async {
        let found = log.fetch(&from, limits).await.map_err(|error| error.to_string())?;
        let commit = member.committer().commit(generation, &at).await;
        if found.is_empty() { Err("nothing".to_owned()) } else { commit.map_err(|error| error.to_string()) }
    })
    .await;
    assert_eq!(describe(log, "events").await.partitions.len(), 3);
    member.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_a_certificate_gets_one_and_who_has_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let (cert_file, key_file) =
            (dir.path().join(format!("{name}.pem")), dir.path().join(format!("{name}.key")));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let inline = |pem: &str| pem.trim().replace('\r', "").replace('\n', "\\n");
        let pems = (inline(&certificate.pem()), inline(&key.serialize_pem()));
        (pems, cert_file.display().to_string(), key_file.display().to_string())
    };
    let ((server_cert, server_key), ca_file, _) = made("localhost");
    let ((client_cert, _), cert_file, key_file) = made("flexflow");
    let (_, strange_cert, strange_key) = made("stranger");
    let properties = format!(
        "listeners=PLAINTEXT://127.0.0.1:{{port}},SSL://127.0.0.1:{{extra}},CONTROLLER://127.0.0.1:{{control}}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SSL://localhost:{{extra}}\n\
         ssl.client.auth=required\nssl.keystore.type=PEM\nssl.keystore.certificate.chain={server_cert}\n\
         ssl.keystore.key={server_key}\nssl.truststore.type=PEM\nssl.truststore.certificates={client_cert}\n"
    );
    let kafka = Kafka::start(1, VERSION, &properties).await;
    let port: u16 = kafka.bootstrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let address = format!("localhost:{}", port + 2);
    let tls = [("eventlog.kafka.tls", "true"), ("eventlog.kafka.tls_ca_file", ca_file.as_str())];
    fn shown<'a>(tls: [(&'a str, &'a str); 2], cert: &'a str, key: &'a str) -> [(&'a str, &'a str); 4] {
        [tls[0], tls[1], ("eventlog.kafka.tls_cert_file", cert), ("eventlog.kafka.tls_key_file", key)]
    }
    let log = open(&address, &shown(tls, &cert_file, &key_file));
    log.create_topics(&[spec("events", 1)]).await.unwrap();
    produce_one(&log, "events", "key", "value").await.unwrap();
    log.delete_topic("events")
        .await
        .expect("deletion goes through another client, with the same certificate");
    says(&refused(&address, &tls).await, &["certificate", "eventlog.kafka.tls_cert_file"]);
    says(
        &refused(&address, &shown(tls, &strange_cert, &strange_key)).await,
        &["certificate", "eventlog.kafka.tls_cert_file"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_or_somebody_else_listens_is_named() {
    says(&refused("127.0.0.1:1", &[]).await, &["127.0.0.1:1", "eventlog.kafka.bootstrap_servers"]);
    says(
        &refused("nowhere.invalid:9092", &[]).await,
        &["nowhere.invalid:9092", "eventlog.kafka.bootstrap_servers"],
    );
    // A web server.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
    };
    let error = tokio::select! {
        () = server => unreachable!("it serves for ever"),
        error = refused(&address, &[]) => error,
    };
    says(&error, &["no Kafka broker", "eventlog.kafka.bootstrap_servers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_give_topics_no_ids_are_told_of_the_setting() {
    let kafka = Kafka::start(1, "2.8.2", "inter.broker.protocol.version=2.7\n").await;
    let log = open(kafka.bootstrap(), &[]);
    let error = log.create_topics(&[spec("events", 3)]).await.unwrap_err().to_string();
    says(&error, &["inter.broker.protocol.version"]);
}

#[test]
fn settings_that_contradict_each_other_are_told_before_anything_is_asked() {
    let told = |settings: &[(&str, &str)]| Config::from_overrides(settings).expect_err("refused").to_string();
    says(&told(&[("eventlog.kind", "kafka")]), &["eventlog.kafka.bootstrap_servers", "is empty"]);
    let brokers = ("eventlog.kafka.bootstrap_servers", "k1:9092");
    says(&told(&[("eventlog.kafka.bootstrap_servers", "k1")]), &["\"k1\" is no address of a broker"]);
    says(&told(&[brokers, ("eventlog.kafka.sasl.mechanism", "PLAIN")]), &["eventlog.kafka.sasl.username"]);
    says(&told(&[brokers, ("eventlog.kafka.sasl.mechanism", "GSSAPI")]), &["PLAIN", "SCRAM-SHA-512"]);
    says(&told(&[brokers, ("eventlog.kafka.sasl.username", "ada")]), &["eventlog.kafka.sasl.mechanism"]);
    says(&told(&[brokers, ("eventlog.kafka.tls_ca_file", "/ca.pem")]), &["eventlog.kafka.tls is false"]);
    let half = [brokers, ("eventlog.kafka.tls", "true"), ("eventlog.kafka.tls_cert_file", "/cert.pem")];
    says(&told(&half), &["eventlog.kafka.tls_key_file", "both files, or none"]);
    says(&told(&[brokers, ("eventlog.kafka.heartbeat_interval", "9s")]), &["eventlog.kafka.session_timeout"]);
    let config = Config::from_overrides(&[brokers]).unwrap();
    assert_eq!(config.eventlog.kind, flexflow::config::EventLogKind::Kafka);
    assert_eq!(config.eventlog.partitions, 12);
}
