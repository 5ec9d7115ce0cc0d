// Package pgserver runs Postgres servers as children of this process: for
// tests, for benchmarks and for the local stack. It needs no Docker and no
// prepared machine.
//
// It finds the binaries where the machine has them and otherwise fetches them
// once into a cache. A server speaks TCP on 127.0.0.1 only (paths of Unix
// sockets are limited to some hundred bytes), asks every connection for a
// generated password (SCRAM), and is checked after its start: what answers on
// the port must serve our data directory.
//
// Postgres refuses to run as root. A process of root hands its servers to the
// user `postgres`, or `nobody` where there is none; the data directory then has
// to lie where that user can reach it, which [Place] decides.
//
// Invariants:
//   - a server never outlives the process that started it, kill -9 included
//     (package guardian);
//   - a temporary data directory goes when its server is stopped for good;
//   - nothing here turns durability off unless the caller asks for it with
//     [TestSettings].
package pgserver
