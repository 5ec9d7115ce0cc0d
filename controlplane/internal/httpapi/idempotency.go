package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/shared/httpserver"
	sharedreplay "github.com/ouvira/ouvira/shared/replay"
)

// apart are the POSTs that are not one transaction with their Idempotency-Key, and
// why. Each can be done a second time without harm, which is what happens when the
// process dies between the work and its answer.
var apart = map[string]string{ //nolint:gosec // names of operations, no credentials
	"login":                 "an attempt is counted also when it fails",
	"refresh":               "the token that is shown counts once",
	"confirm":               "an attempt is counted also when it fails",
	"change-password":       "an attempt is counted also when it fails",
	"disable-second-factor": "an attempt is counted also when it fails",
	"renew-backup-codes":    "an attempt is counted also when it fails; the last set counts",
	"reset-password":        "a password is hashed in between; the link counts once",
	"accept-invitation":     "a password is hashed in between; the link counts once",
	"verify-signup":         "an attempt is counted also when it fails; the tenant is made once",
	"verify-domain":         "the DNS is asked in between",
	"check-domain":          "the DNS is asked in between",
	"add-server":            "a server is prepared; its name is taken once",
	"prepare-server":        "a server is prepared",
	"import-tenant":         "an archive is received; the slug is taken once",
	"adopt-tenant":          "a server is asked in between; its tenant is taken in once",
	"repair":                "servers are asked in between; what was mended is not found again",
}

// sentKey is the Idempotency-Key of a request.
type sentKey struct {
	values []string // as they were sent
	target string   // path and query
	answer http.Header
}

type sentKeyKey struct{}

// readKey keeps what a POST says of its key for once.
func readKey(hctx huma.Context, next func(huma.Context)) {
	r, w := humachi.Unwrap(hctx)
	if values := r.Header.Values(sharedreplay.HeaderKey); len(values) > 0 && r.Method == http.MethodPost {
		hctx = huma.WithValue(hctx, sentKeyKey{}, sentKey{values, r.URL.RequestURI(), w.Header()})
	}
	next(hctx)
}

// once does the work of a request, unless its key says that it was done: then it
// answers as then.
func once[I, O any](ctx context.Context, a *api, id string, in *I, h handler[I, O]) (*O, error) {
	sent, ok := ctx.Value(sentKeyKey{}).(sentKey)
	if !ok {
		return h(ctx, in)
	}
	key, err := sent.of(ctx, id, in)
	if err != nil {
		return nil, err
	}
	do := replay.Do
	if _, ok := apart[id]; ok {
		do = replay.Apart
	}
	var out *O
	answered, err := do(ctx, a.DB.Pool, key, func(ctx context.Context) (json.RawMessage, error) {
		var err error
		if out, err = h(ctx, in); err != nil {
			return nil, err
		}
		return sharedreplay.Remember(out)
	})
	if err != nil || !answered.Replay {
		return out, err
	}
	out, omitted, err := sharedreplay.Recall[O](answered.Answer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	httpserver.Annotate(ctx, "replayed", "true")
	sent.answer.Set(sharedreplay.HeaderReplayed, "true")
	if len(omitted) > 0 {
		sent.answer.Set(sharedreplay.HeaderOmitted, strings.Join(omitted, ", "))
	}
	return out, nil
}

// of is the key, by whose it is. Who is not signed in has the keys of their address:
// somebody else's is of no use there without all of the request that it came with, and
// then shows what was answered to that, without its secrets.
func (s sentKey) of(ctx context.Context, id string, in any) (sharedreplay.Key, error) {
	text := s.values[0]
	if len(s.values) > 1 {
		text = "" // which is no key
	}
	request, err := json.Marshal([]any{id, s.target, in})
	if err != nil {
		return sharedreplay.Key{}, fmt.Errorf("read the input of %s: %w", id, err)
	}
	return sharedreplay.NewKey(keyOwner(ctx), text, request)
}

func keyOwner(ctx context.Context) string {
	p := principalOf(ctx)
	switch {
	case p.Key != nil: // which may see less than its operator has been answered
		return "key " + p.Key.ID.String()
	case p.OperatorID.Version() != 0:
		return "operator " + p.OperatorID.String()
	}
	return "address " + networkOf(httpserver.ClientIP(ctx)).String()
}

// networkOf is what one caller has: an address, or a /64.
func networkOf(client netip.Addr) netip.Prefix {
	bits := 32
	if client.Is6() {
		bits = 64
	}
	network, _ := client.Prefix(bits) // of no address it is none
	return network
}

// hasten runs a new tenant's operation at once, where that is quick: after the
// transaction of the request, if it has one.
func (a *api) hasten(ctx context.Context, o *operation.Operation) bool {
	if replay.After(ctx, func(ctx context.Context) { a.Provision.Hasten(ctx, o) }) {
		return false
	}
	return a.Provision.Hasten(ctx, o)
}
