//! The engine's configuration, written anew at each start: it holds that start's port and password.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::READABLE;
use crate::store::settings;

/// The user that owns the data.
pub(super) const USER: &str = "flexflow";
/// The user that may only read what SQL of a caller's own is about.
pub(super) const READER: &str = "flexflow_reader";

/// What one start needs to know.
pub(super) struct Start<'a> {
    pub port: u16,
    pub password: &'a str,
    pub reader_password: &'a str,
    pub database: &'a str,
    pub memory_bytes_max: u64,
}

/// The engine's folder below `data_dir`.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub root: PathBuf,
}

impl Folder {
    /// Makes (or tightens) `data_dir/engine` and what is in it: mode 0700.
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let root = std::path::absolute(data_dir)?.join("engine");
        let folder = Self { root };
        for path in [folder.root.clone(), folder.data(), folder.log()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(folder)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root.join("config.xml")
    }

    /// Opens what the child's stdout and stderr go to, empty.
    pub(super) fn console(&self) -> io::Result<(fs::File, PathBuf)> {
        let path = self.log().join("console.log");
        Ok((private(&path)?, path))
    }

    /// Writes `config.xml` and `users.xml`.
    pub(super) fn write(&self, start: &Start<'_>) -> io::Result<()> {
        let users = self.root.join("users.xml");
        private(&users)?.write_all(users_xml(start).as_bytes())?;
        let config = self.config_xml(start.port, start.memory_bytes_max, &users);
        private(&self.config())?.write_all(config.as_bytes())
    }

    fn config_xml(&self, port: u16, memory_bytes_max: u64, users: &Path) -> String {
        let path = |path: PathBuf| escaped(&path.display().to_string());
        format!(
            "<clickhouse>\n  \
             <logger><level>warning</level><log>{log}</log><errorlog>{errors}</errorlog><size>10M</size><count>2</count></logger>\n  \
             <listen_host>127.0.0.1</listen_host>\n  <tcp_port>{port}</tcp_port>\n  \
             <path>{data}/</path>\n  <tmp_path>{data}/tmp/</tmp_path>\n  \
             <user_files_path>{data}/user_files/</user_files_path>\n  \
             <users_config>{users}</users_config>\n  <default_profile>default</default_profile>\n  \
             <max_server_memory_usage>{memory_bytes_max}</max_server_memory_usage>\n  \
             <mark_cache_size>{cache}</mark_cache_size>\n  <uncompressed_cache_size>0</uncompressed_cache_size>\n  \
             <background_schedule_pool_size>16</background_schedule_pool_size>\n  \
             <max_concurrent_queries>200</max_concurrent_queries>\n  <max_connections>256</max_connections>\n\
             </clickhouse>\n",
            log = path(self.log().join("engine.log")),
            errors = path(self.log().join("errors.log")),
            data = path(self.data()),
            users = escaped(&users.display().to_string()),
            // Marks of the parts that are read; an eighth of the memory, at most 512 MiB.
            cache = (memory_bytes_max / 8).min(512 << 20),
        )
    }
}

/// `default` is the local session's own user and has no password, so it may do nothing but what that session needs:
/// start listening, and wait. The data is `flexflow`'s; `flexflow_reader` may read some of it, and neither write nor see
/// anything else, whatever a statement says.
fn users_xml(start: &Start<'_>) -> String {
    let mut profile = String::new();
    for (name, value) in settings::QUERY {
        let _ = write!(profile, "<{name}>{value}</{name}>");
    }
    let networks = "<networks><ip>127.0.0.1</ip><ip>::1</ip></networks>";
    let (owner, reader) = (sha256(start.password), sha256(start.reader_password));
    let mut grants = String::new();
    for table in READABLE {
        let database = escaped(start.database);
        let _ = write!(grants, "<query>GRANT SELECT ON {database}.{table}</query>");
    }
    format!(
        "<clickhouse>\n  <profiles><default>{profile}</default><reader>{profile}<readonly>2</readonly></reader></profiles>\n  \
         <quotas><default></default></quotas>\n  \
         <users>\n    <default><password></password>{networks}<profile>default</profile><quota>default</quota>\
         <grants><query>GRANT SYSTEM LISTEN ON *.*</query><query>GRANT SELECT ON system.numbers</query></grants>\
         </default>\n    \
         <{USER}><password_sha256_hex>{owner}</password_sha256_hex>{networks}<profile>default</profile>\
         <quota>default</quota></{USER}>\n    \
         <{READER}><password_sha256_hex>{reader}</password_sha256_hex>{networks}<profile>reader</profile>\
         <quota>default</quota><grants>{grants}</grants></{READER}>\n  </users>\n</clickhouse>\n"
    )
}

fn sha256(password: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(password.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn private(path: &Path) -> io::Result<fs::File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_the_owners_alone_and_hold_no_password_in_clear() {
        let data_dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(data_dir.path()).unwrap();
        for port in [9123, 9124] {
            let (password, reader_password) = ("open sesame", "shut sesame");
            let start =
                Start { port, password, reader_password, database: "shop", memory_bytes_max: 1 << 30 };
            folder.write(&start).unwrap();
        }
        for (path, mode) in [
            (folder.root.clone(), 0o700),
            (folder.data(), 0o700),
            (folder.config(), 0o600),
            (folder.root.join("users.xml"), 0o600),
        ] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
        let config = fs::read_to_string(folder.config()).unwrap();
        assert!(config.contains("<tcp_port>9124</tcp_port>") && !config.contains("9123"));
        let users = fs::read_to_string(folder.root.join("users.xml")).unwrap();
        assert!(!users.contains("sesame"));
        assert!(users.contains("<async_insert>0</async_insert>"));
        assert!(users.contains("<readonly>2</readonly>") && users.contains("GRANT SELECT ON shop.events<"));
    }

    #[test]
    fn a_folder_with_xml_in_its_name_stays_a_name() {
        assert_eq!(escaped("/a&b<c>"), "/a&amp;b&lt;c&gt;");
    }
}
