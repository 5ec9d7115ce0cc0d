package pg

import (
	"context"
	"errors"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes that the code branches on (PostgreSQL, appendix A).
const (
	CodeFeatureNotSupported = "0A000"
	CodeUniqueViolation     = "23505"
	CodeInvalidAuth         = "28000"
	CodeInvalidPassword     = "28P01"
	CodeInvalidCatalog      = "3D000"
	CodeSerialization       = "40001"
	CodeDeadlock            = "40P01"
	CodeInsufficientRights  = "42501"
	CodeUndefinedTable      = "42P01"
	CodeDuplicateDatabase   = "42P04"
	CodeDuplicateObject     = "42710"
	CodeTooManyConnections  = "53300"
	CodeNotInState          = "55000"
	CodeLockNotAvailable    = "55P03"
	CodeAdminShutdown       = "57P01"
	CodeCannotConnectNow    = "57P03"
	CodeQueryCanceled       = "57014"
	CodeReadOnlyTransaction = "25006"
)

// Code is the SQLSTATE of err, or "".
func Code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// Routine is the server function that raised err, or "". It tells apart errors
// that share a SQLSTATE.
func Routine(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Routine
	}
	return ""
}

// Constraint is the name of the constraint that err violates, or "".
func Constraint(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.ConstraintName
	}
	return ""
}

// IsOutdatedPlan tells whether a statement that was prepared before a migration
// was refused because its result would look otherwise now ("cached plan must not
// change result type"). Nothing has been done; prepared anew, it works.
func IsOutdatedPlan(err error) bool {
	return Code(err) == CodeFeatureNotSupported && Routine(err) == "RevalidateCachedQuery"
}

// IsConnect tells whether err happened while connecting: nothing was asked of
// the database yet.
func IsConnect(err error) bool {
	var e *pgconn.ConnectError
	return errors.As(err, &e)
}

// Explain says in a sentence why a connection could not be made, with the way
// out.
func Explain(err error) string {
	switch Code(err) {
	case CodeInvalidPassword, CodeInvalidAuth:
		return "Postgres refused the user or the password: check the credentials in the database URL"
	case CodeInvalidCatalog:
		return "the database does not exist: create it, or check the name in the database URL"
	case CodeTooManyConnections:
		return "Postgres has no free connection: raise max_connections, or lower what others hold"
	case CodeCannotConnectNow:
		return "Postgres is starting up or shutting down: try again shortly"
	case CodeInsufficientRights:
		return "the role may not connect to this database: grant it CONNECT"
	}
	var network *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "the host in the database URL cannot be resolved"
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return "Postgres does not answer: check that it runs, and the host and port in the database URL"
	}
	return "the database cannot be used"
}
