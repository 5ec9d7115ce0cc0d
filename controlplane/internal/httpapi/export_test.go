package httpapi

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// CheckWith is the check of New on the API with one more operation: one that
// needs p, or that declares nothing when p is empty.
func CheckWith(path string, p operator.Permission) error {
	a, _ := build(Rooms{}, Options{Log: slog.New(slog.DiscardHandler)})
	if path != "" {
		o := huma.Operation{Method: http.MethodPut, Path: path}
		if p != "" {
			o.Metadata = map[string]any{accessKey: needs(p)}
		}
		huma.Register(a.huma, o, func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
	}
	return a.checkAccess()
}
