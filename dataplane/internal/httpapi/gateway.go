package httpapi

import (
	"fmt"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi/apidoc"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
)

// gatewayOf is what a gateway, a CDN or a firewall in front of the nodes must
// know: which routes take no token, and what a token is.
func gatewayOf(document *huma.OpenAPI) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# In front of the nodes

Generated from the OpenAPI document by `+"`make generate`"+`; do not edit.

A node finds the tenant by the request's **Host** and needs nothing else from a gateway. Pass the Host on
as it came. A gateway that cannot may send `+"`X-Tenant: <slug>`"+`; it is believed only from the
addresses in `+"`OUVIRA_TRUSTED_PROXIES`"+`, as are `+"`X-Forwarded-For`"+` and its sisters, and refused with 400 when
Host names another tenant. Take both off whatever comes from outside.

Each path answers with and without a trailing slash, and with the prefix `+"`/api`"+`: `+"`/company`, `/company/`, `/api/company`"+`
and `+"`/api/company/`"+` are one. `+"`/swagger`, `/swagger.json`, `/swagger.yaml` and `/openapi.json`"+` answer on any Host.
Health and metrics are on the internal port and belong on no gateway.

## The token contract

`+"`Authorization: Bearer <token>`"+`, where the token is an access token or an API key.

An access token is a JWT, signed with **ES256** by a key of its tenant. The public keys are at
`+"`/.well-known/jwks.json`"+` on each of the tenant's hosts (cache it for a minute). A gateway may verify tokens
itself; the node does so again, and only the node knows whether the session still counts.

| claim | |
| --- | --- |
| header `+"`kid`"+` | which of the tenant's keys |
| `+"`iss`"+` | the platform's address of the tenant (of its slug, never of a custom domain) |
| `+"`aud`"+` | the tenant's id |
| `+"`sub`"+` | the user's id within the tenant |
| `+"`sid`"+` | the session |
| `+"`gen`"+` | the tenant's token epoch; an older one counts for nothing |
| `+"`typ`"+` | `+"`access`"+` |
| `+"`exp`"+` | %d minutes after it was made |

## Routes

"open" takes no token, "login" any of the tenant's tokens, and a permission is asked for by the node in the
company that the request is about.

| method | path | takes |
| --- | --- | --- |
`, int(identity.AccessLifetime.Minutes()))
	for _, o := range apidoc.Operations(document) {
		takes := "login"
		switch p := apidoc.Permission(o); {
		case apidoc.Open(o):
			takes = "**open**"
		case p != "":
			takes = "`" + p + "`"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", o.Method, o.Path, takes)
	}
	return b.String()
}
