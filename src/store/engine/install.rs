//! Getting the engine: one pinned package of its authors, through `npm`, verified, into the user's cache.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha512};

use crate::store::StoreError;

/// The pinned version: ClickHouse 26.7.
pub const VERSION: &str = "26.7.3-stable.1";

/// A package for one platform and the SHA-512 of its tarball, as in npm's `integrity`.
struct Package {
    os: &'static str,
    arch: &'static str,
    name: &'static str,
    sha512: &'static str,
}

/// Only platforms whose tarball was fetched and tried are pinned; on others a `clickhouse` binary or a server does it.
const PACKAGES: [Package; 1] = [Package {
    os: "linux",
    arch: "x86_64",
    name: "@chdb/lib-linux-x64-gnu",
    sha512: "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
}];

/// The one file of the package that is kept.
const MEMBER: &str = "package/libchdb.so";

/// What [`install`] is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallStep {
    /// `npm` is fetching the package (about 178 MB).
    Fetching,
    /// The hash is being compared.
    Verifying,
    /// Unpacking: bytes done, of all.
    Unpacking { done: u64, of: u64 },
    /// In place, or it was there already.
    Done,
}

/// The folder in the user's cache that holds (or will hold) the pinned version.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub(super) fn folder() -> Result<PathBuf, StoreError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache =
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).ok_or_else(|| {
            StoreError::Engine(
                "neither XDG_CACHE_HOME nor HOME is set: set store.engine.path instead".to_owned(),
            )
        })?;
    Ok(cache.join("flexflow").join("engine").join(VERSION))
}

/// Gets the engine if it is not there; safe when several processes do it at once. Blocks: some seconds to minutes.
/// Answers the path of `libchdb.so`.
///
/// # Errors
/// This platform has no pinned package, `npm` is missing or fails, the hash differs, or the disk refuses.
pub fn install(mut progress: impl FnMut(InstallStep)) -> Result<PathBuf, StoreError> {
    let target = folder()?;
    let library = target.join("libchdb.so");
    if library.is_file() {
        progress(InstallStep::Done);
        return Ok(library);
    }
    let package = package_for(std::env::consts::OS, std::env::consts::ARCH)?;
    let parent = target.parent().unwrap_or(&target);
    fs::create_dir_all(parent).map_err(|error| failed("create", parent, &error))?;
    let temporary = Temporary::new(parent)?;
    progress(InstallStep::Fetching);
    let tarball = fetch(package, &temporary.0)?;
    progress(InstallStep::Verifying);
    verify(&tarball, package.sha512)?;
    let unpacked = temporary.0.join("unpacked");
    fs::create_dir(&unpacked).map_err(|error| failed("create", &unpacked, &error))?;
    unpack(&tarball, &unpacked.join("libchdb.so"), &mut progress)
        .map_err(|error| failed("unpack", &tarball, &error))?;
    // The rename is what makes it visible; whoever comes second finds the first one's, byte for byte the same.
    if let Err(error) = fs::rename(&unpacked, &target)
        && !library.is_file()
    {
        return Err(failed("move into place", &target, &error));
    }
    progress(InstallStep::Done);
    Ok(library)
}

fn package_for(os: &str, arch: &str) -> Result<&'static Package, StoreError> {
    PACKAGES.iter().find(|package| package.os == os && package.arch == arch).ok_or_else(|| {
        StoreError::Engine(format!(
            "no engine is pinned for {os} on {arch}: put a `clickhouse` binary on the PATH, name one with \
             store.engine.path, or set store.url to a server"
        ))
    })
}

fn failed(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Engine(format!("cannot {what} {}: {error}", path.display()))
}

/// A folder that goes with its owner.
struct Temporary(PathBuf);

