//! Takes a torn tail off fjall's journal before fjall opens it.
//!
//! The log's writer syncs every write before it makes the next one, so at most the last write of the newest journal can
//! be torn, and nothing acknowledged comes behind it. fjall itself takes off a tail that simply ends; but a power loss
//! may also leave pages of that write out of order (a hole before a later page), which it answers with an error, for
//! good. Here everything behind the last whole write goes, whatever it looks like, unless another whole write follows:
//! then the damage is in the middle of what was acknowledged, and opening is refused rather than losing it silently.
//!
//! The journal's format (fjall 3, no compression): start `1, items u32, seqno u64`; item `2, type u8, 0, keyspace u64,
//! key length u16, value length u32, stored length u32, key, value`; clear `4, keyspace u64`; end `3, xxh3 of the items
//! u64, "FJL\x03"`. Behind the last write stand zeros (preallocated).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const TRAILER: &[u8] = b"FJL\x03";
const ITEM_FIXED: usize = 21;

/// Why a journal could not be repaired.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(
        "{path} is damaged at byte {at}, in the middle of acknowledged records: restore the folder from a backup"
    )]
    Damaged { path: PathBuf, at: usize },
}

/// Cuts the newest journal behind its last whole write. With `rewrite` the rest is written anew and synced: after a
/// sync that failed, what the file seems to hold may never have reached the disk.
pub(super) fn repair(dir: &Path, rewrite: bool) -> Result<(), JournalError> {
    let Some(path) = newest(dir)? else { return Ok(()) };
    let mut bytes = Vec::new();
    File::open(&path)?.read_to_end(&mut bytes)?;
    let valid = valid_prefix(&bytes);
    let written = without_zeros(&bytes).len();
    if let Some(at) = whole_write_behind(&bytes[..written], valid) {
        tracing::error!(path = %path.display(), at, "a whole write follows the damage");
        return Err(JournalError::Damaged { path, at: valid });
    }
    if valid < written {
        let torn = written - valid;
        tracing::warn!(path = %path.display(), valid, torn, "took off a torn write that was never acknowledged");
    }
    if rewrite {
        let fresh = path.with_extension("tmp");
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes[..valid])?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        File::open(dir)?.sync_all()?;
    } else if valid < bytes.len() {
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(u64::try_from(valid).unwrap_or(u64::MAX))?;
        file.sync_all()?;
    }
    Ok(())
}

fn newest(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Without the zeros at the end.
fn without_zeros(mut bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4096] = [0; 4096];
    while let Some(rest) = bytes.strip_suffix(&ZEROS) {
        bytes = rest;
    }
    while let [rest @ .., 0] = bytes {
        bytes = rest;
    }
    bytes
}

/// Does the newest journal hold anything?
pub(super) fn has_writes(dir: &Path) -> Result<bool, JournalError> {
    let Some(path) = newest(dir)? else { return Ok(false) };
    let mut bytes = Vec::new();
    File::open(&path)?.read_to_end(&mut bytes)?;
    Ok(valid_prefix(&bytes) > 0)
}

/// Bytes of the whole writes that the journal begins with.
fn valid_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(end) = whole_write(bytes, at) {
        at = end;
    }
    at
}

/// Where a whole write begins behind `damage`, if one does.
fn whole_write_behind(bytes: &[u8], damage: usize) -> Option<usize> {
    (damage + 1..bytes.len()).find(|at| bytes[*at] == 1 && whole_write(bytes, *at).is_some())
}

/// The end of the write that begins at `at`; `None` unless it is whole and its checksum is right.
fn whole_write(bytes: &[u8], at: usize) -> Option<usize> {
    let start = bytes.get(at..at + 13)?;
    if start[0] != 1 {
        return None;
    }
    let mut items = u32::from_le_bytes(start[1..5].try_into().ok()?);
    let first = at + 13;
    let mut at = first;
    while items > 0 {
        at = match bytes.get(at)? {
            2 => {
                let fixed = bytes.get(at..at + ITEM_FIXED)?;
                let key = u16::from_le_bytes(fixed[11..13].try_into().ok()?);
                let value = u32::from_le_bytes(fixed[17..21].try_into().ok()?);
                at.checked_add(ITEM_FIXED + usize::from(key))?.checked_add(usize::try_from(value).ok()?)?
            }
            4 => at + 9,
            _ => return None,
        };
        items -= 1;
    }
    let end = bytes.get(at..at.checked_add(13)?)?;
    let checksum = u64::from_le_bytes(end[1..9].try_into().ok()?);
    (end[0] == 3 && &end[9..] == TRAILER && xxh3_64(bytes.get(first..at)?) == checksum).then_some(at + 13)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The newest journal of a folder and the length of its whole writes.
    pub(crate) fn journal_length(dir: &Path) -> (PathBuf, usize) {
        let path = newest(dir).unwrap().unwrap();
        let length = valid_prefix(&std::fs::read(&path).unwrap());
        (path, length)
    }

    fn write(items: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (key, value) in items {
            body.extend([2, 0, 0]);
            body.extend(7u64.to_le_bytes());
            body.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
            for _ in 0..2 {
                body.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            }
            body.extend(*key);
            body.extend(*value);
        }
        let mut bytes = vec![1];
        bytes.extend(u32::try_from(items.len()).unwrap().to_le_bytes());
        bytes.extend(9u64.to_le_bytes());
        bytes.extend(&body);
        bytes.push(3);
        bytes.extend(xxh3_64(&body).to_le_bytes());
        bytes.extend(TRAILER);
        bytes
    }

    fn repaired(bytes: &[u8], rewrite: bool) -> Result<Vec<u8>, JournalError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("2.jnl"), b"an older journal is not looked at").unwrap();
        std::fs::write(dir.path().join("11.jnl"), bytes).unwrap();
        repair(dir.path(), rewrite)?;
        Ok(std::fs::read(dir.path().join("11.jnl")).unwrap())
    }

    #[test]
    fn everything_behind_the_last_whole_write_goes() {
        let first = write(&[(b"a", b"one"), (b"b", b"")]);
        let mut second = write(&[(b"c", &[7u8; 9000])]);
        for tail in [&[][..], &[0; 70_000], b"\x02garbage\xff\xff\xff\xff", &second[..second.len() - 1]] {
            for rewrite in [false, true] {
                assert_eq!(repaired(&[&first[..], tail].concat(), rewrite).unwrap(), first);
            }
        }
        second[4096..8192].fill(0);
        assert_eq!(
            repaired(&[&first[..], &second].concat(), false).unwrap(),
            first,
            "a hole in the last write"
        );
        let whole = write(&[(b"c", b"two")]);
        let both = [&first[..], &whole].concat();
        assert_eq!(repaired(&both, true).unwrap(), both);
    }

    #[test]
    fn damage_before_a_whole_write_is_refused_and_nothing_is_touched() {
        let (first, second) = (write(&[(b"a", b"one")]), write(&[(b"b", b"two")]));
        let mut bytes = [&first[..], &second].concat();
        bytes[20] ^= 1;
        let refused = repaired(&bytes, true);
        assert!(matches!(refused, Err(JournalError::Damaged { at: 0, .. })), "{refused:?}");
    }
}
