// Package event is the outbox of the control plane: what happened to tenants,
// for webhooks and mail. An event is written in the transaction of the change
// that it tells of, so none is lost and none is made up.
package event

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/event/dbsqlc"
)

// Type of an event; part of the API (webhooks).
type Type string

// The events of sign-ups, tenants, domains and operations.
const (
	SignupCreated   Type = "signup.created"
	TenantCreated   Type = "tenant.created"
	TenantActivated Type = "tenant.activated"
	TenantSuspended Type = "tenant.suspended"
	TenantResumed   Type = "tenant.resumed"
	TenantDeleted   Type = "tenant.deleted"
	TenantUndeleted Type = "tenant.undeleted"
	TenantPurged    Type = "tenant.purged"
	TenantSignedOut Type = "tenant.signed_out" // everyone who was signed in there
	DomainVerified  Type = "domain.verified"
	DomainLost      Type = "domain.lost"
	BackupFinished  Type = "backup.finished"
	PaymentRecorded Type = "payment.recorded"
	PaymentDue      Type = "payment.due"    // what is paid ends in some days
	PaymentLapsed   Type = "payment.lapsed" // and the grace after it has ended too
	QuotaExceeded   Type = "quota.exceeded"
	ForeignCode     Type = "tenant.foreign_code" // its database has what no tenant's database has
	OperationFailed Type = "operation.failed"
)

// Types are all of them, in the order of the contract: what a webhook can
// subscribe to.
var Types = []Type{
	SignupCreated, TenantCreated, TenantActivated, TenantSuspended, TenantResumed, TenantDeleted, TenantUndeleted,
	TenantPurged, TenantSignedOut,
	DomainVerified, DomainLost, BackupFinished, PaymentRecorded, PaymentDue, PaymentLapsed, QuotaExceeded, ForeignCode, OperationFailed,
}

// Record writes an event. tenant may be uuid.Nil. The payload holds no secrets.
func Record(ctx context.Context, tx pgx.Tx, kind Type, tenant uuid.UUID, payload map[string]any) error {
	if payload == nil {
		payload = map[string]any{}
	}
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("encode the event: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	err = dbsqlc.New().InsertEvent(ctx, tx, dbsqlc.InsertEventParams{
		ID: id, Type: string(kind), TenantID: uuid.NullUUID{UUID: tenant, Valid: tenant != uuid.Nil}, Payload: body,
	})
	if err != nil {
		return fmt.Errorf("record event %s: %w", kind, err)
	}
	return nil
}
