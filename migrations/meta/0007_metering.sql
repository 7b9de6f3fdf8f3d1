-- What is measured. A definition never changes: a change is another version, for events from a moment on.
CREATE TABLE meters (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX meters_of_environment ON meters (project_id, environment_id, created_at, id);

CREATE TABLE meter_versions (
    meter_id TEXT NOT NULL REFERENCES meters (id),
    version BIGINT NOT NULL,
    definition TEXT NOT NULL,
    effective_from BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT,
    PRIMARY KEY (meter_id, version)
);

-- What customers are shown and charged for; one with a meter is measured by it.
CREATE TABLE features (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    lookup_key TEXT NOT NULL,
    name TEXT NOT NULL,
    meter_id TEXT REFERENCES meters (id),
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX features_by_lookup_key ON features (project_id, environment_id, lookup_key);

-- Events that were voided or amended: who, when, why, and what stood there before. Never changed or deleted.
CREATE TABLE event_corrections (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    made_by TEXT,
    made_at BIGINT NOT NULL,
    before TEXT NOT NULL,
    after TEXT
);
CREATE INDEX event_corrections_of_environment ON event_corrections (project_id, environment_id, made_at, id);
CREATE INDEX event_corrections_of_event ON event_corrections (project_id, environment_id, event_id);
