-- What the properties of an event have to look like: one schema an event name of a project, in versions that never change.
CREATE TABLE event_schemas (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    event_name TEXT NOT NULL,
    -- none, backward, forward or full: what the next version has to be to this one.
    compatibility TEXT NOT NULL,
    -- reject, flag or accept: what happens to an event that does not fit.
    policy TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_schemas_by_name ON event_schemas (project_id, event_name);

CREATE TABLE event_schema_versions (
    schema_id TEXT NOT NULL REFERENCES event_schemas (id),
    version BIGINT NOT NULL,
    definition TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT,
    PRIMARY KEY (schema_id, version)
);
