package httpapi

import "github.com/danielgtaylor/huma/v2"

func describe(document *huma.OpenAPI) {
	document.Info.Description = "What one tenant's apps and users call. The tenant is found by the Host of the request. " +
		"Every path answers with and without a trailing slash, and under the prefix /api too."
	document.Info.Version = "1"
	document.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	document.Components.SecuritySchemes["cookie"] = &huma.SecurityScheme{
		Type: "apiKey", In: "cookie", Name: cookieAccess,
		Description: "The access token, where the platform has cookies switched on. It counts when there is no Authorization header. " +
			"What changes something needs the header " + headerCSRF + " too. Sign in with " + headerAuthMode + ": " + authModeCookie + " to have the tokens in cookies alone.",
	}
	document.Components.SecuritySchemes["csrf"] = &huma.SecurityScheme{
		Type: "apiKey", In: "header", Name: headerCSRF,
		Description: "With cookies: the field csrf of the answer that signed in, which is in the cookie " + cookieCSRF + " too. GET does not need it.",
	}
	document.Security = append(document.Security, map[string][]string{"cookie": {}, "csrf": {}})
	document.Tags = []*huma.Tag{
		{Name: "auth", Description: "Signing up, in and out; the second factor; passwords; devices."},
		{Name: "account", Description: "One's own account, the users of the workspace, API keys, support access."},
		{Name: "company", Description: "Companies and subsidiaries, their settings, members and invitations."},
		{Name: "access-control", Description: "Who may do what: permissions, roles, memberships, assignments, invitations; what it comes to, and why."},
		{Name: "audit", Description: "What was done and looked at, and the proof that nothing was changed in it."},
		{Name: "notifications", Description: "What a user is told inside the app."},
		{Name: "organization", Description: "Departments, job titles, positions, locations and the chart."},
	}
}

// examples of fields by their names, for the document.
//
//nolint:gosec // examples of tokens, none of which is one
var examples = map[string]any{
	"full_name":               "Jane Doe",
	"email":                   "jane@acme.example",
	"identifier":              "jane@acme.example",
	"username":                "jane@acme.example",
	"primary_mobile":          "+4915112345678",
	"access":                  "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiIxIn0.c2ln",
	"refresh":                 "q3Jm2nB8s5V7x0ZkT4yHcW9dLrE1uPaGfKo6iXjMwNs",
	"token":                   "Zt7pR2vYc9Lk4QmX8sWb1NhJ6dGfA3eUoI5rTqVyKzE",
	"turnstile_token":         "0.mF74FV8wEufAWOdvLak7hJcyqr5mBk4Q",
	"signup_token":            "ovs_Zt7pR2vYc9Lk4QmX8sWb1NhJ6dGfA3eUoI5rTqVyKzE",
	"session_id":              "ovc_Zt7pR2vYc9Lk4QmX8sWb1NhJ6dGfA3eUoI5rTqVyKzE",
	"backup_code":             "ABCD-EFGH-IJKL-MNOP",
	"invitation_token":        "Zt7pR2vYc9Lk4QmX8sWb1NhJ6dGfA3eUoI5rTqVyKzE",
	"message":                 "Done.",
	"detail":                  "Done.",
	"name":                    "Acme North",
	"description":             "What it is for.",
	"address":                 "1 Harbour Street, Hamburg",
	"default_language":        "en",
	"default_currency":        "EUR",
	"timezone":                "Europe/Berlin",
	"feature_flags":           map[string]any{"beta_reports": true},
	"kid":                     "k1",
	"kty":                     "EC",
	"crv":                     "P-256",
	"alg":                     "ES256",
	"use":                     "sig",
	"x":                       "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
	"y":                       "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
	"count":                   1,
	"fiscal_year_start_month": 1,
}
