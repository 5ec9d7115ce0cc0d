package httpapi

import (
	"context"
	"time"
)

// WarmPool is how many databases are kept ready on a server for a plan.
type WarmPool struct {
	Server    string    `json:"server"`
	Plan      string    `json:"plan"`
	Size      int       `json:"size" doc:"What is asked for."`
	Ready     int       `json:"ready" doc:"What a new tenant can have at once."`
	Making    int       `json:"making"`
	Outdated  int       `json:"outdated" doc:"Of another schema, or of the plan as it was: they are replaced, and not given to anybody."`
	UpdatedAt time.Time `json:"updated_at"`
}

func (a *api) listWarmPool(ctx context.Context, _ *struct{}) (*body[List[WarmPool]], error) {
	targets, err := a.Provision.Targets(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]WarmPool, 0, len(targets))
	for _, t := range targets {
		items = append(items, WarmPool(t))
	}
	return listed(items, ""), nil
}

type resizeWarmPoolInput struct {
	Body struct {
		Server string `json:"server" maxLength:"63" doc:"Name or id."`
		Plan   string `json:"plan" maxLength:"100" doc:"Code."`
		Size   int    `json:"size" doc:"0 to 1000."`
	}
}

func (a *api) resizeWarmPool(ctx context.Context, in *resizeWarmPoolInput) (*body[List[WarmPool]], error) {
	if err := a.Provision.SetTarget(ctx, actorOf(ctx), in.Body.Server, in.Body.Plan, in.Body.Size); err != nil {
		return nil, err
	}
	return a.listWarmPool(ctx, nil)
}
