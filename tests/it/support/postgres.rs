//! A real PostgreSQL for tests: initdb and pg_ctl on a temporary folder and a free port, as a user that is not root. One
//! server for a run of the tests, a database for a test. It ends, and its folder with it, when the process that started
//! it does, however it ends: its keeper reads from a pipe that closes then.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use sea_orm::{ConnectionTrait as _, Database};

/// Starts the server, says so, and does what it is told until nobody tells it any more.
const KEEPER: &str = r#"
trap '' INT TERM HUP
bin=$1; port=$2
dir=$(mktemp -d /tmp/flexflow-postgres-XXXXXX)
"$bin/initdb" -D "$dir/data" -U flexflow -A trust -E UTF8 --no-locale --no-sync >"$dir/initdb.log" 2>&1 || {
  cat "$dir/initdb.log" >&2; echo failed; exit 1; }
start() {
  "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 \
    -o "-p $port -h 127.0.0.1 -k $dir -c fsync=off -c max_connections=400" start >/dev/null 2>&1
}
start || { cat "$dir/log" >&2; rm -rf "$dir"; echo failed; exit 1; }
echo ready
while read -r word; do
  case $word in
    kill) kill -KILL "$(head -n 1 "$dir/data/postmaster.pid")" ;;
    # What the killed one left behind may take a moment to go.
    start) tries=0; until start; do tries=$((tries + 1)); [ $tries -lt 50 ] || break; sleep 0.2; done ;;
  esac
  echo ready
done
"$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1
rm -rf "$dir"
"#;

/// A server. Dropping it stops it.
pub(crate) struct Postgres {
    port: u16,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    _keeper: Child,
}

impl Postgres {
    /// The server of this run of the tests.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of a test's own, which it may kill.
    ///
    /// # Panics
    /// PostgreSQL is not installed, or does not start.
    pub(crate) fn start() -> Self {
        let bin = installed().expect("these tests need PostgreSQL 14 or newer: apt-get install postgresql");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = as_somebody_else();
        command.args(["sh", "-c", KEEPER, "keeper"]).arg(&bin).arg(port.to_string());
        let mut keeper = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv and sh are there");
        let talk = (keeper.stdin.take().unwrap(), BufReader::new(keeper.stdout.take().unwrap()));
        let server = Self { port, talk: Mutex::new(talk), _keeper: keeper };
        server.heard();
        server
    }

    /// An empty database: its `meta.url`.
    pub(crate) async fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = Database::connect(self.url("postgres")).await.expect("PostgreSQL answers");
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a new database");
        admin.close().await.ok();
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://flexflow:secret@127.0.0.1:{}/{database}", self.port)
    }

    /// `kill -9` of the server.
    pub(crate) fn kill(&self) {
        self.tell("kill");
    }

    /// Starts it again on the same folder and port.
    pub(crate) fn restart(&self) {
        self.tell("start");
    }

    fn tell(&self, word: &str) {
        let told = writeln!(self.talk.lock().unwrap_or_else(PoisonError::into_inner).0, "{word}");
        told.unwrap();
        self.heard();
    }

    fn heard(&self) {
        let mut line = String::new();
        self.talk.lock().unwrap_or_else(PoisonError::into_inner).1.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "PostgreSQL does not start; see above");
    }
}

/// PostgreSQL refuses to run as root.
fn as_somebody_else() -> Command {
    let mut command = Command::new("setpriv");
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command
}

/// The folder of the newest server there is.
fn installed() -> Option<PathBuf> {
    let has = |dir: &Path| dir.join("initdb").is_file() && dir.join("pg_ctl").is_file();
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| has(bin))
        .collect();
    found.sort();
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|dir| has(dir));
    found.pop().map(|(_, bin)| bin).or_else(on_path)
}
