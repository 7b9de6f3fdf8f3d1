//! The page: `web/` as it is written, kept in the binary, and served compressed.
//!
//! Promises:
//! - Every file stands below a path that names the content of all of them (`/web/<version>/…`), so that relative imports
//!   between them keep working, a browser may keep them for ever, and one page never mixes two versions.
//! - The address of a screen answers the page, and no address of the API does.
//! - Nothing but the page's own files runs in it (see `POLICY`).
//!
//! Must not: know any other room of the product. The page asks the public API, as any script can.

pub mod http;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

/// The first parts of the addresses that are the page's: `web/screens/<name>.js` draws each. `start` stands at `/`.
pub const SCREENS: &[&str] = &[
    "attribution",
    "dashboards",
    "dead-letters",
    "events",
    "insights",
    "live",
    "persons",
    "pipeline",
    "schemas",
    "settings",
    "transforms",
    "usage",
    "webhooks",
];

/// What the page may do: run and show its own files, ask its own server, and be framed by nobody.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                          connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";

/// The files, as they were when this was built.
static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/web");

/// What of them is served: the licences too, and neither notes nor what only checks types.
const SERVED: [&str; 5] = [".html", ".js", ".css", ".svg", "LICENSE"];

/// One version of the page.
#[derive(Debug)]
pub struct Site {
    /// Names the content of every file.
    version: String,
    index: File,
    files: BTreeMap<String, File>,
}

/// A file as it is served; packed when it is first asked for so.
#[derive(Debug)]
pub struct File {
    kind: &'static str,
    plain: Bytes,
    gzip: OnceLock<Bytes>,
    brotli: OnceLock<Bytes>,
}

/// The page, as it is now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages(Arc<Mutex<Arc<Site>>>);

impl Pages {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn load() -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Arc::new(Site::read()?)))))
    }

    /// What is served.
    pub fn site(&self) -> Arc<Site> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, after a look whether somebody edits the files, in a debug build.
    fn newest(&self) -> Arc<Site> {
        if cfg!(debug_assertions)
            && let Ok((version, _)) = contents()
            && self.site().version != version
            && let Ok(site) = Site::read()
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
        }
        self.site()
    }
}

type Contents = BTreeMap<String, Cow<'static, [u8]>>;

/// The files and what names them all; in a debug build those on disk, so that an edit shows with the next reload.
fn contents() -> anyhow::Result<(String, Contents)> {
    let mut found = Contents::new();
    let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    if cfg!(debug_assertions) && disk.is_dir() {
        on_disk(&disk, &disk, &mut found)?;
    } else {
        built_in(&FILES, &mut found);
    }
    found.retain(|name, _| SERVED.iter().any(|end| name.ends_with(end)));
    let mut hash = Sha256::new();
    for (name, file) in &found {
        hash.update(name.as_bytes());
        hash.update((file.len() as u64).to_le_bytes());
        hash.update(file);
    }
    let version = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok((version, found))
}

fn built_in(folder: &Dir<'static>, found: &mut Contents) {
    for file in folder.files() {
        found.insert(file.path().display().to_string(), Cow::Borrowed(file.contents()));
    }
    folder.dirs().for_each(|inner| built_in(inner, found));
}

fn on_disk(root: &Path, folder: &Path, found: &mut Contents) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            on_disk(root, &path, found)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            found.insert(name.display().to_string(), Cow::Owned(std::fs::read(&path)?));
        }
    }
    Ok(())
}

impl Site {
    fn read() -> anyhow::Result<Self> {
        let (version, mut contents) = contents()?;
        let index = contents.remove("index.html").ok_or_else(|| anyhow::anyhow!("web/index.html is gone"))?;
        let index = String::from_utf8(index.into_owned())?.replace("\"/web/", &format!("\"/web/{version}/"));
        let index = File::new("index.html", index.into_bytes());
        let files = contents
            .into_iter()
            .map(|(name, content)| {
                let file = File::new(&name, content.into_owned());
                (name, file)
            })
            .collect();
        Ok(Self { version, index, files })
    }

    /// The part of the address that every file of this version stands below.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The files, by their name below `web/`.
    pub fn files(&self) -> &BTreeMap<String, File> {
        &self.files
    }

    /// What all of its code weighs on its way to a browser.
    pub fn packed_bytes(&self) -> usize {
        let code = self.files.iter().filter(|(name, _)| !name.ends_with("LICENSE")).map(|(_, file)| file);
        code.chain([&self.index]).map(|file| file.brotli().len()).sum()
    }
}

impl File {
    fn new(name: &str, plain: Vec<u8>) -> Self {
        Self { kind: kind(name), plain: plain.into(), gzip: OnceLock::new(), brotli: OnceLock::new() }
    }

    /// As it is written.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Smaller, for every client.
    fn gzip(&self) -> Bytes {
        let pack = || {
            let mut packer = GzEncoder::new(Vec::new(), Compression::best());
            let packed = packer.write_all(&self.plain).and_then(|()| packer.finish());
            packed.map_or_else(|_| self.plain.clone(), Bytes::from)
        };
        self.gzip.get_or_init(pack).clone()
    }

    /// Smallest, for browsers: they take it over TLS, and from their own machine.
    fn brotli(&self) -> Bytes {
        let pack = || {
            let (mut packed, params) = (Vec::new(), brotli::enc::BrotliEncoderParams::default());
            let done = brotli::BrotliCompress(&mut &*self.plain, &mut packed, &params);
            done.map_or_else(|_| self.plain.clone(), |_| packed.into())
        };
        self.brotli.get_or_init(pack).clone()
    }
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some(name) if name.ends_with("LICENSE") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_screen_has_its_file_and_every_file_of_a_screen_its_address() {
        let site = Site::read().unwrap();
        let files = site.files().keys().filter_map(|name| name.strip_prefix("screens/")?.strip_suffix(".js"));
        // `start` stands at `/`; `login` comes up wherever nobody is logged in.
        let mut files: Vec<&str> = files.filter(|name| !["start", "login"].contains(name)).collect();
        files.retain(|name| !name.contains('/'));
        assert_eq!(files, SCREENS);
    }

    #[test]
    fn the_page_explains_every_reason_of_a_dead_letter() {
        let site = Site::read().unwrap();
        let screen = std::str::from_utf8(site.files()["screens/dead-letters.js"].plain()).unwrap();
        for kind in crate::event::ErrorKind::ALL {
            assert!(screen.contains(&format!("\n  {}: \"", kind.as_str())), "{kind:?} is not explained");
        }
    }

    #[test]
    fn the_whole_page_is_light() {
        let bytes = Site::read().unwrap().packed_bytes();
        assert!(bytes < 150_000, "the page weighs {bytes} bytes compressed");
    }

    #[test]
    fn the_page_names_its_files_by_their_version_and_nothing_of_others() {
        let site = Site::read().unwrap();
        let index = std::str::from_utf8(site.index.plain()).unwrap();
        assert!(index.contains(&format!("src=\"/web/{}/app.js\"", site.version())), "{index}");
        assert!(!index.contains("<script>") && !index.contains("http"), "{index}");
        for (name, file) in site.files() {
            let text = std::str::from_utf8(file.plain()).unwrap();
            let own = !name.starts_with("vendor/");
            assert!(!own || !text.contains("innerHTML"), "{name} writes markup");
            assert!(!own || !text.contains("https://"), "{name} names another origin");
            assert!(!text.contains("new Function(") && !text.contains("eval("), "{name} runs text");
        }
    }
}
