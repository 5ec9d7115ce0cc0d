// Package e2e proves the whole: real binaries as processes, real Postgres
// servers, real mail; parts are killed, not mocked. The stack is the one of
// `make run`, built with failpoints, each with a state folder of its own.
package e2e
