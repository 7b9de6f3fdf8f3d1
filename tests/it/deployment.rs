//! The examples of deployment: every command, flag, variable, port, path and name in them exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use flexflow::app::routes;
use flexflow::config::REFERENCE;
use serde_json::{Map, Value, json};
use yaml_rust2::{Yaml, YamlLoader};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|one| one == extension));
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

fn plain(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Real(text) | Yaml::String(text) => json!(text),
        Yaml::Integer(number) => json!(number),
        Yaml::Boolean(is) => json!(is),
        Yaml::Array(items) => Value::Array(items.iter().map(plain).collect()),
        Yaml::Hash(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, value)| (key.as_str().unwrap().to_owned(), plain(value)))
                .collect::<Map<_, _>>(),
        ),
        Yaml::Null => Value::Null,
        other => panic!("{other:?}"),
    }
}

/// Every object of every file, with the file's name.
fn manifests() -> Vec<(String, Value)> {
    let parse = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let documents =
            YamlLoader::load_from_str(&read(path)).unwrap_or_else(|error| panic!("{name}: {error}"));
        documents.iter().map(|document| (name.clone(), plain(document))).collect::<Vec<_>>()
    };
    files("deploy/kubernetes", "yaml").iter().flat_map(parse).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    list(value).iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// Key and default of every setting.
fn settings() -> BTreeMap<String, toml::Value> {
    fn walk(prefix: &str, table: &toml::Table, found: &mut BTreeMap<String, toml::Value>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(inner) => walk(&key, inner, found),
                leaf => {
                    found.insert(key, leaf.clone());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", &toml::from_str(REFERENCE).unwrap(), &mut found);
    found
}

/// The variables of an example make a configuration that this build takes.
fn assert_configuration(place: &str, variables: &BTreeMap<String, String>) {
    let settings = settings();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flexflow"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLEXFLOW_")) {
        command.env_remove(name);
    }
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("FLEXFLOW_")) {
        let key =
            name.trim_start_matches("FLEXFLOW_").trim_end_matches("_FILE").replace("__", ".").to_lowercase();
        assert!(settings.contains_key(&key), "{place}: {name} is no setting");
        command.env(name, value);
    }
    let checked = command.args(["config", "check"]).output().unwrap();
    assert!(checked.status.success(), "{place}: {}", String::from_utf8_lossy(&checked.stderr));
}

/// A command line of an example: the command exists, and so does each of its flags.
fn assert_command(place: &str, line: &[String]) {
    let is_flag = |word: &&String| word.starts_with("--");
    // Global flags with a value may stand in front of the command.
    let mut words = line.iter();
    let mut path = Vec::new();
    while let Some(word) = words.next() {
        if is_flag(&word) {
            words.next();
        } else {
            path.push(word.as_str());
        }
    }
    let asked = Command::new(env!("CARGO_BIN_EXE_flexflow")).args(&path).arg("--help").output().unwrap();
    let help = String::from_utf8(asked.stdout).unwrap();
    let usage = format!("Usage: flexflow {}", path.join(" "));
    assert!(
        asked.status.success() && help.contains(&usage),
        "{place}: there is no `flexflow {}`",
        path.join(" ")
    );
    for flag in line.iter().filter(is_flag) {
        assert!(help.contains(flag.as_str()), "{place}: `flexflow {}` has no {flag}", path.join(" "));
    }
}

/// The port that a command line listens on.
fn port_of(line: &[String]) -> Option<u16> {
    let at = line.iter().position(|word| word == "--listen")?;
    line[at + 1].rsplit_once(':')?.1.parse().ok()
}

fn assert_route(place: &str, path: &str) {
    let exists =
        routes().iter().any(|route| route.method == "GET" && route.path == path.split('?').next().unwrap());
    assert!(exists, "{place}: there is no route {path}");
}

fn assert_listens(place: &str, line: &[String], port: u16) {
    assert_eq!(port_of(line), Some(port), "{place}: it listens elsewhere");
    if line[0] == "consumer" {
        let default = settings()["consumer.metrics_port"].as_integer().unwrap();
        assert_eq!(i64::from(port), default, "{place}: consumer.metrics_port");
    }
}

