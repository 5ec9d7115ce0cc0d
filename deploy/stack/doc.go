// Package stack runs all of Ouvira on one machine without Docker: three Postgres
// servers, the control plane with its worker, data-plane nodes, and catchers for
// mail and texts. `make run` is this package with a terminal; end-to-end tests
// and benchmarks use it as a library, each with a state folder and a port base
// of its own.
//
//	pg-control ─┬─ control (API)          state folder
//	            ├─ worker  (jobs)           secrets.json  what the first run made up
//	            └─ data-0, data-1           demo.json     what others test against
//	pg-a, pg-b ── tenant databases          pg-*/ keys/ log/
//
// The planes are programs here: they are started with the environment that an
// installation would give them and spoken to over HTTP. Nothing of their
// packages is imported.
//
// Promises:
//   - a part that dies is reported and not started again; Start, Stop, Kill9 and
//     StopImmediate act on one part by name;
//   - Close stops all parts in order, the nodes first and Postgres last; when
//     this process is killed, the guardian of shared/testdb/guardian ends them;
//   - a second start on the same state folder finds its data, its ports and its
//     passwords again; two stacks never share a folder (a lock);
//   - demo.json is written last, when everything is ready, and again when a
//     part gets another process id.
package stack
