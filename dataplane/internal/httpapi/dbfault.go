package httpapi

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// refreshTimeout bounds the wait for the control database after a refusal: a
// node must answer without it too.
const refreshTimeout = 2 * time.Second

// databaseFault turns what a database said in the middle of a request into
// what the caller can do about it. What is a mistake of ours stays an error,
// and becomes a 500.
func (s *server) databaseFault(ctx context.Context, r *route.Route, err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*fault.Error](err); known || ctx.Err() != nil {
		return err
	}
	if refusal, known := constraintFaults[pg.Constraint(err)]; known {
		return refusal().Because(err)
	}
	if fenced(err) {
		// The control plane has taken the tenant's rights away: read why before
		// answering, so that a suspended tenant hears 403 and not 503.
		if refusal := s.refusalNow(ctx, r); refusal != nil {
			return fault.From(refusal).Because(err)
		}
	}
	if fenced(err) || transient(err) {
		return fault.Unavailable("The workspace's database could not be used just now. Try again.").
			Code("database_unavailable").RetryAfter(time.Second).Because(err)
	}
	return err
}

// constraintFaults are the rules that the database keeps by itself, by the name
// of the constraint, where no service has said it before.
var constraintFaults = map[string]func() *fault.Error{
	"companies_last_owner_check": func() *fault.Error {
		return fault.Conflict("A company keeps at least one owner. Make somebody else an owner first.").Code("last_owner")
	},
	"companies_no_cycle_check": func() *fault.Error {
		return fault.Conflict("A company cannot be below itself.").Code("cycle")
	},
	"companies_roles_subtree_check": func() *fault.Error {
		return fault.Conflict("Members of the company, or of one below it, hold a role that would no longer reach them there. Take those roles away first.").Code("role_outside_subtree")
	},
	"permissions_code_key":                 taken("code", "There is a permission with this code already."),
	"roles_role_key":                       taken("role", "There is a role with this name already, in the company or system-wide."),
	"role_permissions_role_permission_key": taken("permission", "The role speaks of this permission already. Change that."),
	"user_companies_user_company_key":      taken("user", "The user is a member of the company already."),
	"user_company_roles_role_key":          taken("role", "The member holds this role already. Change that."),
	"user_company_roles_subtree_check": func() *fault.Error {
		const outside = "This role belongs to another company. Choose one of this company, of one above it, or a system-wide one."
		return fault.Invalid(outside).OnField("role", "outside", outside)
	},
}

// taken says that a field's value is another row's.
func taken(field, message string) func() *fault.Error {
	return func() *fault.Error {
		return fault.Conflict(message).Code(field+"_taken").OnField(field, "taken", message)
	}
}

func (s *server) refusalNow(ctx context.Context, r *route.Route) error {
	refreshing, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	if err := s.Routes.Refresh(refreshing, 0); err != nil { // 0: whatever version this node has
		return nil // the caller answers 503, which is true as well
	}
	current, _ := s.Routes.ByID(r.TenantID)
	return directory.Refusal(current)
}

// fenced tells what a session meets whose role was fenced: its membership is
// revoked (names resolve to nothing, or rights are missing), then it is
// terminated.
func fenced(err error) bool {
	switch pg.Code(err) {
	case pg.CodeInsufficientRights, pg.CodeUndefinedTable, pg.CodeAdminShutdown, pg.CodeInvalidAuth, pg.CodeInvalidCatalog:
		return true
	}
	return false
}

// transient tells what goes away by itself: the server or the network failed,
// the server stopped the query, or two transactions met.
func transient(err error) bool {
	code := pg.Code(err)
	switch code {
	case pg.CodeCannotConnectNow, pg.CodeQueryCanceled, pg.CodeSerialization, pg.CodeDeadlock, pg.CodeTooManyConnections,
		pg.CodeLockNotAvailable, pg.CodeReadOnlyTransaction, "57P02", pg.CodeFeatureNotSupported:
		return true
	}
	const connectionException, outOfResources = "08", "53"
	if strings.HasPrefix(code, connectionException) || strings.HasPrefix(code, outOfResources) {
		return true
	}
	var network net.Error
	return code == "" && (errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || pgconn.Timeout(err))
}
