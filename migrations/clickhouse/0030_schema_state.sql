-- What the schema of its name says of an event: its version (`2`), or `flagged 2` when the event does not fit; empty where
-- there was no schema.
ALTER TABLE events ADD COLUMN IF NOT EXISTS schema_state LowCardinality(String) AFTER source_topic
