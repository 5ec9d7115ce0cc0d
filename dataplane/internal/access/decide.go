package access

import "time"

// The decision, without a database: what is applied, and what comes out.

// Scope is how far an assignment reaches.
type Scope string

// The scopes.
const (
	ScopeSelf    Scope = "self"    // the company of the membership alone
	ScopeSubtree Scope = "subtree" // and every company below it
)

// Assignment is a role of a user's membership in a company, as seen from the
// company asked about, with what the role says. Ids are of permissions.
type Assignment struct {
	ID        int64
	RoleID    int64
	Role      string
	Owner     bool  // the role is the seeded owner
	CompanyID int64 // of the membership
	Distance  int   // companies from the one asked about up to that of the membership
	Scope     Scope
	ExpiresAt *time.Time
	Granted   []int64
	Denied    []int64
}

// applies tells whether the assignment counts in the company asked about.
func (a Assignment) applies(at time.Time) bool {
	return (a.Distance == 0 || a.Scope == ScopeSubtree) && (a.ExpiresAt == nil || a.ExpiresAt.After(at))
}

// Decision is what follows from a user's assignments in one company.
type Decision struct {
	Allowed Set // granted, and not denied
	Denied  Set
	Below   Set  // what of Allowed reaches the companies below: granted with the scope of the subtree
	Reached bool // an assignment applies, whatever it grants
	Owner   bool // one of them is the owner role
	// OwnerBelow says that the owner role reaches the companies below.
	OwnerBelow bool
	// Until is when the first of the assignments that took part expires; zero
	// if none does. From then on the decision is void.
	Until time.Time
}

// Decide takes what applies at that time, in any order: the union of the grants
// less the union of the denials.
func Decide(assignments []Assignment, at time.Time) Decision {
	var d Decision
	var granted, below Set
	for _, a := range assignments {
		if !a.applies(at) {
			continue
		}
		d.Reached = true
		d.Owner = d.Owner || a.Owner
		granted.Add(a.Granted...)
		d.Denied.Add(a.Denied...)
		if a.Scope == ScopeSubtree {
			d.OwnerBelow = d.OwnerBelow || a.Owner
			below.Add(a.Granted...)
		}
		if a.ExpiresAt != nil && (d.Until.IsZero() || a.ExpiresAt.Before(d.Until)) {
			d.Until = *a.ExpiresAt
		}
	}
	d.Allowed, d.Below = granted.Without(&d.Denied), below.Without(&d.Denied)
	return d
}

// holdsAt tells whether the decision still stands.
func (d *Decision) holdsAt(at time.Time) bool { return d.Until.IsZero() || at.Before(d.Until) }
