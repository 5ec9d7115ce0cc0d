// Package access decides who may do what in which company.
//
// A permission is "module.action". What a user may do in a company is the
// union of the grants minus the union of the denials over every role that
// applies there: roles of their membership in the company itself, and of
// memberships above it whose scope is the subtree. Any denial wins, at any
// distance; what nothing grants is not allowed.
//
// The home company is the one made with the tenant. A permission held there
// counts for what belongs to no company: system-wide roles, the catalogue of
// permissions, the users of the whole tenant.
package access

import (
	"context"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Subject is who is asked about, as the first statement of the request found
// them. Decisions are remembered under all of it.
type Subject struct {
	Tenant     uuid.UUID
	TokenEpoch int64
	UserID     int64
	AuthzEpoch int64
}

// Standing is what a user may do in one company.
type Standing struct {
	Visible bool // a member of it, or reached by a role from above
	Active  bool // neither the company nor any above it is deactivated
	granted map[Permission]struct{}
}

// Allows tells whether the permission is held.
func (s Standing) Allows(p Permission) bool {
	_, ok := s.granted[p]
	return ok
}

// Service answers questions about access. It holds no state of a tenant but
// caches that may be lost at any time.
type Service struct{ queries dbsqlc.Queries }

// New makes the service.
func New() *Service { return &Service{} }

// Standing of the user in a company. A company that does not exist, or was
// deleted, is not visible.
func (s *Service) Standing(ctx context.Context, db pg.Querier, who Subject, companyID int64) (Standing, error) {
	row, err := s.queries.Standing(ctx, db, dbsqlc.StandingParams{CompanyID: companyID, UserID: who.UserID})
	if err != nil {
		return Standing{}, err
	}
	standing := Standing{Visible: row.Visible, Active: row.Active, granted: make(map[Permission]struct{}, len(row.Granted))}
	for _, code := range row.Granted {
		standing.granted[Permission(code)] = struct{}{}
	}
	return standing, nil
}

// Companies are the companies, deactivated ones included, in which the user
// holds the permission, in order of their ids.
func (s *Service) Companies(ctx context.Context, db pg.Querier, who Subject, p Permission) ([]int64, error) {
	return s.queries.CompaniesWith(ctx, db, dbsqlc.CompaniesWithParams{UserID: who.UserID, Code: string(p)})
}

// Home is the company made with the tenant.
func (s *Service) Home(ctx context.Context, db pg.Querier) (int64, error) {
	return s.queries.Home(ctx, db)
}
