//! Webhooks in the whole application: from what happened to a receiver that verifies it with the published libraries.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::sandbox::Client;
use crate::support::{Log, Process, Sandbox, eventually, on_every_log};

on_every_log! {
    a_job_that_ends_is_told_to_a_webhook_and_its_secret_verifies_it
}

/// The published verifiers.
const PYTHON: &str = "standardwebhooks==1.0.0";
const TYPESCRIPT: &str = "standardwebhooks@1.0.0";

/// Headers and body of a request.
pub(crate) type Came = (serde_json::Map<String, Value>, String);

/// A receiver on this machine that takes everything: headers in lower case, and the body.
#[derive(Clone, Default)]
pub(crate) struct Receiver(Arc<Mutex<Vec<Came>>>);

impl Receiver {
    pub(crate) async fn start() -> (Self, String) {
        Self::on(TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "a helper of tests, ended by their runtime")]
    fn on(listener: TcpListener) -> (Self, String) {
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Self::default();
        let this = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move { this.serve(stream).await });
            }
        });
        (receiver, url)
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let headers: serde_json::Map<String, Value> = head
                    .lines()
                    .skip(1)
                    .filter_map(|line| line.split_once(':'))
                    .map(|(name, value)| (name.to_lowercase(), json!(value.trim())))
                    .collect();
                let length: usize = headers["content-length"].as_str()?.parse().ok()?;
                if body.len() >= length {
                    self.0.lock().unwrap().push((headers, body.to_owned()));
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok()?;
                    bytes.clear();
                    continue;
                }
            }
            let mut some = [0u8; 4096];
            match stream.read(&mut some).await {
                Ok(count @ 1..) => bytes.extend_from_slice(&some[..count]),
                _ => return None,
            }
        }
    }

    /// What came of this kind.
    fn of(&self, kind: &str) -> Vec<(serde_json::Map<String, Value>, Value)> {
        let all = self.0.lock().unwrap().clone();
        let read =
            all.into_iter().map(|(headers, body)| (headers, serde_json::from_str::<Value>(&body).unwrap()));
        read.filter(|(_, body)| body["type"] == kind).collect()
    }

    pub(crate) async fn gets(
        &self,
        kind: &str,
        count: usize,
    ) -> Vec<(serde_json::Map<String, Value>, Value)> {
        eventually(&format!("{count} {kind}"), || async {
            let found = self.of(kind);
            if found.len() >= count { Ok(found) } else { Err(format!("{} of {count}", found.len())) }
        })
        .await
    }

    /// A line for the verifiers.
    fn lines(&self, secret: &str) -> String {
        let all = self.0.lock().unwrap().clone();
        let line =
            |(headers, body): Came| json!({ "headers": headers, "body": body, "secret": secret }).to_string();
        all.into_iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

async fn webhook(client: &Client, body: &Value) -> Value {
    let (status, made) = client.operator_post("/api/webhooks", body).await;
    assert_eq!(status, 201, "{made}");
    made
}

async fn a_job_that_ends_is_told_to_a_webhook_and_its_secret_verifies_it(log: Log) {
    let app = Sandbox::on_with(log, &[("webhook.allow_private", "true")]).await;
    let (receiver, url) = Receiver::start().await;
    let made =
        webhook(&app.client, &json!({"url": url, "events": ["job.finished", "attribution.done"]})).await;
    let id = made["id"].as_str().unwrap();
    let (status, tested) = app.client.operator_post(&format!("/api/webhooks/{id}/test"), &json!({})).await;
    assert_eq!(status, 202, "{tested}");
    let (headers, _) = receiver.gets("webhook.test", 1).await.swap_remove(0);
    assert_eq!(headers["webhook-id"], tested["delivery_id"]);

    // A rule's job ends, and tells so twice: as a job, and as what it did.
    let rule = json!({"name": "r", "sources": ["a"], "target": "b", "look_back": "1d", "model": "linear",
                      "join": {"by": "session_id"}});
    let (status, rule) = app.client.operator_post("/api/attribution/rules", &rule).await;
    assert_eq!(status, 201, "{rule}");
    let (_, body) = receiver.gets("job.finished", 1).await.swap_remove(0);
    assert_eq!(body["data"]["payload"]["job_id"], rule["recompute_job_id"]);
    assert_eq!(body["data"]["payload"]["outcome"], "succeeded");
    let (_, body) = receiver.gets("attribution.done", 1).await.swap_remove(0);
    assert_eq!(body["data"]["payload"]["rule_id"], rule["id"]);
    // What came of an attempt is written a little after the receiver has it.
    eventually("three deliveries are written down", || async {
        let (status, page) =
            app.client.operator_get(&format!("/api/webhooks/{id}/deliveries?state=delivered")).await;
        assert_eq!(status, 200, "{page}");
        if page["deliveries"].as_array().unwrap().len() == 3 { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    if log == Log::Embedded {
        the_published_libraries_verify_it(&receiver, made["secret"].as_str().unwrap()).await;
    }
    bad_webhooks_are_refused(&app.client).await;
    app.stop().await;
}

async fn bad_webhooks_are_refused(client: &Client) {
    for (body, field) in [
        (json!({"url": "ftp://x"}), "url"),
        (json!({"url": "https://hooks.example.com", "events": ["job.started"]}), "events"),
    ] {
        let (status, answer) = client.operator_post("/api/webhooks", &body).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{answer}");
    }
    let (status, _) = client.operator_get("/api/webhooks/webhook_none").await;
    assert_eq!(status, 404);
}

/// Runs a command that must succeed, with this as its input, and answers what it printed.
fn run(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
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

async fn the_published_libraries_verify_it(receiver: &Receiver, secret: &str) {
    let good = receiver.lines(secret);
    let forged = receiver.lines("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let count = good.lines().count();
    let said = tokio::task::spawn_blocking(move || {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/webhooks");
        let python = installed("standardwebhooks-python-1.0.0", |folder| {
            run(Command::new("python3").args(["-m", "venv"]).arg(folder), "");
            run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", PYTHON]), "");
        });
        let node = installed("standardwebhooks-node-1.0.0", |folder| {
            run(
                Command::new("npm").args(["install", "--silent", "--prefix"]).arg(folder).arg(TYPESCRIPT),
                "",
            );
        });
        let verify = |input: &str| {
            let mut in_python = Command::new(python.join("bin/python"));
            let mut in_node = Command::new("node");
            [
                run(in_python.arg(scripts.join("verify.py")), input),
                run(in_node.arg(scripts.join("verify.mjs")).arg(&node), input),
            ]
        };
        (verify(&good), verify(&forged))
    });
    let (good, forged) = said.await.unwrap();
    for said in good {
        assert_eq!(said, "ok\n".repeat(count));
    }
    for said in forged {
        assert_eq!(said.matches("refused").count(), count, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_loses_no_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let args = [
        "--set",
        "webhook.allow_private=true",
        "--set",
        "webhook.timeout=500ms",
        "--set",
        "webhook.lease=1s",
        "--set",
        "webhook.backoff_min=100ms",
    ];
    let process = Process::serve(&data_dir, &args).await;
    // Nobody listens there yet.
    let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let made = webhook(&process.client, &json!({"url": format!("http://127.0.0.1:{port}/")})).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let mut wanted = Vec::new();
    for _ in 0..20 {
        let (status, tested) =
            process.client.operator_post(&format!("/api/webhooks/{id}/test"), &json!({})).await;
        assert_eq!(status, 202, "{tested}");
        wanted.push(tested["delivery_id"].clone());
    }
    process.kill();
    let (receiver, _) = Receiver::on(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    let process = Process::serve(&data_dir, &args).await;
    eventually("every delivery came", || async {
        let came: Vec<Value> = receiver
            .of("webhook.test")
            .into_iter()
            .map(|(headers, _)| headers["webhook-id"].clone())
            .collect();
        let missing = wanted.iter().filter(|id| !came.contains(id)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are missing", wanted.len())) }
    })
    .await;
    assert!(process.terminate().success());
}
