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
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Subject is who is asked about, as the first statement of the request found
// them. Decisions are remembered under all of it but the time.
type Subject struct {
	Tenant     uuid.UUID
	TokenEpoch int64
	UserID     int64
	AuthzEpoch int64
	// At is the time of the tenant's database at the first statement. Without
	// it nothing remembered is used: assignments expire.
	At time.Time
}

// Standing is what a user may do in one company.
type Standing struct {
	Visible bool // a member of it, or reached by a role from above
	Active  bool // neither the company nor any above it is deactivated

	companyID int64
	decision  Decision
	catalogue *catalogue
}

// CompanyID is the company that the standing is in; 0 where there is none.
func (s Standing) CompanyID() int64 { return s.companyID }

// Allows tells whether the permission is held.
func (s Standing) Allows(p Permission) bool {
	id, known := s.catalogue.id(p)
	return known && s.decision.Allowed.Has(id)
}

// AllowsBelow tells whether the permission is held by a role that reaches the
// companies below. A denial in one of those is not seen from here.
func (s Standing) AllowsBelow(p Permission) bool {
	id, known := s.catalogue.id(p)
	return known && s.decision.Below.Has(id)
}

// Owner tells whether the owner role is held.
func (s Standing) Owner() bool { return s.decision.Owner }

// Allowed are the permissions held, in order of their codes.
func (s Standing) Allowed() []Permission { return s.catalogue.codes(&s.decision.Allowed) }

// Denied are the permissions that a role denies, in order of their codes.
func (s Standing) Denied() []Permission { return s.catalogue.codes(&s.decision.Denied) }

// catalogue is what the permissions of a tenant are called.
type catalogue struct{ ids map[Permission]int64 }

func (c *catalogue) id(p Permission) (int64, bool) {
	if c == nil {
		return 0, false
	}
	id, known := c.ids[p]
	return id, known
}

func (c *catalogue) codes(of *Set) []Permission {
	codes := []Permission{}
	if c == nil {
		return codes
	}
	for code, id := range c.ids {
		if of.Has(id) {
			codes = append(codes, code)
		}
	}
	slices.Sort(codes)
	return codes
}

// How much is remembered, of all tenants together. A decision takes some
// hundred bytes; a catalogue, a few kilobytes.
const (
	maxDecisions  = 1 << 16
	maxCatalogues = 1 << 13
)

// Service answers questions about access. It holds no state of a tenant but
// caches that may be lost at any time.
//
// A decision is remembered under the authorization epoch that the request's
// first statement brought, and only if the statement that decided has seen the
// same epoch: it may run later, or in a transaction that has itself changed who
// may do what and may yet be rolled back. Whoever comes after an acknowledged
// change comes with another epoch and finds nothing. When an assignment that
// took part expires, the decision is void.
type Service struct {
	queries    dbsqlc.Queries
	decisions  *lru.Cache[decisionKey, Standing]
	catalogues *lru.Cache[tenantKey, knownCatalogue]
	homes      *lru.Cache[tenantKey, int64]
}

// tenantKey is a tenant in one state of its data: a restore raises the token
// epoch.
type tenantKey struct {
	tenant     uuid.UUID
	tokenEpoch int64
}

type decisionKey struct {
	tenantKey

	user, company, authzEpoch int64
}

type knownCatalogue struct {
	authzEpoch int64
	*catalogue
}

// New makes the service.
func New() *Service {
	return &Service{
		decisions: newCache[decisionKey, Standing](maxDecisions), catalogues: newCache[tenantKey, knownCatalogue](maxCatalogues),
		homes: newCache[tenantKey, int64](maxCatalogues),
	}
}

func newCache[K comparable, V any](size int) *lru.Cache[K, V] {
	cache, err := lru.New[K, V](size)
	if err != nil {
		panic(err) // the size is not positive
	}
	return cache
}

func (who Subject) tenantKey() tenantKey { return tenantKey{who.Tenant, who.TokenEpoch} }

// Standing of the user in a company. A company that does not exist, or was
// deleted, is not visible.
//
// It asks the database once, or not at all. Ask before you change who may do
// what: what the transaction has changed itself need not show.
func (s *Service) Standing(ctx context.Context, db pg.Querier, who Subject, companyID int64) (Standing, error) {
	key := decisionKey{who.tenantKey(), who.UserID, companyID, who.AuthzEpoch}
	if standing, known := s.decisions.Get(key); known && !who.At.IsZero() && standing.decision.holdsAt(who.At) {
		return standing, nil
	}
	found, err := s.look(ctx, db, who, companyID)
	if err != nil {
		return Standing{}, err
	}
	// What cannot be seen is not remembered: ids that somebody tries must not
	// push out what is used.
	if found.Visible && found.epoch == who.AuthzEpoch {
		s.decisions.Add(key, found.Standing)
	}
	return found.Standing, nil
}

// AtHome is the standing in the tenant's home company.
func (s *Service) AtHome(ctx context.Context, db pg.Querier, who Subject) (Standing, error) {
	home, _ := s.homes.Get(who.tenantKey()) // 0: the statement finds it
	standing, err := s.Standing(ctx, db, who, home)
	if err == nil && home == 0 && standing.companyID != 0 {
		s.homes.Add(who.tenantKey(), standing.companyID)
	}
	return standing, err
}

// look asks the database.
func (s *Service) look(ctx context.Context, db pg.Querier, who Subject, companyID int64) (found, error) {
	names, known := s.catalogues.Get(who.tenantKey())
	stale := !known || names.authzEpoch != who.AuthzEpoch
	rows, err := s.queries.Look(ctx, db, dbsqlc.LookParams{CompanyID: companyID, UserID: who.UserID, WithCatalogue: stale})
	if err != nil {
		return found{}, err
	}
	if len(rows) == 0 {
		return found{}, errors.New("the tenant's database has no authorization epoch")
	}
	about := rows[0]
	f := found{at: about.At, epoch: about.Epoch}
	for _, row := range rows {
		if len(row.PermissionIds) > 0 {
			if names, err = s.learn(who, row.Epoch, names, row.PermissionIds, row.PermissionCodes); err != nil {
				return found{}, err
			}
		}
		if row.AssignmentID != 0 {
			f.assignments = append(f.assignments, assignmentOf(row))
		}
	}
	f.Standing = Standing{Active: about.Active, companyID: about.AskedID, decision: Decide(f.assignments, about.At), catalogue: names.catalogue}
	f.Visible = about.Present && (about.Member || f.decision.Reached)
	return f, nil
}

// learn keeps what the permissions are called. Most changes of the epoch do not
// touch the catalogue: decisions then go on sharing one.
func (s *Service) learn(who Subject, epoch int64, before knownCatalogue, ids []int64, codes []string) (knownCatalogue, error) {
	if len(ids) != len(codes) {
		return knownCatalogue{}, fmt.Errorf("the catalogue has %d ids and %d codes", len(ids), len(codes))
	}
	now := knownCatalogue{epoch, &catalogue{make(map[Permission]int64, len(ids))}}
	for i, id := range ids {
		now.ids[Permission(codes[i])] = id
	}
	if before.catalogue != nil && maps.Equal(before.ids, now.ids) {
		now.catalogue = before.catalogue
	}
	if epoch == who.AuthzEpoch {
		s.catalogues.Add(who.tenantKey(), now)
	}
	return now, nil
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
