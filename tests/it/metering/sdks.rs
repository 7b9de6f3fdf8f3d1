//! FlexPrice's published SDKs, unmodified, against the real application: every events method they have. They are
//! installed once into a folder of the build (`python3 -m venv`, `pip`, `npm`) and kept there.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const PYTHON: &str = "flexprice==2.1.43";
const TYPESCRIPT: &str = "@flexprice/sdk@2.0.1";

/// Runs a command that must succeed, and answers what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A folder in which `install` ran once; one that was left half-way is made again.
fn installed(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let done = folder.join("installed");
    if !done.exists() {
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).unwrap();
        install(&folder);
        std::fs::write(done, "").unwrap();
    }
    folder
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/metering/sdk").join(name)
}

/// A meter and a feature that the SDKs can ask about, and its id.
async fn meter(client: &Client) -> String {
    let body = json!({
        "name": "tokens", "event_name": "sdk.call", "aggregation": {"type": "SUM", "field": "tokens"},
    });
    let (status, meter) = client.operator_post("/v1/meters", &body).await;
    assert_eq!(status, 201, "{meter}");
    let feature = json!({"name": "tokens", "meter_id": meter["id"]});
    assert_eq!(client.operator_post("/v1/features", &feature).await.0, 201);
    meter["id"].as_str().unwrap().to_owned()
}

/// Every method is there, worked, and stands in the documents' table with this result.
fn assert_conformant(sdk: &str, printed: &str) {
    let results: serde_json::Map<String, Value> = serde_json::from_str(printed.trim()).expect(printed);
    let failed: Vec<_> = results.iter().filter(|(_, result)| *result != "ok").collect();
    assert!(failed.is_empty(), "{sdk}: {failed:#?}");
    let runbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/RUNBOOK.md")).unwrap();
    for method in
        results.keys().filter(|method| !["errors_are_parsed", "errorsAreParsed"].contains(&method.as_str()))
    {
        assert!(runbook.contains(&format!("| {sdk} | `{method}` | works |")), "RUNBOOK lacks {sdk} {method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_works_unchanged() {
    let folder = tokio::task::spawn_blocking(|| {
        installed("sdk-python-2.1.43", |folder| {
            run(Command::new("python3").args(["-m", "venv"]).arg(folder));
            run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", PYTHON]));
        })
    });
    let (app, folder) = (Sandbox::start().await, folder.await.unwrap());
    let meter_id = meter(&app.client).await;
    let (url, key) = (app.client.url.clone(), app.client.key.clone());
    let printed = tokio::task::spawn_blocking(move || {
        let python = folder.join("bin/python");
        run(Command::new(python).arg(script("conformance.py")).args([&url, &key, &meter_id, "python"]))
    });
    assert_conformant("Python 2.1.43", &printed.await.unwrap());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_sdk_works_unchanged() {
    let folder = tokio::task::spawn_blocking(|| {
        installed("sdk-typescript-2.0.1", |folder| {
            std::fs::write(folder.join("package.json"), r#"{"private":true,"type":"module"}"#).unwrap();
            let quiet = ["install", "--no-audit", "--no-fund", "--silent", TYPESCRIPT];
            run(Command::new("npm").args(quiet).current_dir(folder));
        })
    });
    let (app, folder) = (Sandbox::start().await, folder.await.unwrap());
    let meter_id = meter(&app.client).await;
    let (url, key) = (app.client.url.clone(), app.client.key.clone());
    let printed = tokio::task::spawn_blocking(move || {
        let folder = folder.display().to_string();
        run(Command::new("node").arg(script("conformance.mjs")).args([
            &folder,
            &url,
            &key,
            &meter_id,
            "typescript",
        ]))
    });
    assert_conformant("TypeScript 2.0.1", &printed.await.unwrap());
    app.stop().await;
}
