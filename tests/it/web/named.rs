//! A control that no test names is one that no test uses: whoever adds one is told here.
//!
//! What this cannot tell: a control whose name is computed (a row of a table, a chip), and whether a test that names a
//! control does with it what it says.

use std::collections::BTreeSet;
use std::path::Path;

/// What controls are drawn by.
const DRAWN_BY: [&str; 20] = [
    "<button",
    "<input",
    "<select",
    "<textarea",
    "<summary",
    "<a ",
    "<${Link}",
    "<${Select}",
    "<${Input}",
    "<${TextField}",
    "<${Choice}",
    "<${Text}",
    "<${Whole}",
    "<${Check}",
    "<${Chips}",
    "<${Combobox}",
    "<${EventName}",
    "<${PropertyName}",
    "<${GroupType}",
    "<${Remove}",
];

/// Controls that no test uses, and why that may be.
const UNUSED: [(&str, &str); 2] = [
    ("app.js: Reload", "comes up when a file of the page does not load"),
    ("lib/shell.js: API reference", "opens another tab"),
];

/// The end of what begins at `from` with something in braces in it.
fn tag(text: &str) -> usize {
    let (mut depth, mut end) = (0_i32, text.len());
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            '>' if depth == 0 => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    end
}

/// What stands in quotes behind ` name=`.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next().map(ToOwned::to_owned)
}

/// What people, or tests, call the control that begins here; nothing if that is computed.
fn names(text: &str) -> Vec<String> {
    let end = tag(text);
    let (tag, rest) = (&text[..end], &text[(end + 1).min(text.len())..]);
    if tag.contains(" hidden") {
        return Vec::new();
    }
    let all = ["data-testid", "testid", "aria-label", "label", "name"];
    let mut found: Vec<String> = all.iter().filter_map(|name| attribute(tag, name)).collect();
    found.extend(attribute(tag, "what").map(|what| format!("Remove {what}")));
    let words = rest.split(['<', '$']).next().unwrap_or_default().trim();
    if found.is_empty() && !words.is_empty() && !tag.ends_with('/') {
        let computed = all.iter().any(|name| tag.contains(&format!(" {name}=$")));
        found.extend((!computed).then(|| words.to_owned()));
    }
    found
}

fn sources(folder: &Path, end: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("vendor") {
            sources(&path, end, found);
        } else if path.to_string_lossy().ends_with(end) {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_control_that_has_a_name_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut page, mut tests) = (Vec::new(), Vec::new());
    sources(&root.join("web"), ".js", &mut page);
    sources(&root.join("tests/it/web"), ".rs", &mut tests);
    sources(&root.join("tests/it/support"), "browser.rs", &mut tests);
    tests.retain(|(file, _)| !file.ends_with("named.rs"));
    let tests: String = tests.into_iter().map(|(_, text)| text).collect();
    let used = |name: &str| {
        let ways = [("\"", "\""), ("'", "'"), ("=", "]")];
        ways.iter().any(|(before, after)| tests.contains(&format!("{before}{name}{after}")))
    };
    let mut unused = BTreeSet::new();
    let mut named = 0;
    for (file, text) in &page {
        let file = file.rsplit("web/").next().unwrap();
        for drawn in DRAWN_BY {
            for (at, _) in text.match_indices(drawn) {
                let names = names(&text[at..]);
                let Some(first) = names.first() else { continue };
                named += 1;
                if !names.iter().any(|name| used(name)) {
                    unused.insert(format!("{file}: {first}"));
                }
            }
        }
    }
    assert!(named > 200, "only {named} controls were found: how they are drawn has changed");
    let known: BTreeSet<String> = UNUSED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(unused, known, "left: what no test names; right: what is known to be unused");
}
