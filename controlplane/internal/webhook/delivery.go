package webhook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/webhook/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// DeliveryStatus is how far a delivery is.
type DeliveryStatus string

// The states of a delivery.
const (
	DeliveryPending   DeliveryStatus = "pending"
	DeliveryDelivered DeliveryStatus = "delivered"
	DeliveryDead      DeliveryStatus = "dead" // all attempts have failed
)

// Delivery of an event to an endpoint.
type Delivery struct {
	ID            uuid.UUID      `db:"id"`
	EndpointID    uuid.UUID      `db:"endpoint_id"`
	EventID       uuid.UUID      `db:"event_id"`
	Type          string         `db:"type"`
	Status        DeliveryStatus `db:"status"`
	Attempts      int32          `db:"attempts"`
	NextAttemptAt time.Time      `db:"next_attempt_at"`
	LastStatus    *int32         `db:"last_status"` // HTTP; nil when there was no answer
	LastError     string         `db:"last_error"`
	CreatedAt     time.Time      `db:"created_at"`
	FinishedAt    *time.Time     `db:"finished_at"`
}

// Filter narrows Deliveries. Zero fields do not.
type Filter struct {
	Status DeliveryStatus
	Before *Delivery // older ones only
	Limit  int
}

// Deliveries to an endpoint, the newest first.
func (s *Service) Deliveries(ctx context.Context, endpoint uuid.UUID, f Filter) ([]Delivery, error) {
	if _, err := s.Get(ctx, endpoint); err != nil {
		return nil, err
	}
	args := pgx.NamedArgs{"endpoint": endpoint, "status": string(f.Status), "limit": f.Limit, "at": (*time.Time)(nil), "id": uuid.Nil}
	if f.Before != nil {
		args["at"], args["id"] = f.Before.CreatedAt, f.Before.ID
	}
	rows, err := s.DB.Query(ctx, `
		SELECT d.id, d.endpoint_id, d.event_id, e.type, d.status, d.attempts, d.next_attempt_at, d.last_status, d.last_error, d.created_at, d.finished_at
		FROM control.webhook_deliveries d
		JOIN control.events e ON e.id = d.event_id
		WHERE d.endpoint_id = @endpoint AND (@status = '' OR d.status = @status)
		  AND (@at::timestamptz IS NULL OR (d.created_at, d.id) < (@at, @id::uuid))
		ORDER BY d.created_at DESC, d.id DESC LIMIT @limit`, args)
	if err != nil {
		return nil, fmt.Errorf("list the deliveries: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Delivery])
}

// Test has an event sent to the endpoint that tells of nothing.
func (s *Service) Test(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Delivery, error) {
	eventID, err := uuid.NewV7()
	if err != nil {
		return Delivery{}, fmt.Errorf("make an id: %w", err)
	}
	deliveryID, err := uuid.NewV7()
	if err != nil {
		return Delivery{}, fmt.Errorf("make an id: %w", err)
	}
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Delivery, error) {
		w, err := s.lockActive(ctx, tx, id)
		if err != nil {
			return Delivery{}, err
		}
		payload := []byte(`{"message":"This is a test."}`)
		if err := s.q.InsertTestEvent(ctx, tx, dbsqlc.InsertTestEventParams{ID: eventID, Type: string(typeTest), Payload: payload}); err != nil {
			return Delivery{}, fmt.Errorf("store a test event: %w", err)
		}
		if err := s.q.InsertDelivery(ctx, tx, dbsqlc.InsertDeliveryParams{ID: deliveryID, EndpointID: id, EventID: eventID}); err != nil {
			return Delivery{}, fmt.Errorf("store a delivery: %w", err)
		}
		if err := record(ctx, tx, actor, "webhook.test", w); err != nil {
			return Delivery{}, err
		}
		return s.delivery(ctx, tx, deliveryID)
	})
}

// Redeliver sends an event once more, with all attempts, under the same
// webhook-id.
func (s *Service) Redeliver(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Delivery, error) {
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Delivery, error) {
		d, err := s.delivery(ctx, tx, id)
		if err != nil {
			return Delivery{}, err
		}
		w, err := s.lockActive(ctx, tx, d.EndpointID)
		if err != nil {
			return Delivery{}, err
		}
		n, err := s.q.Redeliver(ctx, tx, id)
		if err != nil {
			return Delivery{}, fmt.Errorf("redeliver: %w", err)
		}
		if n == 0 {
			return Delivery{}, fault.Conflict("The delivery is being sent at this moment. Look at it again in a minute.").Code("delivery_pending")
		}
		if err := record(ctx, tx, actor, "webhook.redeliver", w); err != nil {
			return Delivery{}, err
		}
		return s.delivery(ctx, tx, id)
	})
}

func (s *Service) lockActive(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Endpoint, error) {
	row, err := s.q.LockEndpoint(ctx, tx, id)
	if err != nil {
		return Endpoint{}, lookup(err)
	}
	w := endpointOf(dbsqlc.GetEndpointRow(row))
	if w.Status != StatusActive {
		return Endpoint{}, fault.Conflict("The webhook is disabled. Activate it first (PATCH active: true).").Code("webhook_disabled")
	}
	return w, nil
}

func (s *Service) delivery(ctx context.Context, db pg.Querier, id uuid.UUID) (Delivery, error) {
	row, err := s.q.GetDelivery(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Delivery{}, fault.NotFound("There is no such delivery. They are kept for 30 days.")
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("look up the delivery: %w", err)
	}
	return Delivery{
		ID: row.ID, EndpointID: row.EndpointID, EventID: row.EventID, Type: row.Type, Status: DeliveryStatus(row.Status), Attempts: row.Attempts,
		NextAttemptAt: row.NextAttemptAt, LastStatus: row.LastStatus, LastError: row.LastError, CreatedAt: row.CreatedAt, FinishedAt: row.FinishedAt,
	}, nil
}

// Sweep forgets deliveries that were finished long ago.
func (s *Service) Sweep(ctx context.Context) error {
	if _, err := s.q.DeleteOldDeliveries(ctx, s.DB); err != nil {
		return fmt.Errorf("forget old deliveries: %w", err)
	}
	return nil
}
