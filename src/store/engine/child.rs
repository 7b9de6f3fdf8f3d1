//! The embedded engine's own process: loads `libchdb.so` and runs `clickhouse local` in it until it is asked to end, or
//! becomes the `clickhouse` binary that it is given.
//!
//! The only file with unsafe code. It runs in a child process, so that whatever the engine does (crash, run out of
//! memory) is a restart and never takes the parent down.
#![expect(unsafe_code, reason = "loading a shared library and calling its C interface")]

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// The arguments were not as the supervisor writes them.
const EXIT_USAGE: i32 = 2;
/// The library or program could not be loaded.
const EXIT_LIBRARY: i32 = 3;
/// The engine ended with an error.
const EXIT_ENGINE: i32 = 4;

/// `chdb_query_cmdline(argc, argv)`: runs `clickhouse local` with these arguments and answers a result.
type QueryCmdline = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;
/// `chdb_result_error(result)`: the error's text, or null.
type ResultError = unsafe extern "C" fn(*mut c_void) -> *const c_char;
/// `chdb_destroy_query_result(result)`.
type DestroyResult = unsafe extern "C" fn(*mut c_void);

/// The hidden subcommand `engine-child`: `<pid of the parent> <libchdb.so or clickhouse> <its arguments>…` (without the
/// subcommand itself). Must run before any thread exists. Returns the exit code: 0 clean end.
pub fn engine_child_main(args: &[OsString]) -> i32 {
    let [parent, library, rest @ ..] = args else {
        complain("usage: engine-child <parent pid> <library> <arguments>…");
        return EXIT_USAGE;
    };
    let Some(parent) = parent.to_str().and_then(|pid| pid.parse::<libc::pid_t>().ok()) else {
        complain("engine-child: the parent's pid is not a number");
        return EXIT_USAGE;
    };
    if !die_with(parent) {
        complain("engine-child: the parent is gone");
        return EXIT_USAGE;
    }
    // SAFETY: umask cannot fail and touches no memory; no other thread exists yet.
    unsafe { libc::umask(0o077) };
    if !is_library(library) {
        return exec(library, rest);
    }
    let mut arguments = vec![c"clickhouse".to_owned()];
    for argument in rest {
        let Ok(argument) = CString::new(argument.as_bytes()) else {
            complain("engine-child: an argument has a NUL byte");
            return EXIT_USAGE;
        };
        arguments.push(argument);
    }
    run(library, &arguments)
}

/// Asks the kernel to kill this process when the thread that spawned it ends. False: it has ended already.
#[cfg(target_os = "linux")]
fn die_with(parent: libc::pid_t) -> bool {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: getppid has no preconditions.
    (unsafe { libc::getppid() }) == parent
}

/// Elsewhere there is no such signal: a thread watches the parent instead.
#[cfg(not(target_os = "linux"))]
fn die_with(parent: libc::pid_t) -> bool {
    // SAFETY: getppid has no preconditions.
    let alive = move || (unsafe { libc::getppid() }) == parent;
    if alive() {
        std::thread::spawn(move || {
            while alive() {
                std::thread::park_timeout(std::time::Duration::from_millis(500));
            }
            std::process::abort();
        });
    }
    alive()
}

/// Asks a child of ours to end.
pub(super) fn terminate(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill touches no memory. The child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

fn is_library(path: &OsString) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "so" || extension == "dylib")
}

/// Becomes another program; the kernel keeps what [`die_with`] asked for.
fn exec(program: &OsString, arguments: &[OsString]) -> i32 {
    let error = Command::new(program).args(arguments).exec();
    complain(&format!("engine-child: {}: {error}", Path::new(program).display()));
    EXIT_LIBRARY
}

fn run(library: &OsString, arguments: &[CString]) -> i32 {
    // SAFETY: the library is the one that `engine install` verified by its hash (or that the operator named); its
    // initialisers are those of ClickHouse and need nothing from us.
    let library = match unsafe { libloading::Library::new(library) } {
        Ok(library) => library,
        Err(error) => {
            complain(&format!("engine-child: {error}"));
            return EXIT_LIBRARY;
        }
    };
    // SAFETY: the three symbols have these signatures in chdb.h of the pinned version.
    let symbols = unsafe {
        (
            library.get::<QueryCmdline>(b"chdb_query_cmdline\0"),
            library.get::<ResultError>(b"chdb_result_error\0"),
            library.get::<DestroyResult>(b"chdb_destroy_query_result\0"),
        )
    };
    let (Ok(query), Ok(error_of), Ok(destroy)) = symbols else {
        complain("engine-child: this libchdb.so lacks chdb_query_cmdline: it is too old");
        return EXIT_LIBRARY;
    };
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
    let Ok(count) = c_int::try_from(pointers.len()) else { return EXIT_USAGE };
    pointers.push(std::ptr::null_mut());
    // SAFETY: `pointers` is an argv: `count` NUL-terminated strings that outlive the call, then a null.
    let result = unsafe { query(count, pointers.as_mut_ptr()) };
    if result.is_null() {
        complain("engine-child: the engine ended without a result");
        return EXIT_ENGINE;
    }
    // SAFETY: `result` is the live result of the call above.
    let error = unsafe { error_of(result) };
    let failed = !error.is_null();
    if failed {
        // SAFETY: a non-null error is a NUL-terminated string owned by the result, which is still alive.
        complain(&unsafe { CStr::from_ptr(error) }.to_string_lossy());
    }
    // SAFETY: the result is destroyed once and not used afterwards.
    unsafe { destroy(result) };
    if failed { EXIT_ENGINE } else { 0 }
}

/// Stderr is the engine's log file; there is nowhere else to complain to.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
