-- An environment's id is its project's own: the configuration may name the same one in several projects. And where projects
-- and environments come from: made (somebody made it), configuration (auth.static_keys or consumer.sources names it),
-- found (rows named it before it had one of its own).

ALTER TABLE projects ADD COLUMN origin TEXT NOT NULL DEFAULT 'made';

-- api_keys goes on referring by the unique index of the same two columns.
ALTER TABLE environments
    ADD COLUMN origin TEXT NOT NULL DEFAULT 'made',
    DROP CONSTRAINT environments_pkey,
    ADD PRIMARY KEY (project_id, id);
