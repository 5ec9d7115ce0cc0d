package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/webhook/dbsqlc"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

const (
	// How often the courier looks for what is due; what it has sent wakes it too.
	lookEvery = time.Second
	// How many deliveries to one endpoint are on their way at once.
	inFlight = 4
	// How many events are fanned out in one transaction.
	fanOutAtMost = 200
	// What a delivery's lease has on top of its timeout.
	leaseSlack = 20 * time.Second
	// How long it may take to note how a delivery ended.
	noteTimeout = 5 * time.Second
)

// Options of a Courier; the zero value is what production has.
type Options struct {
	AllowPrivate bool            // also private addresses, for tests and a machine of one's own
	Timeout      time.Duration   // of one delivery, connecting included; default 10 s
	Pauses       []time.Duration // before each further attempt; default 5 s to a day, 46 hours in all
	DisableAfter time.Duration   // how long an endpoint may do nothing but fail; default 3 days
	Resolver     *net.Resolver   // nil: the system's
}

func (o Options) withDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Pauses == nil {
		o.Pauses = []time.Duration{
			5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
			time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
		}
	}
	if o.DisableAfter <= 0 {
		o.DisableAfter = 72 * time.Hour
	}
	return o
}

// Courier fans events out and delivers them. Several may run beside each other.
type Courier struct {
	db      pg.DB
	key     *seal.ControlKey
	log     *slog.Logger
	actor   *audit.Actor
	options Options
	client  *http.Client
	woken   chan struct{}

	q dbsqlc.Queries
}

// NewCourier makes a courier; holder names the process.
func NewCourier(db pg.DB, key *seal.ControlKey, holder string, log *slog.Logger, o Options) *Courier {
	o = o.withDefaults()
	return &Courier{
		db: db, key: key, log: log, actor: audit.Worker(holder), options: o,
		client: newClient(o), woken: make(chan struct{}, 1),
	}
}

// Run works until ctx ends; what is on its way then is given back.
func (c *Courier) Run(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := c.turn(ctx, &sending); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "webhooks are not sent just now", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.woken:
		}
	}
}

// turn fans out what has happened, and begins with what is due.
func (c *Courier) turn(ctx context.Context, sending *sync.WaitGroup) error {
	for {
		n, err := c.q.FanOut(ctx, c.db, fanOutAtMost)
		if err != nil {
			return fmt.Errorf("fan events out: %w", err)
		}
		if n < fanOutAtMost {
			break
		}
	}
	claimed, err := c.claim(ctx)
	if err != nil {
		return err
	}
	for _, d := range claimed {
		sending.Go(func() {
			c.deliver(ctx, d)
			select {
			case c.woken <- struct{}{}:
			default:
			}
		})
	}
	return nil
}

// parcel is a delivery that was claimed, with all that sending it takes.
type parcel struct {
	ID         uuid.UUID       `db:"id"`
	Attempts   int32           `db:"attempts"` // this one included
	EndpointID uuid.UUID       `db:"endpoint_id"`
	URL        string          `db:"url"`
	Secret     []byte          `db:"secret"` // sealed
	EventID    uuid.UUID       `db:"event_id"`
	Type       string          `db:"type"`
	Payload    json.RawMessage `db:"payload"`
	CreatedAt  time.Time       `db:"created_at"`
	TenantID   uuid.NullUUID   `db:"tenant_id"`
	Slug       *string         `db:"slug"`
}

// claim takes as many deliveries of each endpoint as are not on their way already:
// one that is slow holds up nobody else's. Taking one counts the attempt; when the
// worker dies, its lease ends.
func (c *Courier) claim(ctx context.Context) ([]parcel, error) {
	rows, err := c.db.Query(ctx, `
		WITH due AS (
		    SELECT taken.id
		    FROM control.webhook_endpoints w
		    CROSS JOIN LATERAL (
		        SELECT d.id FROM control.webhook_deliveries d
		        WHERE d.endpoint_id = w.id AND d.status = 'pending' AND d.next_attempt_at <= now()
		          AND (d.lease_until IS NULL OR d.lease_until < now())
		        ORDER BY d.next_attempt_at
		        LIMIT GREATEST(@in_flight::bigint - (
		            SELECT count(*) FROM control.webhook_deliveries f
		            WHERE f.endpoint_id = w.id AND f.status = 'pending' AND f.lease_until >= now()), 0)
		        FOR UPDATE SKIP LOCKED
		    ) taken
		    WHERE w.status = 'active'
		)
		UPDATE control.webhook_deliveries d
		SET attempts = d.attempts + 1, lease_until = now() + make_interval(secs => @lease_seconds::float8)
		FROM due, control.webhook_endpoints w, control.events e
		LEFT JOIN control.tenants t ON t.id = e.tenant_id
		WHERE d.id = due.id AND w.id = d.endpoint_id AND e.id = d.event_id
		RETURNING d.id, d.attempts, w.id AS endpoint_id, w.url, w.secret,
		          e.id AS event_id, e.type, e.payload, e.created_at, e.tenant_id, t.slug`,
		pgx.NamedArgs{"in_flight": inFlight, "lease_seconds": (c.options.Timeout + leaseSlack).Seconds()})
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByName[parcel])
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	return claimed, nil
}

