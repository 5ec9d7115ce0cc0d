package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/page"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/fault"
)

// Webhook is where events are sent.
type Webhook struct {
	ID             uuid.UUID      `json:"id"`
	URL            string         `json:"url"`
	Description    string         `json:"description"`
	Events         []string       `json:"events" nullable:"false"`
	Status         webhook.Status `json:"status" enum:"active,disabled"`
	DisabledReason string         `json:"disabled_reason" doc:"Who or what disabled it."`
	FailingSince   *time.Time     `json:"failing_since" doc:"When it first failed after it last worked; null while it works."`
	CreatedAt      time.Time      `json:"created_at"`
	UpdatedAt      time.Time      `json:"updated_at"`
}

// NewWebhook shows the secret, this time only.
type NewWebhook struct {
	Webhook

	Secret string `json:"secret" secret:"true" doc:"Verifies the signatures (Standard Webhooks). It is not shown again." example:"whsec_…"`
}

type createWebhookInput struct {
	Body struct {
		URL         string   `json:"url" maxLength:"2048" example:"https://example.com/hooks/ouvira"`
		Events      []string `json:"events" maxItems:"100" example:"[\"tenant.created\"]"`
		Description string   `json:"description,omitempty" maxLength:"200"`
	}
}

func (a *api) createWebhook(ctx context.Context, in *createWebhookInput) (*body[NewWebhook], error) {
	w, secret, err := a.Webhooks.Create(ctx, actorOf(ctx), webhook.New{URL: in.Body.URL, Events: in.Body.Events, Description: in.Body.Description})
	if err != nil {
		return nil, err
	}
	return &body[NewWebhook]{NewWebhook{Webhook: Webhook(w), Secret: secret}}, nil
}

func (a *api) listWebhooks(ctx context.Context, _ *struct{}) (*body[List[Webhook]], error) {
	found, err := a.Webhooks.List(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Webhook, 0, len(found))
	for _, w := range found {
		items = append(items, Webhook(w))
	}
	return listed(items, ""), nil
}

func (a *api) showWebhook(ctx context.Context, in *IDPath) (*body[Webhook], error) {
	return answerWebhook(a.Webhooks.Get(ctx, in.ID))
}

func answerWebhook(w webhook.Endpoint, err error) (*body[Webhook], error) {
	if err != nil {
		return nil, err
	}
	return &body[Webhook]{Webhook(w)}, nil
}

type updateWebhookInput struct {
	IDPath

	Body struct {
		URL         *string   `json:"url,omitempty" maxLength:"2048"`
		Events      *[]string `json:"events,omitempty" maxItems:"100"`
		Description *string   `json:"description,omitempty" maxLength:"200"`
		Active      *bool     `json:"active,omitempty" doc:"false sends nothing more, and keeps nothing of what happens meanwhile."`
	}
}

func (a *api) updateWebhook(ctx context.Context, in *updateWebhookInput) (*body[Webhook], error) {
	return answerWebhook(a.Webhooks.Update(ctx, actorOf(ctx), in.ID, webhook.Patch{
		URL: in.Body.URL, Events: in.Body.Events, Description: in.Body.Description, Active: in.Body.Active,
	}))
}

func (a *api) deleteWebhook(ctx context.Context, in *IDPath) (*struct{}, error) {
	return nil, a.Webhooks.Delete(ctx, actorOf(ctx), in.ID)
}

func (a *api) listEventTypes(context.Context, *struct{}) (*body[List[event.Type]], error) {
	return listed(event.Types, ""), nil
}

// Delivery of an event to a webhook.
type Delivery struct {
	ID            uuid.UUID              `json:"id"`
	WebhookID     uuid.UUID              `json:"webhook_id"`
	EventID       uuid.UUID              `json:"event_id" doc:"Sent as webhook-id, the same at each attempt."`
	Type          string                 `json:"type" example:"tenant.created"`
	Status        webhook.DeliveryStatus `json:"status" enum:"pending,delivered,dead"`
	Attempts      int32                  `json:"attempts"`
	NextAttemptAt *time.Time             `json:"next_attempt_at" doc:"Null when it has finished."`
	LastStatus    *int32                 `json:"last_status" doc:"HTTP status of the last answer; null when there was none."`
	LastError     string                 `json:"last_error"`
	CreatedAt     time.Time              `json:"created_at"`
	FinishedAt    *time.Time             `json:"finished_at"`
}

func deliveryOf(d webhook.Delivery) Delivery {
	out := Delivery{
		ID: d.ID, WebhookID: d.EndpointID, EventID: d.EventID, Type: d.Type, Status: d.Status, Attempts: d.Attempts,
		LastStatus: d.LastStatus, LastError: d.LastError, CreatedAt: d.CreatedAt, FinishedAt: d.FinishedAt,
	}
	if d.Status == webhook.DeliveryPending {
		out.NextAttemptAt = &d.NextAttemptAt
	}
	return out
}

func answerDelivery(d webhook.Delivery, err error) (*body[Delivery], error) {
	if err != nil {
		return nil, err
	}
	return &body[Delivery]{deliveryOf(d)}, nil
}

func (a *api) testWebhook(ctx context.Context, in *IDPath) (*body[Delivery], error) {
	return answerDelivery(a.Webhooks.Test(ctx, actorOf(ctx), in.ID))
}

func (a *api) redeliver(ctx context.Context, in *IDPath) (*body[Delivery], error) {
	return answerDelivery(a.Webhooks.Redeliver(ctx, actorOf(ctx), in.ID))
}

type listDeliveriesInput struct {
	IDPath
	Paging

	Status webhook.DeliveryStatus `query:"status" enum:"pending,delivered,dead" doc:"dead: all attempts have failed."`
}

func (a *api) listDeliveries(ctx context.Context, in *listDeliveriesInput) (*body[List[Delivery]], error) {
	f := webhook.Filter{Status: in.Status, Limit: in.Limit + 1}
	after, err := page.Parse(in.Cursor, newestFirst)
	if err != nil {
		return nil, err
	}
	if after != nil {
		at, err := time.Parse(time.RFC3339Nano, after.Value)
		id, idErr := uuid.Parse(after.ID)
		if err != nil || idErr != nil {
			return nil, fault.Invalid("The cursor is not one of this list. Begin again without it.").OnField("cursor", "cursor", "This is not a cursor of this list.")
		}
		f.Before = &webhook.Delivery{CreatedAt: at, ID: id}
	}
	found, err := a.Webhooks.Deliveries(ctx, in.ID, f)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(found) > in.Limit {
		found = found[:in.Limit]
		last := found[len(found)-1]
		next = page.Cursor{Sort: newestFirst, Value: last.CreatedAt.UTC().Format(time.RFC3339Nano), ID: last.ID.String()}.String()
	}
	items := make([]Delivery, 0, len(found))
	for _, d := range found {
		items = append(items, deliveryOf(d))
	}
	return listed(items, next), nil
}
