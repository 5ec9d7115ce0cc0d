package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/page"
)

// Operation is a piece of long-running work.
type Operation struct {
	ID         uuid.UUID        `json:"id" format:"uuid"`
	Kind       string           `json:"kind" example:"tenant.provision"`
	TenantID   *uuid.UUID       `json:"tenant_id"`
	Tenant     *string          `json:"tenant" doc:"Slug of the tenant." example:"acme"`
	Status     operation.Status `json:"status" enum:"queued,running,succeeded,failed,cancelled"`
	Steps      []Step           `json:"steps" nullable:"false"`
	Progress   float64          `json:"progress" minimum:"0" maximum:"1"`
	Error      *OperationError  `json:"error" doc:"Why it waits or has failed; null otherwise."`
	CreatedBy  string           `json:"created_by" example:"operator:01900000-0000-7000-8000-000000000001"`
	CreatedAt  time.Time        `json:"created_at"`
	UpdatedAt  time.Time        `json:"updated_at"`
	FinishedAt *time.Time       `json:"finished_at"`
}

// Step of an operation.
type Step struct {
	Name       string     `json:"name" example:"database"`
	Status     string     `json:"status" enum:"pending,running,succeeded,failed"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// OperationError says why an operation waits or has failed.
type OperationError struct {
	Code       string `json:"code" example:"no_capacity"`
	Message    string `json:"message"`
	NextAction string `json:"next_action" doc:"What a person can do about it."`
}

func operationOf(o *operation.Operation) Operation {
	out := Operation{
		ID: o.ID, Kind: o.Kind, TenantID: o.TenantID, Tenant: o.Tenant, Status: o.Status, Progress: o.Progress, CreatedBy: o.CreatedBy,
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt, FinishedAt: o.FinishedAt, Error: (*OperationError)(o.Error),
		Steps: make([]Step, 0, len(o.Steps)),
	}
	for _, s := range o.Steps {
		out.Steps = append(out.Steps, Step(s))
	}
	return out
}

type listOperationsInput struct {
	Paging

	Kind   string           `query:"kind" maxLength:"100"`
	Status operation.Status `query:"status" enum:"queued,running,succeeded,failed,cancelled"`

	Unresolved bool `query:"unresolved" doc:"Only those that have failed, where the same has not succeeded since."`
}

func (a *api) listOperations(ctx context.Context, in *listOperationsInput) (*body[List[Operation]], error) {
	return a.operationsPage(ctx, in.Paging, operation.Filter{Kind: in.Kind, Status: in.Status, Unresolved: in.Unresolved})
}

func (a *api) operationsPage(ctx context.Context, p Paging, f operation.Filter) (*body[List[Operation]], error) {
	after, err := page.Parse(p.Cursor, newestFirst)
	if err != nil {
		return nil, err
	}
	if after != nil {
		f.Before = uuid.MustParse(after.ID) // page.Parse has looked
	}
	f.Limit = p.Limit + 1
	found, err := a.Operations.List(ctx, f)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(found) > p.Limit {
		found = found[:p.Limit]
		next = page.Cursor{Sort: newestFirst, ID: found[p.Limit-1].ID.String()}.String()
	}
	items := make([]Operation, 0, len(found))
	for _, o := range found {
		items = append(items, operationOf(o))
	}
	return listed(items, next), nil
}

type operationPath struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (a *api) showOperation(ctx context.Context, in *operationPath) (*body[Operation], error) {
	o, err := a.Operations.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &body[Operation]{operationOf(o)}, nil
}

// cancelOperation answers as soon as it is decided; follow the operation to hear when
// all that it had made is gone.
func (a *api) cancelOperation(ctx context.Context, in *operationPath) (*body[OperationOnly], error) {
	if err := a.Runner.Cancel(ctx, actorOf(ctx), in.ID); err != nil {
		return nil, err
	}
	return a.operationOnly(ctx, in.ID)
}

const (
	// keepAlive is how often a silent stream says that it lives: proxies close
	// what is silent for a minute.
	keepAlive = 15 * time.Second
	// streamWrite bounds one write to a reader who may have gone.
	streamWrite = 10 * time.Second
	// maxStream ends a stream that nobody ended; EventSource comes back.
	maxStream = 30 * time.Minute
)

// watchOperation streams the operation as it is now, then each change, and
// ends when it has finished. Each event's data is the operation's document.
func (a *api) watchOperation(ctx context.Context, in *operationPath) (*huma.StreamResponse, error) {
	if _, err := a.Operations.Get(ctx, in.ID); err != nil {
		return nil, err // while it can still be a 404
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		r, w := humachi.Unwrap(hctx)
		a.stream(r.Context(), w, in.ID)
	}}, nil
}

func (a *api) stream(ctx context.Context, w http.ResponseWriter, id uuid.UUID) {
	ctx, cancel := context.WithTimeout(ctx, maxStream)
	defer cancel()
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // nothing more is read; the deadline would end ctx
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")

	changes := make(chan *operation.Operation)
	go func() {
		defer close(changes)
		// Its error is the end of the stream, which is all a reader can be told.
		_ = a.Operations.Watch(ctx, id, func(o *operation.Operation) error {
			select {
			case changes <- o:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	silence := time.NewTicker(keepAlive)
	defer silence.Stop()
	for {
		text := ": still here\n\n"
		select {
		case o, more := <-changes:
			if !more {
				return
			}
			document, err := json.Marshal(operationOf(o))
			if err != nil {
				return
			}
			text = fmt.Sprintf("id: %d\ndata: %s\n\n", o.UpdatedAt.UnixMicro(), document)
		case <-silence.C:
		case <-a.options.Draining:
			return
		case <-ctx.Done():
			return
		}
		_ = control.SetWriteDeadline(time.Now().Add(streamWrite))
		if _, err := w.Write([]byte(text)); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
	}
}
