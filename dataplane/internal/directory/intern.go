package directory

import "github.com/ouvira/ouvira/shared/route"

// intern replaces the strings that thousands of routes have in common by one
// copy of each: a known tenant costs less than a kilobyte.
func intern(r *route.Route) {
	r.Status = constant(r.Status, route.StatusActive, route.StatusSuspended)
	r.Mode = constant(r.Mode, route.ModeServe, route.ModeHold, route.ModeMaintenance)
	for i := range r.Keys {
		k := &r.Keys[i]
		k.Kty = constant(k.Kty, "EC")
		k.Crv = constant(k.Crv, "P-256")
		k.Alg = constant(k.Alg, "ES256")
		k.Use = constant(k.Use, "sig")
	}
	if len(r.Hosts) == 0 {
		r.Hosts = nil
	}
}

func constant[S ~string](s S, known ...S) S {
	for _, k := range known {
		if s == k {
			return k
		}
	}
	return s
}
