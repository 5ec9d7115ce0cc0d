// Package schema says which versions of a tenant's database this program works
// with. A rollout waits until every live node announces the version that it
// goes to; a node refuses a database that it does not know.
package schema

// The range. The statements of all rooms hold for each version in it. Raise
// Latest with each migration, and Oldest only when no node of the release
// before runs any more.
const (
	Oldest int64 = 12
	Latest int64 = 12
)
