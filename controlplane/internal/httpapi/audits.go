package httpapi

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/page"
	"github.com/ouvira/ouvira/shared/fault"
)

// AuditEntry says who did what.
type AuditEntry struct {
	ID         int64           `json:"id"`
	ActorKind  audit.Kind      `json:"actor_kind" enum:"operator,signup,worker,cli"`
	ActorID    string          `json:"actor_id"`
	ActorName  string          `json:"actor_name"`
	Action     string          `json:"action" example:"tenant.suspend"`
	EntityType string          `json:"entity_type"`
	EntityID   string          `json:"entity_id"`
	TenantID   *uuid.UUID      `json:"tenant_id"`
	Detail     json.RawMessage `json:"detail"`
	IPAddress  *string         `json:"ip_address"`
	RequestID  string          `json:"request_id"`
	CreatedAt  time.Time       `json:"created_at"`
}

type listAuditInput struct {
	Paging

	Action string `query:"action" maxLength:"100"`
}

func (a *api) listAudit(ctx context.Context, in *listAuditInput) (*body[List[AuditEntry]], error) {
	return a.auditPage(ctx, in.Paging, uuid.Nil, in.Action)
}

func (a *api) auditPage(ctx context.Context, p Paging, tenantID uuid.UUID, action string) (*body[List[AuditEntry]], error) {
	after, err := page.Parse(p.Cursor, newestFirst)
	if err != nil {
		return nil, err
	}
	f := audit.Filter{TenantID: tenantID, Action: action, Limit: p.Limit + 1}
	if after != nil {
		if f.Before, err = strconv.ParseInt(after.Value, 10, 64); err != nil {
			return nil, fault.Invalid("The cursor is not one of this list. Begin again without it.").OnField("cursor", "cursor", "This is not a cursor of this list.")
		}
	}
	found, err := audit.List(ctx, a.DB, f)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(found) > p.Limit {
		found = found[:p.Limit]
		last := found[len(found)-1]
		next = page.Cursor{Sort: newestFirst, Value: strconv.FormatInt(last.ID, 10), ID: uuid.Nil.String()}.String()
	}
	items := make([]AuditEntry, 0, len(found))
	for _, row := range found {
		items = append(items, entryOf(row))
	}
	return listed(items, next), nil
}

func entryOf(row audit.Row) AuditEntry {
	e := AuditEntry{
		ID: row.ID, ActorKind: row.ActorKind, ActorID: row.ActorID, ActorName: row.ActorName, Action: row.Action,
		EntityType: row.EntityType, EntityID: row.EntityID, TenantID: optionalID(row.TenantID), Detail: row.Detail,
		RequestID: row.RequestID, CreatedAt: row.CreatedAt,
	}
	if row.IP != nil {
		text := row.IP.String()
		e.IPAddress = &text
	}
	return e
}