#[test]
fn the_kubernetes_example_names_what_exists() {
    let all = manifests();
    let of_kind = |kind: &str| {
        all.iter()
            .filter(|(_, one)| one["kind"] == kind)
            .map(|(file, one)| (file.as_str(), one))
            .collect::<Vec<_>>()
    };
    let mut variables = BTreeMap::new();
    for (_, map) in of_kind("ConfigMap").into_iter().chain(of_kind("Secret")) {
        for field in ["data", "stringData"] {
            for (name, value) in map[field].as_object().into_iter().flatten() {
                variables.insert(name.clone(), value.as_str().unwrap().to_owned());
            }
        }
    }
    assert_configuration("config.yaml", &variables);
    let deployments = of_kind("Deployment");
    let roles: BTreeSet<&str> =
        deployments.iter().map(|(_, one)| one["metadata"]["labels"]["role"].as_str().unwrap()).collect();
    assert_eq!(roles, BTreeSet::from(["auth", "capture", "consumer", "query"]));
    for (file, deployment) in &deployments {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels, "{file}");
        let budget = of_kind("PodDisruptionBudget").into_iter().find(|(at, _)| at == file);
        assert_eq!(
            &budget.unwrap().1["spec"]["selector"]["matchLabels"],
            labels,
            "{file}: disruption budget"
        );
        pods(file, &deployment["spec"]["template"]);
        let [container] = list(&deployment["spec"]["template"]["spec"]["containers"]) else {
            panic!("{file}")
        };
        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            assert_route(file, get["path"].as_str().unwrap());
            assert_eq!(get["port"], container["ports"][0]["name"], "{file}: {probe}");
        }
        assert_eq!(
            container["livenessProbe"]["httpGet"]["path"], "/health",
            "{file}: a restart cures nothing"
        );
        let port = container["ports"][0]["containerPort"].as_u64().unwrap();
        assert_listens(file, &words(&container["args"]), u16::try_from(port).unwrap());
        let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], port.to_string(), "{file}");
        assert_route(file, annotations["prometheus.io/path"].as_str().unwrap());
    }
    for (file, job) in of_kind("Job") {
        pods(file, &job["spec"]["template"]);
    }
    let names: BTreeSet<&str> =
        deployments.iter().map(|(_, one)| one["metadata"]["name"].as_str().unwrap()).collect();
    let scaled = of_kind("HorizontalPodAutoscaler").into_iter().chain(of_kind("ScaledObject"));
    for (file, scaler) in scaled {
        assert!(names.contains(scaler["spec"]["scaleTargetRef"]["name"].as_str().unwrap()), "{file}");
    }
    lag_scaler(&variables, of_kind("ScaledObject")[0].1);
    let kustomization = of_kind("Kustomization")[0].1;
    for resource in words(&kustomization["resources"]) {
        assert!(root().join("deploy/kubernetes").join(&resource).is_file(), "{resource}");
    }
}

/// Consumers are scaled by the lag of the group that they are.
fn lag_scaler(variables: &BTreeMap<String, String>, scaler: &Value) {
    let (settings, trigger) = (settings(), &scaler["spec"]["triggers"][0]["metadata"]);
    assert_eq!(trigger["consumerGroup"].as_str(), settings["consumer.group_id"].as_str());
    assert_eq!(trigger["topic"].as_str(), settings["topics.events"].as_str());
    assert_eq!(trigger["bootstrapServers"], json!(variables["FLEXFLOW_EVENTLOG__KAFKA__BOOTSTRAP_SERVERS"]));
    let partitions: u64 = variables["FLEXFLOW_EVENTLOG__PARTITIONS"].parse().unwrap();
    assert_eq!(scaler["spec"]["maxReplicaCount"], partitions, "more would stand idle");
}

/// The containers of a pod: commands, volumes, sources of variables.
fn pods(file: &str, template: &Value) {
    let spec = &template["spec"];
    let volumes: BTreeSet<&str> =
        list(&spec["volumes"]).iter().map(|one| one["name"].as_str().unwrap()).collect();
    for container in list(&spec["initContainers"]).iter().chain(list(&spec["containers"])) {
        assert_eq!(words(&container["command"]), ["flexflow"], "{file}");
        assert_command(file, &words(&container["args"]));
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(mount["name"].as_str().unwrap()), "{file}: {mount}");
        }
        for source in list(&container["envFrom"]) {
            let named = [&source["configMapRef"]["name"], &source["secretRef"]["name"]];
            assert!(named.contains(&&json!("flexflow")), "{file}: {source}");
        }
    }
}

