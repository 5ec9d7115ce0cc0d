// Package compose holds no code, only the test of docker-compose.yml and of the
// Dockerfiles it builds: they load as Docker would load them, bring up the whole
// topology, and keep what docs/security.md promises of containers (no root, no
// shell, nothing writable, no secret in the file, no open Postgres). It needs no
// Docker engine, so it proves the description and not the running containers.
package compose
