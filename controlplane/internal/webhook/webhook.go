// Package webhook tells other systems what happened: events of the control plane,
// signed by the rules of Standard Webhooks.
//
// It promises: an event that was committed is sent to every endpoint that wanted
// it, at least once and always under the same webhook-id; what fails is tried again
// after growing pauses, and after the last one kept as a dead letter, which can be
// sent again; an endpoint that only fails is disabled in the end, and the audit says
// so; an endpoint that is slow or silent holds up nobody else's deliveries. Nothing
// is sent to private addresses, however a name leads there: the address is judged
// when it is dialled, and redirects are not followed. Secrets are sealed, and shown
// once.
package webhook

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/webhook/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

const (
	// MaxEndpoints bounds what may be on its way at once.
	MaxEndpoints = 50
	maxURL       = 2048
	secretPrefix = "whsec_"
	secretBytes  = 32
)

// typeTest is the event that is only sent when somebody asks for it.
const typeTest event.Type = "webhook.test"

// Status of an endpoint.
type Status string

// The states of an endpoint.
const (
	StatusActive   Status = "active"
	StatusDisabled Status = "disabled" // by a person, or because it only failed
)

// Endpoint is where events are sent.
type Endpoint struct {
	ID             uuid.UUID
	URL            string
	Description    string
	Events         []string
	Status         Status
	DisabledReason string
	FailingSince   *time.Time
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// Service of the room: what operators do with endpoints.
type Service struct {
	DB  pg.DB
	Key *seal.ControlKey
	// AllowPrivate lets endpoints be in private networks, and speak plain HTTP.
	AllowPrivate bool

	q dbsqlc.Queries
}

// New is an endpoint that is to be made.
type New struct {
	URL         string
	Description string
	Events      []string
}

// Create makes an endpoint, and returns it with the only copy of its secret.
func (s *Service) Create(ctx context.Context, actor *audit.Actor, n New) (Endpoint, string, error) {
	w := Endpoint{URL: n.URL, Description: strings.TrimSpace(n.Description), Events: n.Events, Status: StatusActive}
	if err := s.check(&w); err != nil {
		return Endpoint{}, "", err
	}
	var err error
	if w.ID, err = uuid.NewV7(); err != nil {
		return Endpoint{}, "", fmt.Errorf("make an id: %w", err)
	}
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	sealed, err := s.Key.Seal(secret, SecretContext(w.ID))
	if err != nil {
		return Endpoint{}, "", fmt.Errorf("seal the secret of a webhook: %w", err)
	}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.q.LockEndpoints(ctx, tx); err != nil {
			return fmt.Errorf("lock the webhooks: %w", err)
		}
		count, err := s.q.CountEndpoints(ctx, tx)
		if err != nil {
			return fmt.Errorf("count the webhooks: %w", err)
		}
		if count >= MaxEndpoints {
			return fault.Conflict(fmt.Sprintf("There are %d webhooks already, which is the most. Remove one first.", MaxEndpoints)).Code("too_many_webhooks")
		}
		row, err := s.q.InsertEndpoint(ctx, tx, dbsqlc.InsertEndpointParams{ID: w.ID, Url: w.URL, Description: w.Description, Events: w.Events, Secret: sealed})
		if err != nil {
			return fmt.Errorf("store the webhook: %w", err)
		}
		w.CreatedAt, w.UpdatedAt = row.CreatedAt, row.UpdatedAt
		return record(ctx, tx, actor, "webhook.create", w)
	})
	return w, secretPrefix + base64.StdEncoding.EncodeToString(secret), err
}

// SecretContext binds a sealed secret to its endpoint.
func SecretContext(id uuid.UUID) []byte { return []byte("webhook/" + id.String()) }

// record writes what was done to an endpoint. Of the URL only where it leads: what
// follows may be a secret.
func record(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, w Endpoint) error {
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: action, EntityType: "webhook", EntityID: w.ID.String(),
		Detail: map[string]any{"host": hostOf(w.URL), "events": w.Events, "status": w.Status, "reason": w.DisabledReason},
	})
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// check brings an endpoint to the form that is stored.
func (s *Service) check(w *Endpoint) error {
	if err := checkURL(w.URL, s.AllowPrivate); err != nil {
		return err
	}
	slices.Sort(w.Events)
	w.Events = slices.Compact(w.Events)
	if len(w.Events) == 0 {
		return fault.Invalid("Name at least one event that the webhook is to hear of.").OnField("events", "required", "This must not be empty.")
	}
	for _, name := range w.Events {
		if !slices.Contains(event.Types, event.Type(name)) {
			return fault.Invalid("There is no such event; GET /v1/webhooks/event-types lists them.").OnField("events", "unknown", "There is no such event.")
		}
	}
	if len(w.Description) > 200 {
		return fault.Invalid("The description is longer than 200 bytes.").OnField("description", "too_long", "This is longer than 200 bytes.")
	}
	return nil
}