#[test]
fn the_ecs_example_names_what_exists() {
    let mut families = BTreeSet::new();
    for path in files("deploy/ecs", "json") {
        let file = path.file_name().unwrap().to_str().unwrap();
        let value: Value =
            serde_json::from_str(&read(&path)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for container in list(&value["containerDefinitions"]) {
            families.insert(value["family"].as_str().unwrap().to_owned());
            let line = words(&container["command"]);
            assert_eq!(words(&container["entryPoint"]), ["flexflow"], "{file}");
            assert_command(file, &line);
            let variables = list(&container["environment"]).iter().map(|one| {
                (one["name"].as_str().unwrap().to_owned(), one["value"].as_str().unwrap().to_owned())
            });
            let mut variables: BTreeMap<_, _> = variables.collect();
            for secret in list(&container["secrets"]) {
                let name = secret["name"].as_str().unwrap().to_owned();
                let like =
                    if name.ends_with("META__URL") { "postgres://u:p@host/database" } else { "secret" };
                variables.insert(name, like.to_owned());
            }
            assert_configuration(file, &variables);
            if let Some(port) = container["portMappings"][0]["containerPort"].as_u64() {
                assert_listens(file, &line, u16::try_from(port).unwrap());
                let probe = words(&container["healthCheck"]["command"]).join(" ");
                assert!(
                    probe.contains(&format!("/{port} ")) && probe.contains("GET /health "),
                    "{file}: {probe}"
                );
            }
        }
        if let Some(path) = value["HealthCheckPath"].as_str() {
            assert_route(file, path);
        }
        let metric =
            &value["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]["MetricName"];
        if let Some(metric) = metric.as_str() {
            assert!(flexflow::telemetry::names::ALL.iter().any(|one| one.name == metric), "{file}: {metric}");
        }
    }
    for path in files("deploy/ecs", "json") {
        let value: Value = serde_json::from_str(&read(&path)).unwrap();
        if let Some(definition) = value["taskDefinition"].as_str() {
            assert!(families.contains(definition), "{}: {definition}", path.display());
        }
    }
}

#[test]
fn the_compose_file_names_what_exists() {
    let documents = YamlLoader::load_from_str(&read("docker-compose.yml")).unwrap();
    let compose = plain(&documents[0]);
    let variables = compose["x-flexflow"]["environment"].as_object().unwrap();
    let variables =
        variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    assert_configuration("docker-compose.yml", &variables);
    for role in ["auth", "capture", "query", "consumer"] {
        assert_command(role, &words(&compose["services"][role]["command"]));
    }
}

#[test]
fn the_unit_and_the_image_name_what_exists() {
    let unit = read("deploy/systemd/flexflow.service");
    let lines =
        unit.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| name.starts_with("Exec"));
    let mut commands = 0;
    for (name, line) in lines {
        let words: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
        assert_command(name, &words);
        commands += 1;
    }
    assert_eq!(commands, 2);
    let image = read("Dockerfile");
    let array = |word: &str| -> Vec<String> {
        let line = image.lines().find_map(|line| line.strip_prefix(word)).unwrap();
        serde_json::from_str(line.trim()).unwrap()
    };
    let (entry, command) = (array("ENTRYPOINT"), array("CMD"));
    assert_eq!(entry[0], "flexflow");
    assert_command("Dockerfile", &[&entry[1..], &command[..]].concat());
    let exposed: u16 = image.lines().find_map(|line| line.strip_prefix("EXPOSE ")).unwrap().parse().unwrap();
    assert_eq!(port_of(&command), Some(exposed));
    let user: u64 = image.lines().find_map(|line| line.strip_prefix("USER ")).unwrap().parse().unwrap();
    for (file, manifest) in manifests() {
        if let Some(run_as) = manifest["spec"]["template"]["spec"]["securityContext"]["runAsUser"].as_u64() {
            assert_eq!(run_as, user, "{file}");
        }
    }
    let first = image.lines().find(|line| line.starts_with("FROM rust:")).unwrap();
    let version = first.trim_start_matches("FROM rust:").split('-').next().unwrap();
    let needed = read("Cargo.toml");
    let needed =
        needed.lines().find_map(|line| line.strip_prefix("rust-version = \"")).unwrap().trim_end_matches('"');
    let number = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    assert!(number(version) >= number(needed), "the image builds with {version}, the crate needs {needed}");
}
