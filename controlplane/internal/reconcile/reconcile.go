// Package reconcile compares what the control database says with what the
// tenant servers hold, and reports the differences with what to do about each. A
// look changes nothing; Repairer mends what is provably ours.
package reconcile

import (
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
)

// Severity of a finding.
type Severity string

// SeverityError: a tenant or its isolation is affected. SeverityWarning: none
// is yet.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Finding is one difference.
type Finding struct {
	Code     string     `json:"code"` // stable: "database_missing", "orphan_role", …
	Severity Severity   `json:"severity"`
	ServerID uuid.UUID  `json:"server_id"` // where
	Server   string     `json:"server"`
	TenantID *uuid.UUID `json:"tenant_id"`
	Object   string     `json:"object"` // the database, role or directory
	Message  string     `json:"message"`
	Action   string     `json:"action"` // what to do

	// Repairable: Repairer can mend it.
	Repairable bool `json:"repairable"`

	orphan tenantdb.Database // what is left of a tenant of ours
}

// Codes of findings that can be mended.
const (
	codeClosed            = "database_closed"
	codePublic            = "public_rights"
	codeConnectMissing    = "connect_missing"
	codeConnectForeign    = "connect_foreign"
	codeNoLogin           = "role_nologin"
	codeRoleLimit         = "role_limit"
	codeRoleSettings      = "role_settings"
	codeMembershipMissing = "membership_missing"
	codeMembershipForeign = "membership_foreign"
	codeDirty             = "schema_dirty"
	codeVersion           = "schema_version"
	codeFenceMissing      = "fence_missing"
	codeFenceLeft         = "fence_left"
	codePassword          = "role_password"
	codeSigningKey        = "signing_key_missing"
)

// repairable are those of a tenant that is served.
var repairable = []string{
	codeClosed, codePublic, codeConnectMissing, codeConnectForeign, codeNoLogin, codeRoleLimit, codeRoleSettings,
	codeMembershipMissing, codeMembershipForeign, codeDirty, codeVersion, codeFenceLeft,
	codePassword, codeSigningKey,
}

// Report is what one look found.
type Report struct {
	Findings []Finding `json:"findings"`
	Servers  int       `json:"servers"` // looked at
	Tenants  int       `json:"tenants"` // compared
	At       time.Time `json:"at"`
}

// Service looks. It may be used by several goroutines.
type Service struct {
	db      pg.DB
	servers *server.Service
	log     *slog.Logger

	seatPatience time.Duration
}

// NewService makes the room.
func NewService(db pg.DB, servers *server.Service, log *slog.Logger) *Service {
	return &Service{db: db, servers: servers, log: log, seatPatience: seatPatience}
}