// checkURL says early what would fail at each delivery. What a name leads to is
// judged when it is dialled.
func checkURL(text string, allowPrivate bool) error {
	refuse := func(code, message string) error {
		return fault.Invalid(message).OnField("url", code, message)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxURL || u.Hostname() == "" || u.Opaque != "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return refuse("url", "The address must be a URL such as https://example.com/hooks.")
	case u.Scheme != "https" && (u.Scheme != "http" || !allowPrivate):
		return refuse("scheme", "The address must begin with https://.")
	case u.User != nil || u.Fragment != "":
		return refuse("url", "The address must have neither a user nor a fragment. Put a secret into the path, or verify signatures.")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !allowPrivate && !public(ip) {
		return refuse("private_address", "The address is in a private network, to which nothing is sent.")
	}
	return nil
}

// List gives all endpoints, the oldest first.
func (s *Service) List(ctx context.Context) ([]Endpoint, error) {
	rows, err := s.q.ListEndpoints(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("list the webhooks: %w", err)
	}
	list := make([]Endpoint, 0, len(rows))
	for _, r := range rows {
		list = append(list, endpointOf(dbsqlc.GetEndpointRow(r)))
	}
	return list, nil
}

func endpointOf(r dbsqlc.GetEndpointRow) Endpoint {
	return Endpoint{
		ID: r.ID, URL: r.Url, Description: r.Description, Events: r.Events, Status: Status(r.Status),
		DisabledReason: r.DisabledReason, FailingSince: r.FailingSince, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

// Get finds an endpoint.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Endpoint, error) {
	row, err := s.q.GetEndpoint(ctx, s.DB, id)
	if err != nil {
		return Endpoint{}, lookup(err)
	}
	return endpointOf(row), nil
}

func lookup(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.NotFound("There is no such webhook.")
	}
	return fmt.Errorf("look up the webhook: %w", err)
}

// Patch of an endpoint; nil leaves a field as it is.
type Patch struct {
	URL         *string
	Description *string
	Events      *[]string
	Active      *bool
}

// Update changes an endpoint. Activated, it begins anew: what waits is sent, and
// how long it has failed is forgotten.
func (s *Service) Update(ctx context.Context, actor *audit.Actor, id uuid.UUID, p Patch) (Endpoint, error) {
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Endpoint, error) {
		row, err := s.q.LockEndpoint(ctx, tx, id)
		if err != nil {
			return Endpoint{}, lookup(err)
		}
		w := endpointOf(dbsqlc.GetEndpointRow(row))
		p.apply(&w)
		if err := s.check(&w); err != nil {
			return Endpoint{}, err
		}
		w.UpdatedAt, err = s.q.ChangeEndpoint(ctx, tx, dbsqlc.ChangeEndpointParams{
			ID: id, Url: w.URL, Description: w.Description, Events: w.Events,
			Status: string(w.Status), DisabledReason: w.DisabledReason, FailingSince: w.FailingSince,
		})
		if err != nil {
			return Endpoint{}, fmt.Errorf("change the webhook: %w", err)
		}
		return w, record(ctx, tx, actor, "webhook.update", w)
	})
}

func (p Patch) apply(w *Endpoint) {
	if p.URL != nil {
		w.URL = *p.URL
	}
	if p.Description != nil {
		w.Description = strings.TrimSpace(*p.Description)
	}
	if p.Events != nil {
		w.Events = *p.Events
	}
	switch {
	case p.Active == nil:
	case *p.Active:
		w.Status, w.DisabledReason, w.FailingSince = StatusActive, "", nil
	case w.Status == StatusActive:
		w.Status, w.DisabledReason = StatusDisabled, "by an operator"
	}
}

// Delete removes an endpoint, and what waits for it.
func (s *Service) Delete(ctx context.Context, actor *audit.Actor, id uuid.UUID) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		address, err := s.q.DeleteEndpoint(ctx, tx, id)
		if err != nil {
			return lookup(err)
		}
		return record(ctx, tx, actor, "webhook.delete", Endpoint{ID: id, URL: address})
	})
}
