-- Ids that grow with time (UUIDv7, sequences) stand in few parts of the table: those are found before the bloom filters
-- of all others are read.
ALTER TABLE events ADD INDEX IF NOT EXISTS event_id_minmax event_id TYPE minmax GRANULARITY 4
