-- Which meters' usage is tracked for all of the past: what a rebuild of a meter's usage has finished with.
CREATE TABLE meter_coverage (
    meter_id TEXT NOT NULL PRIMARY KEY REFERENCES meters (id),
    -- Versions that the meter had when the rebuild began.
    versions BIGINT NOT NULL,
    covered_at BIGINT NOT NULL
);
