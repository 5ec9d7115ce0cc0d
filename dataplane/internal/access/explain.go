package access

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Effective is what somebody may do in a company, and the roles it comes from.
type Effective struct {
	Standing

	Roles []Assignment
}

// Effective asks the database, past all caches.
func (s *Service) Effective(ctx context.Context, db pg.Querier, who Subject, companyID int64) (Effective, error) {
	found, err := s.look(ctx, db, who, companyID)
	if err != nil {
		return Effective{}, err
	}
	return Effective{found.Standing, found.assignments}, nil
}

// Reasons for an answer.
const (
	ReasonGranted    = "granted"     // a role grants it, and none denies it
	ReasonDenied     = "denied"      // a role denies it: that wins, at any distance
	ReasonNotGranted = "not_granted" // no role speaks of it
	ReasonNoMember   = "not_visible" // no membership reaches the company
)

// Deciding is a role that speaks of the permission asked about.
type Deciding struct {
	Assignment

	Granted bool
}

// Explanation is an answer with what has decided it.
type Explanation struct {
	Allowed bool
	Reason  string
	Rows    []Deciding // all that speak of the permission: denials first, then by distance
}

// Explain tells whether somebody holds a permission in a company, and why. A
// permission that is not in the catalogue is refused (422).
func (s *Service) Explain(ctx context.Context, db pg.Querier, who Subject, companyID int64, p Permission) (Explanation, error) {
	id, err := s.entryID(ctx, db, 0, p)
	if err != nil {
		return Explanation{}, err
	}
	found, err := s.look(ctx, db, who, companyID)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Allowed: found.Visible && found.decision.Allowed.Has(id), Rows: deciding(found.assignments, id, found.at)}
	switch {
	case !found.Visible:
		e.Reason = ReasonNoMember
	case e.Allowed:
		e.Reason = ReasonGranted
	case found.decision.Denied.Has(id):
		e.Reason = ReasonDenied
	default:
		e.Reason = ReasonNotGranted
	}
	return e, nil
}

func deciding(all []Assignment, permissionID int64, at time.Time) []Deciding {
	rows := []Deciding{}
	for _, a := range all {
		switch {
		case !a.applies(at):
		case slices.Contains(a.Denied, permissionID):
			rows = append(rows, Deciding{a, false})
		case slices.Contains(a.Granted, permissionID):
			rows = append(rows, Deciding{a, true})
		}
	}
	slices.SortStableFunc(rows, func(a, b Deciding) int {
		if a.Granted != b.Granted {
			if b.Granted {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Distance, b.Distance)
	})
	return rows
}

// found is what the database says of a user and a company.
type found struct {
	Standing

	assignments []Assignment
	at          time.Time
	epoch       int64 // that it belongs to
}

func assignmentOf(row dbsqlc.LookRow) Assignment {
	return Assignment{
		ID: row.AssignmentID, RoleID: row.RoleID, Role: row.Role, Owner: row.Owner, CompanyID: row.CompanyID,
		Distance: int(row.Distance), Scope: Scope(row.Scope), ExpiresAt: row.ExpiresAt, Granted: row.Granted, Denied: row.Denied,
	}
}
