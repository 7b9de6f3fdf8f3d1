-- What belongs to a project or an environment refers to its row. No deletion is passed on: a project that is deleted keeps
-- its rows.

ALTER TABLE documents ADD FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id);
ALTER TABLE meters ADD FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id);
ALTER TABLE features ADD FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id);
ALTER TABLE event_corrections ADD FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id);
ALTER TABLE transforms ADD FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id);
-- One without an environment refers to its project alone.
ALTER TABLE webhooks
    ADD FOREIGN KEY (project_id) REFERENCES projects (id),
    ADD FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id);
ALTER TABLE webhook_deliveries ADD FOREIGN KEY (project_id) REFERENCES projects (id);
ALTER TABLE event_schemas ADD FOREIGN KEY (project_id) REFERENCES projects (id);
ALTER TABLE jobs ADD FOREIGN KEY (project_id) REFERENCES projects (id);
ALTER TABLE notices ADD FOREIGN KEY (project_id) REFERENCES projects (id);
