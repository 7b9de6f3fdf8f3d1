//! The binary: the engine's child process, or the command line.

use std::process::ExitCode;

/// A tenth more durable requests a second than with the system's, and less memory held back (benches/RESULTS.md). The
/// engine's library brings its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "engine-child") {
        let args: Vec<_> = args.collect();
        std::process::exit(flexflow::store::engine::engine_child_main(&args));
    }
    // Fails only if a provider is there already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    flexflow::cli::main()
}
