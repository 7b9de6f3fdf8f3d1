//! Where the engine is.

use std::path::{Path, PathBuf};

use super::install;
use crate::config;
use crate::store::StoreError;

const LIBRARY: &str = "libchdb.so";

/// An engine that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// `libchdb.so`, run by the hidden subcommand of this binary.
    Library(PathBuf),
    /// A `clickhouse` binary, run as `clickhouse server`.
    Server(PathBuf),
}

impl Located {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Library(path) | Self::Server(path) => path,
        }
    }
}

/// Finds the engine: `store.engine.path`, else a `clickhouse` on the PATH, else what `flexflow engine install` put
/// into the user's cache. `None`: there is none yet.
///
/// # Errors
/// `store.engine.path` is set and names neither.
pub fn locate(config: &config::Engine) -> Result<Option<Located>, StoreError> {
    if let Some(path) = &config.path {
        return at(path).map(Some).ok_or_else(|| {
            StoreError::Engine(format!(
                "store.engine.path: {} is neither a folder with {LIBRARY}, nor that file, nor a clickhouse binary",
                path.display()
            ))
        });
    }
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("clickhouse")).find(|file| is_program(file))
    });
    if let Some(server) = on_path {
        return Ok(Some(Located::Server(server)));
    }
    let library = install::folder()?.join(LIBRARY);
    Ok(library.is_file().then_some(Located::Library(library)))
}

fn at(path: &Path) -> Option<Located> {
    let library = path.join(LIBRARY);
    if library.is_file() {
        return Some(Located::Library(library));
    }
    if path.extension().is_some_and(|extension| extension == "so" || extension == "dylib") && path.is_file() {
        return Some(Located::Library(path.to_owned()));
    }
    is_program(path).then(|| Located::Server(path.to_owned()))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    fn config(path: &Path) -> config::Engine {
        config::Engine { path: Some(path.to_owned()), memory_max: ByteSize::gib(1) }
    }

    #[test]
    fn a_path_that_names_no_engine_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = locate(&config(folder.path())).unwrap_err().to_string();
        assert!(
            error.contains("store.engine.path") && error.contains(folder.path().to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    fn a_folder_with_the_library_and_a_program_are_told_apart() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("clickhouse");
        std::fs::write(&program, "").unwrap();
        assert!(locate(&config(&program)).is_err(), "not executable");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(locate(&config(&program)).unwrap(), Some(Located::Server(program.clone())));
        std::fs::write(folder.path().join(LIBRARY), "").unwrap();
        assert!(matches!(locate(&config(folder.path())).unwrap(), Some(Located::Library(_))));
    }
}
