package httpapi

import (
	"context"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/keyring"
)

// Key of one of the planes.
type Key struct {
	Kind  keyring.Kind  `json:"kind" enum:"control,data"`
	ID    uint32        `json:"id" example:"1748203311" doc:"As in the key file (keyId)."`
	State keyring.State `json:"state" enum:"seals,opens,missing" doc:"seals: what is new is sealed with it. opens: what it has sealed can be opened. missing: something is sealed with it, and no process has it."`
	Needs []KeyNeed     `json:"needs" nullable:"false" doc:"What is sealed with it, and what else is in the way of removing it."`
	Free  bool          `json:"free" doc:"Nothing needs it any more: it may be removed from the key files."`
}

// KeyNeed is why a key is kept.
type KeyNeed struct {
	What  string     `json:"what" example:"backups" doc:"A name that ends in _unseen: nobody has looked yet with which key they are sealed."`
	Count int        `json:"count"`
	Until *time.Time `json:"until" doc:"Of backups: when the rules remove the last of them."`
}

func (a *api) listKeys(ctx context.Context, _ *struct{}) (*body[List[Key]], error) {
	keys, err := a.Keys.List(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Key, 0, len(keys))
	for _, k := range keys {
		item := Key{Kind: k.Kind, ID: k.ID, State: k.State, Free: k.Free, Needs: []KeyNeed{}}
		for _, n := range k.Needs {
			item.Needs = append(item.Needs, KeyNeed(n))
		}
		items = append(items, item)
	}
	return listed(items, ""), nil
}

type rotateKeyInput struct {
	Kind keyring.Kind `path:"kind" enum:"control,data"`
}

func (a *api) rotateKey(ctx context.Context, in *rotateKeyInput) (*body[OperationOnly], error) {
	return a.answerOperation(ctx)(a.Keys.Rotate(ctx, actorOf(ctx), in.Kind))
}
