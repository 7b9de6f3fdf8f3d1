-- What properties of the version before become in this one (JSON; see src/transform/upcast.rs). Null: what they are.
ALTER TABLE event_schema_versions ADD COLUMN upcast TEXT;
