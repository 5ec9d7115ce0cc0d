//go:build !failpoints

// Package failpoint lets tests stop a process at a named place, to kill it
// there. In release builds a hit is an empty function.
//
// Built with the tag "failpoints", and with OUVIRA_FAILPOINT_DIR set, a hit of
// "provision/role" looks for the file provision.role in that directory. If it
// is there (armed), the hit renames it to provision.role.hit and blocks until
// that file is removed or the context ends. Arming stops one hit: with several
// failpoints armed, as many operations can be stopped at as many places. Every
// hit leaves provision.role.seen, so that a test can tell whether it knows all.
package failpoint

import "context"

// Enabled tells whether this build stops at failpoints.
const Enabled = false

// Hit does nothing in this build.
func Hit(context.Context, string) {}
