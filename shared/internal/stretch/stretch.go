// Package stretch says how much work lies between a password and what is made
// of it. It is a place of its own so that tests, and nothing else, can ask for
// less: under the race detector one hash of the real cost takes a third of a
// second, and a test run makes thousands.
//
// Who sees it is [Cheap]'s one caller, package testdb, which the walls keep out of
// the programs.
package stretch

// Cost is what a derivation takes.
type Cost struct {
	// MemoryKiB and Passes are argon2id's, for the passwords of people.
	MemoryKiB, Passes uint32
	// SCRAMIterations are PBKDF2's, at both ends of a connection to Postgres.
	SCRAMIterations int
}

// Real is the cost outside of tests: the first recommendation of OWASP's Password
// Storage Cheat Sheet (19 MiB, two passes, one lane), and Postgres' own default
// (SCRAM_SHA_256_DEFAULT_ITERATIONS). Passwords of roles are 256 random bits: more
// iterations would only slow logins.
var Real = Cost{MemoryKiB: 19 * 1024, Passes: 2, SCRAMIterations: 4096}

var current = Real

// Current is the cost in this process.
func Current() Cost { return current }

// Cheap is for a process that only tests, before its first test.
func Cheap() { current = Cost{MemoryKiB: 64, Passes: 1, SCRAMIterations: 1} }