// deliver makes one attempt and notes how it ended. If that cannot be noted, the
// lease ends, and the event is sent once more.
func (c *Courier) deliver(ctx context.Context, d parcel) {
	failpoint.Hit(ctx, "webhook/taken")
	status, err := c.attempt(ctx, d)
	if err == nil {
		failpoint.Hit(ctx, "webhook/sent")
	}
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if err != nil && ctx.Err() != nil { // broken off by our own end
		err = c.q.GiveBack(noting, c.db, dbsqlc.GiveBackParams{ID: d.ID, Attempts: d.Attempts})
	} else {
		err = c.note(noting, d, status, err)
	}
	if err != nil {
		c.log.WarnContext(ctx, "the end of a webhook's delivery is not noted", "delivery", d.ID, "error", err)
	}
}

// attempt sends the event. status is 0 when there was no answer.
func (c *Courier) attempt(ctx context.Context, d parcel) (status int, err error) {
	body, err := message(d)
	if err != nil {
		return 0, err
	}
	secret, err := c.key.Unseal(d.Secret, SecretContext(d.EndpointID))
	if err != nil {
		return 0, fmt.Errorf("open the secret: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	return send(ctx, c.client, d.URL, d.EventID.String(), secret, body)
}

// message is the same at each attempt, to the byte.
func message(d parcel) ([]byte, error) {
	data := map[string]any{}
	if err := json.Unmarshal(d.Payload, &data); err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	if d.TenantID.Valid {
		data["tenant_id"], data["tenant_slug"] = d.TenantID.UUID, d.Slug
	}
	body, err := json.Marshal(struct {
		Type      string         `json:"type"`
		Timestamp string         `json:"timestamp"`
		Data      map[string]any `json:"data"`
	}{d.Type, d.CreatedAt.UTC().Format(time.RFC3339Nano), data})
	if err != nil {
		return nil, fmt.Errorf("write the event: %w", err)
	}
	return body, nil
}

func (c *Courier) note(ctx context.Context, d parcel, status int, failure error) error {
	var answered *int32
	if status != 0 {
		answered = new(int32(status))
	}
	return pg.InTx(ctx, c.db, func(tx pgx.Tx) error {
		if failure == nil {
			if err := c.q.NoteWorks(ctx, tx, d.EndpointID); err != nil {
				return fmt.Errorf("note that the endpoint works: %w", err)
			}
			return c.finish(ctx, tx, d, DeliveryDelivered, answered, "")
		}
		if err := c.noteFailure(ctx, tx, d, status, failure); err != nil {
			return err
		}
		if int(d.Attempts) > len(c.options.Pauses) {
			return c.finish(ctx, tx, d, DeliveryDead, answered, explain(failure))
		}
		_, err := c.q.Postpone(ctx, tx, dbsqlc.PostponeParams{
			ID: d.ID, Attempts: d.Attempts, PauseSeconds: jittered(c.options.Pauses[d.Attempts-1]).Seconds(),
			LastStatus: answered, LastError: explain(failure),
		})
		if err != nil {
			return fmt.Errorf("postpone a delivery: %w", err)
		}
		return nil
	})
}

// jittered spreads what failed together: half of the pause up to half as much
// again.
func jittered(pause time.Duration) time.Duration {
	return pause/2 + rand.N(pause+1) //nolint:gosec // spreads load, guards nothing
}

func (c *Courier) finish(ctx context.Context, tx pgx.Tx, d parcel, status DeliveryStatus, answered *int32, why string) error {
	_, err := c.q.Finish(ctx, tx, dbsqlc.FinishParams{ID: d.ID, Attempts: d.Attempts, Status: string(status), LastStatus: answered, LastError: why})
	if err != nil {
		return fmt.Errorf("finish a delivery: %w", err)
	}
	return nil
}

// noteFailure disables an endpoint that is gone, or has done nothing but fail for
// long.
func (c *Courier) noteFailure(ctx context.Context, tx pgx.Tx, d parcel, status int, failure error) error {
	row, err := c.q.NoteFails(ctx, tx, d.EndpointID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // disabled or removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("note that the endpoint fails: %w", err)
	}
	var reason string
	switch {
	case status == http.StatusGone:
		reason = "it answered 410 Gone"
	case row.FailingSince != nil && row.AskedAt.Sub(*row.FailingSince) >= c.options.DisableAfter:
		reason = "it has failed since " + row.FailingSince.UTC().Format(time.RFC3339) + ", at last: " + explain(failure)
	default:
		return nil
	}
	if err := c.q.Disable(ctx, tx, dbsqlc.DisableParams{ID: d.EndpointID, Reason: reason}); err != nil {
		return fmt.Errorf("disable the endpoint: %w", err)
	}
	return record(ctx, tx, c.actor, "webhook.disable", Endpoint{ID: d.EndpointID, URL: row.Url, Status: StatusDisabled, DisabledReason: reason})
}