impl Temporary {
    fn new(parent: &Path) -> Result<Self, StoreError> {
        for attempt in 0..100 {
            let path = parent.join(format!(".installing-{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path, &error)),
            }
        }
        Err(StoreError::Engine(format!("{} is full of unfinished installations", parent.display())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fetch(package: &Package, into: &Path) -> Result<PathBuf, StoreError> {
    let wanted = format!("{}@{VERSION}", package.name);
    let output = Command::new("npm")
        .args(["pack", &wanted, "--silent"])
        .current_dir(into)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Engine(
                "the engine is not installed and `npm` is not on the PATH: install Node.js and run `flexflow engine \
                 install`, or put a `clickhouse` binary on the PATH, or set store.url to a server"
                    .to_owned(),
            ),
            _ => StoreError::Engine(format!("cannot run npm: {error}")),
        })?;
    let tarball = fs::read_dir(into)
        .map_err(|error| failed("read", into, &error))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    match tarball {
        Some(tarball) if output.status.success() => Ok(tarball),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.lines().filter(|line| line.contains("error")).take(3).collect();
            Err(StoreError::Engine(format!(
                "`npm pack {wanted}` failed ({}): {said}; run `flexflow engine install` to try again",
                output.status
            )))
        }
    }
}

fn verify(tarball: &Path, expected: &str) -> Result<(), StoreError> {
    let hash = (|| {
        let mut hasher = Sha512::new();
        io::copy(&mut File::open(tarball)?, &mut hasher)?;
        Ok(base64::engine::general_purpose::STANDARD.encode(hasher.finalize()))
    })()
    .map_err(|error: io::Error| failed("read", tarball, &error))?;
    if hash == expected {
        return Ok(());
    }
    Err(StoreError::Engine(format!(
        "the fetched engine is not the pinned one (sha512-{hash}, expected sha512-{expected}): nothing was installed"
    )))
}

/// Takes the one member out of the gzipped tar.
fn unpack(tarball: &Path, to: &Path, progress: &mut impl FnMut(InstallStep)) -> io::Result<()> {
    let mut tar = GzDecoder::new(BufReader::with_capacity(1 << 20, File::open(tarball)?));
    loop {
        let mut header = [0u8; 512];
        tar.read_exact(&mut header)?;
        let Some((name, size)) = tar_entry(&header) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it holds no {MEMBER}")));
        };
        let padded = size.next_multiple_of(512);
        if name != MEMBER.as_bytes() {
            io::copy(&mut (&mut tar).take(padded), &mut io::sink())?;
            continue;
        }
        let mut out = BufWriter::with_capacity(1 << 20, File::create(to)?);
        let mut done = 0;
        while done < size {
            let step = (size - done).min(16 << 20);
            if io::copy(&mut (&mut tar).take(step), &mut out)? != step {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += step;
            progress(InstallStep::Unpacking { done, of: size });
        }
        out.flush()?;
        return out.get_ref().sync_all();
    }
}

/// Name and size in a tar header; `None` at the end of the archive.
fn tar_entry(header: &[u8; 512]) -> Option<(&[u8], u64)> {
    let name = header.get(..100)?.split(|byte| *byte == 0).next()?;
    let size = std::str::from_utf8(header.get(124..136)?).ok()?;
    let size = u64::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok()?;
    (!name.is_empty()).then_some((name, size))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        for (name, content) in members {
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            gz.write_all(&header).unwrap();
            gz.write_all(content).unwrap();
            gz.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()]).unwrap();
        }
        gz.write_all(&[0; 1024]).unwrap();
        gz.finish().unwrap()
    }

    #[test]
    fn the_library_is_taken_out_of_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let (tarball, to) = (folder.path().join("a.tgz"), folder.path().join("lib"));
        fs::write(&tarball, tar_of(&[("package/index.js", b"x"), (MEMBER, &[7; 1000]), ("package/z", b"")]))
            .unwrap();
        let mut last = None;
        unpack(&tarball, &to, &mut |step| last = Some(step)).unwrap();
        assert_eq!(fs::read(&to).unwrap(), [7; 1000]);
        assert_eq!(last, Some(InstallStep::Unpacking { done: 1000, of: 1000 }));
    }

    #[test]
    fn a_package_without_the_library_or_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (tarball, to) = (folder.path().join("a.tgz"), folder.path().join("lib"));
        fs::write(&tarball, tar_of(&[("package/index.js", b"x")])).unwrap();
        assert!(unpack(&tarball, &to, &mut |_| ()).unwrap_err().to_string().contains(MEMBER));
        let whole = tar_of(&[(MEMBER, &[7; 100_000])]);
        fs::write(&tarball, &whole[..whole.len() / 2]).unwrap();
        assert!(unpack(&tarball, &to, &mut |_| ()).is_err());
    }

    #[test]
    fn another_tarball_than_the_pinned_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let tarball = folder.path().join("a.tgz");
        fs::write(&tarball, b"something else").unwrap();
        assert!(verify(&tarball, PACKAGES[0].sha512).unwrap_err().to_string().contains("not the pinned one"));
    }

    #[test]
    fn a_platform_without_a_package_is_told_what_to_do() {
        assert!(package_for("plan9", "mips").err().unwrap().to_string().contains("store.url"));
    }
}
