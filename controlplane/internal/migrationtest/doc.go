// Package migrationtest holds the tests of module migrations that need a
// server. They live in this plane because migrations itself imports no
// sibling, the test kit included.
package migrationtest
