//! The harness itself: what the other tests stand on must fail loudly.

use std::process::Command;

use crate::support::kafka::{Kafka, Names, VERSION};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_broker_answers_kafkas_own_tools() {
    let kafka = Kafka::shared().await;
    let topic = Names::of("harness").name("events");
    kafka.tool("topics", &["--create", "--topic", &topic, "--partitions", "3"]).await;
    let ends = kafka.tool("get-offsets", &["--topic", &topic]).await;
    assert_eq!(ends.lines().count(), 3, "{ends}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_three_is_killed_and_comes_back() {
    let kafka = Kafka::start(3, VERSION, "").await;
    assert_eq!(kafka.bootstrap().split(',').count(), 3);
    let topic = ["--topic", "events"];
    kafka.tool("topics", &["--create", "--topic", "events", "--partitions", "3"]).await;
    kafka.kill(2).await;
    let described = kafka.tool("topics", &[&["--describe"], &topic[..]].concat()).await;
    assert_eq!(described.matches("Partition: ").count(), 3, "{described}");
    kafka.restart(2).await;
    kafka.signal(2, "STOP");
    kafka.signal(2, "CONT");
    kafka.stop(2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "does not start")]
async fn a_broker_that_cannot_start_fails_the_test_with_its_log() {
    Kafka::start(1, VERSION, "log.retention.ms=never\n").await;
}

#[test]
fn a_missing_jdk_is_named_with_the_command_that_installs_it() {
    let path = tempfile::tempdir().unwrap();
    for tool in ["bash", "dirname", "sed"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|dir| dir.join(tool))
            .find(|file| file.is_file())
            .unwrap_or_else(|| panic!("{tool} is installed"));
        std::os::unix::fs::symlink(found, path.path().join(tool)).unwrap();
    }
    let output = Command::new("bash")
        .args([SCRIPT, "start", "/nonexistent/kafka"])
        .env("PATH", path.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("java is not installed: apt-get install openjdk-17-jdk-headless"), "{said}");
}
