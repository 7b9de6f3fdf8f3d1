//! The page, in a real browser against the real application: each screen opened, its controls used, and what it shows
//! held against what the API answers.

mod builder;
mod controls;
mod dashboards;
mod form;
mod groups;
mod hostile;
mod insights;
mod making;
mod named;
mod newcomer;
mod screens;
mod sessions;
mod setup;
mod speed;
mod usage;
mod walks;

use serde_json::{Value, json};

use crate::support::{Browser, Sandbox};

/// Passwords that cost little, and no limit on tries: the page's log-ins are many here. A browser opens connections ahead
/// of its requests, and on a busy machine it is long before it uses them.
const SETTINGS: [(&str, &str); 5] = [
    ("server.head_timeout", "60s"),
    ("auth.password_memory", "1 MiB"),
    ("auth.password_passes", "1"),
    ("auth.login_attempts_max", "10000"),
    ("auth.login_address_attempts_max", "10000"),
];

/// The application with a browser at its page, nobody logged in.
pub(crate) struct Stage {
    pub(crate) app: Sandbox,
    pub(crate) browser: Browser,
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) project: String,
    pub(crate) environment: String,
}

impl Stage {
    pub(crate) async fn set(settings: &[(&str, &str)]) -> Self {
        let all = [&SETTINGS, settings].concat();
        let app = Box::pin(Sandbox::with(&all)).await;
        let browser = Browser::open(&app.client.url).await;
        let first = app.running.first_run().unwrap();
        let (email, password) = (first.email.clone().unwrap(), first.password.clone().unwrap());
        Self {
            app,
            browser,
            email,
            password,
            project: first.project_id.clone(),
            environment: first.environment_id.clone(),
        }
    }

    /// With the printed administrator logged in.
    pub(crate) async fn logged_in(settings: &[(&str, &str)]) -> Self {
        let stage = Box::pin(Self::set(settings)).await;
        stage.browser.goto("/").await;
        stage.browser.log_in(&stage.email, &stage.password).await;
        stage
    }

    pub(crate) async fn close(self) {
        self.browser.close().await;
        self.app.stop().await;
    }

    /// Makes an account with a role in the first project; its password.
    pub(crate) async fn person(&self, email: &str, role: &str) -> String {
        let password = "correct horse battery".to_owned();
        let body = json!({ "email": email, "password": password, "project_id": self.project, "role": role });
        let (status, made) = self.app.client.operator_post("/api/users", &body).await;
        assert_eq!(status, 201, "{made}");
        password
    }

    /// A key of any project.
    pub(crate) async fn key(&self, project: &str, environment: &Value) -> String {
        let body = json!({ "environment_id": environment, "scopes": ["ingest", "query"] });
        let (status, made) =
            self.app.client.operator_post(&format!("/api/projects/{project}/api-keys"), &body).await;
        assert_eq!(status, 201, "{made}");
        made["api_key"].as_str().unwrap().to_owned()
    }

    /// Sends with this key.
    pub(crate) async fn send(&self, key: &str, event: &Value) {
        let client = &self.app.client;
        let sent = client.http.post(format!("{}/capture", client.url)).header("X-API-Key", key).json(event);
        assert_eq!(sent.send().await.unwrap().status(), 202);
    }
}
