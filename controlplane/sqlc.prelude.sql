-- For sqlc only: what the migration runner makes before the first file.
CREATE SCHEMA control;
CREATE TABLE control.schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
CREATE TABLE control.migration_ledger (version bigint PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
