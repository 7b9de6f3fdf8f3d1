//! How the pool is opened: what `meta.url` says, and the settings that each database needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sea_orm::ConnectOptions;

use super::MetaError;
use crate::config;

/// A transaction whose process has gone without a word is given up by PostgreSQL after this, and with it the write lock.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// The options of the pool that `meta.url` names. Makes the SQLite file, and opens no connection.
///
/// # Errors
/// `meta.url` names no database this build knows, or the SQLite file cannot be made.
pub(super) fn options(config: &config::Meta, data_dir: &Path) -> Result<ConnectOptions, MetaError> {
    if let Some(url) = config.url.as_deref().filter(|url| is_postgres(url)) {
        return Ok(postgres_options(config, url));
    }
    let path = sqlite_path(config.url.as_deref(), data_dir)?;
    create_private(&path)
        .map_err(|error| MetaError::Unavailable(format!("{} cannot be opened: {error}", path.display())))?;
    Ok(sqlite_options(config, path))
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Where the SQLite file is: `meta.sqlite` below `data_dir`, or what `meta.url` says.
pub(super) fn sqlite_path(url: Option<&str>, data_dir: &Path) -> Result<PathBuf, MetaError> {
    let Some(url) = url else { return Ok(data_dir.join("meta.sqlite")) };
    // Only the scheme is repeated in the error: the rest may hold a password.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('?') || path == ":memory:" {
                return Err(MetaError::Url("a file is needed: sqlite:/path/meta.sqlite".to_owned()));
            }
            Ok(PathBuf::from(path))
        }
        None => Err(MetaError::Url(format!(
            "scheme {scheme:?} is not known; valid: empty (SQLite below data_dir), sqlite:/path/meta.sqlite or postgres://user:password@host/database"
        ))),
    }
}

/// Makes the file readable by its owner alone, also one that is there already (a restored copy); SQLite gives its side
/// files (`-wal`, `-shm`) the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn sqlite_options(config: &config::Meta, path: PathBuf) -> ConnectOptions {
    let timeout = config.timeout;
    let mut options = pool(config, "sqlite:");
    options
        // Files do not hang up: no connection needs to be tried before it is used, or replaced for its age.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .filename(&path)
                .busy_timeout(timeout)
                .foreign_keys(true)
                .pragma("journal_mode", "WAL")
                .pragma("synchronous", "FULL")
        });
    options
}

fn postgres_options(config: &config::Meta, url: &str) -> ConnectOptions {
    let millis = |time: Duration| time.as_millis().max(1).to_string();
    let (wait, idle) = (millis(config.timeout), millis(IDLE_IN_TRANSACTION));
    let mut options = pool(config, url);
    // Each connection is tried before it is used: after the server came back, no request meets a dead one.
    options.test_before_acquire(true).map_sqlx_postgres_opts(move |postgres| {
        postgres.application_name("flexflow").options([
            ("lock_timeout", wait.as_str()),
            ("statement_timeout", wait.as_str()),
            ("idle_in_transaction_session_timeout", idle.as_str()),
        ])
    });
    options
}

fn pool(config: &config::Meta, url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .connect_lazy(true)
        .max_connections(config.connections_max)
        .acquire_timeout(config.timeout)
        .connect_timeout(config.timeout)
        .sqlx_logging(false);
    options
}
