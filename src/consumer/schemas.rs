//! Events held against their schemas on their way to the store: what capture found stands in the record; what another
//! producer wrote is looked at here, and brought up to the newest version if it names an older one.

use super::decode::{Decoded, Field, Refused};
use crate::event::ErrorKind;
use crate::eventlog::Record;
use crate::schema::{HEADER, Registry, Verdict};

/// Notes what the event's schema says of it, and gives it the properties that it has in the newest version.
///
/// # Errors
/// It does not fit, and must.
pub(super) fn hold(event: &mut Decoded, record: &Record, schemas: Option<&Registry>) -> Result<(), Refused> {
    if let Some(header) = record.headers.iter().find(|header| &*header.name == HEADER) {
        event.mark = Some(String::from_utf8_lossy(&header.value).into());
        return Ok(());
    }
    let Some(schemas) = schemas else { return Ok(()) };
    let texts = event.of(record.value.as_deref().unwrap_or_default());
    let Some(schemas) = schemas.of(texts.text(Field::ProjectId)) else { return Ok(()) };
    let mark = match schemas.check(texts.text(Field::EventName), texts.text(Field::Properties)) {
        Verdict::NoSchema => return Ok(()),
        Verdict::Fits(mark) | Verdict::Flagged(mark, _) => mark,
        Verdict::Upcast(mark, properties) => {
            event.replace_properties(&properties);
            mark
        }
        Verdict::Rejected(message) => return Err(Refused { kind: ErrorKind::SchemaViolation, message }),
    };
    event.mark = Some(mark.0);
    Ok(())
}
