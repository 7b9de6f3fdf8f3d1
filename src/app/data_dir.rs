//! The folder everything embedded lives in: one process at a time, readable by its owner alone.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// How a running process is found by the command line: `data_dir/server.json`, mode 0600, removed at exit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerFile {
    pub pid: u32,
    pub url: String,
    pub roles: Vec<String>,
    /// A bearer token that may do everything on that process. Made anew at every start.
    pub operator_token: String,
}

/// What the very first start made: `data_dir/first-run.json`, mode 0600.
#[derive(Clone, Serialize, Deserialize)]
pub struct FirstRunFile {
    pub url: String,
    pub project_id: String,
    pub environment_id: String,
    /// The administrator; a folder of an earlier version has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    pub api_key: String,
}

// By hand, so that no log shows key and password.
impl std::fmt::Debug for FirstRunFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstRunFile").field("project_id", &self.project_id).finish_non_exhaustive()
    }
}

/// The folder, held by this process until the last copy is dropped.
#[derive(Clone, Debug)]
pub(super) struct DataDir(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// Held for the lock on it; the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is missing (mode 0700) and takes its lock.
    ///
    /// # Errors
    /// The folder cannot be made or written, or another process holds it; the message names that process.
    pub(super) fn lock(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| {
            format!("data_dir: cannot make {}; set data_dir to a folder you may write", path.display())
        })?;
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("data_dir: cannot restrict {} to its owner", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("data_dir: {}", path.display()))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| format!("data_dir: cannot open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).ok();
                anyhow::bail!(
                    "data_dir: {} is held by process {}: stop it, or give this one another folder with --data-dir",
                    path.display(),
                    holder.trim()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("data_dir: cannot lock {}", lock_path.display()));
            }
        }
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        lock.sync_all()?;
        Ok(Self(Arc::new(Held { path, _lock: lock })))
    }

    /// The folder, as an absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Tells the command line where this process is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_server_file(&self, server: &ServerFile) -> anyhow::Result<()> {
        write_private(&self.0.path.join("server.json"), server)
    }

    /// Writes down what the first start made, or its address once that is known.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_first_run_file(&self, first_run: &FirstRunFile) -> anyhow::Result<()> {
        write_private(&self.0.path.join("first-run.json"), first_run)
    }

    /// What the first start made, if it was this folder's.
    pub(super) fn first_run_file(&self) -> Option<FirstRunFile> {
        serde_json::from_slice(&fs::read(self.0.path.join("first-run.json")).ok()?).ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        fs::remove_file(self.path.join("server.json")).ok();
    }
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_private(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let beside = path.with_extension("json.new");
    let write = || -> anyhow::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(&dir.path().join("data")).unwrap();
        let error = DataDir::lock(first.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        DataDir::lock(&dir.path().join("data")).unwrap();
    }

    #[test]
    fn its_files_are_readable_by_the_owner_alone_and_the_servers_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        let file = ServerFile { pid: 1, url: "u".into(), roles: vec![], operator_token: "t".into() };
        data.write_server_file(&file).unwrap();
        let path = data.path().join("server.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(data);
        assert!(!path.exists());
    }
}
