//! Keys over a real SQLite file, and their routes.
