-- What people keep in an environment of a project: cohorts, dashboards. The body is JSON and the business of whoever
-- reads the kind. No reference to a project: one of auth.static_keys has no row.

CREATE TABLE documents (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    -- cohort, dashboard.
    kind           TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    body           TEXT   NOT NULL,
    -- Counts up with every change: a change names the one it was made from.
    revision       BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);

CREATE INDEX documents_by_scope ON documents (project_id, environment_id, kind, created_at);
