package httpapi

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// routes is the whole surface on one page. An operation is open to anyone, or
// reads as somebody, or writes as somebody (in one transaction).
func (s *server) routes(api huma.API) {
	open(s, api, op(http.MethodPost, "/auth/login", "login", "Sign in with a password", http.StatusOK), s.login)
	open(s, api, op(http.MethodPost, "/auth/token/refresh", "refresh-token", "Change a refresh token for new tokens", http.StatusOK), s.refresh)
	open(s, api, op(http.MethodPost, "/auth/password/reset", "reset-password", "Set a password with the token of a mailed link", http.StatusOK), s.resetPassword)
	write(s, api, op(http.MethodPost, "/auth/logout", "logout", "End this session", http.StatusResetContent), s.logout)
	open(s, api, op(http.MethodGet, "/.well-known/jwks.json", "signing-keys", "The public keys of this tenant's tokens", http.StatusOK), s.jwks)

	open(s, api, op(http.MethodPost, "/account/register", "register", "Make an account and sign in", http.StatusCreated), s.register)
	read(s, api, op(http.MethodGet, "/account/me", "me", "Who is signed in", http.StatusOK), s.me)
	read(s, api, op(http.MethodGet, "/account/profile", "profile", "One's own profile", http.StatusOK), s.me)

	read(s, api, op(http.MethodGet, "/company", "list-companies", "Companies that one can see", http.StatusOK), s.listCompanies)
	write(s, api, op(http.MethodPost, "/company", "create-company", "Make a company and become its owner", http.StatusCreated), s.createCompany)
	read(s, api, op(http.MethodGet, "/company/{id}", "get-company", "One company", http.StatusOK), s.getCompany)
}
