-- Rows for projects and environments that only the configuration named so far, and that other rows name: as old as the
-- oldest of those, and called by their ids, or, where another is called so, by that and a number.

INSERT INTO projects (id, name, created_at, updated_at, origin)
SELECT named.id,
    CASE WHEN EXISTS (SELECT 1 FROM projects taken WHERE taken.name = named.id)
        THEN named.id || ' ' || CAST(random() AS TEXT) ELSE named.id END,
    named.since, named.since, 'found'
FROM (
    SELECT one.project_id AS id, MIN(one.created_at) AS since
    FROM (
        SELECT project_id, created_at FROM documents
        UNION ALL SELECT project_id, created_at FROM meters
        UNION ALL SELECT project_id, created_at FROM features
        UNION ALL SELECT project_id, created_at FROM event_corrections
        UNION ALL SELECT project_id, created_at FROM transforms
        UNION ALL SELECT project_id, created_at FROM webhooks
        UNION ALL SELECT project_id, created_at FROM webhook_deliveries
        UNION ALL SELECT project_id, created_at FROM event_schemas
        UNION ALL SELECT project_id, created_at FROM jobs
    ) one
    WHERE one.project_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM projects there WHERE there.id = one.project_id)
    GROUP BY one.project_id
) named;

INSERT INTO environments (id, project_id, name, created_at, updated_at, origin)
SELECT named.id, named.project_id,
    CASE WHEN EXISTS (
            SELECT 1 FROM environments taken WHERE taken.project_id = named.project_id AND taken.name = named.id
        ) THEN named.id || ' ' || CAST(random() AS TEXT) ELSE named.id END,
    named.since, named.since, 'found'
FROM (
    SELECT one.project_id, one.environment_id AS id, MIN(one.created_at) AS since
    FROM (
        SELECT project_id, environment_id, created_at FROM documents
        UNION ALL SELECT project_id, environment_id, created_at FROM meters
        UNION ALL SELECT project_id, environment_id, created_at FROM features
        UNION ALL SELECT project_id, environment_id, created_at FROM event_corrections
        UNION ALL SELECT project_id, environment_id, created_at FROM transforms
        UNION ALL SELECT project_id, environment_id, created_at FROM webhooks
    ) one
    WHERE one.environment_id IS NOT NULL
        AND NOT EXISTS (
            SELECT 1 FROM environments there
            WHERE there.project_id = one.project_id AND there.id = one.environment_id
        )
    GROUP BY one.project_id, one.environment_id
) named;

-- A notice about a project that nobody has (its events come from elsewhere) is one of the installation's; the record says
-- whom it is about.
UPDATE notices SET project_id = NULL
WHERE project_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM projects there WHERE there.id = notices.project_id);
