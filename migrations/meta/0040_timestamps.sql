-- Every table has created_at and updated_at. A version never changes after it is made; a correction neither.

ALTER TABLE meter_versions ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE meter_versions SET updated_at = created_at;

ALTER TABLE transform_versions ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE transform_versions SET updated_at = created_at;

ALTER TABLE event_schema_versions ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE event_schema_versions SET updated_at = created_at;

ALTER TABLE event_corrections ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE event_corrections ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE event_corrections SET created_at = made_at, updated_at = made_at;

ALTER TABLE meter_coverage ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE meter_coverage ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE meter_coverage SET created_at = covered_at, updated_at = covered_at;
