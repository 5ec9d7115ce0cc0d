package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/route"
)

type loginInput struct {
	Body struct {
		Identifier string `json:"identifier" minLength:"1" maxLength:"254" doc:"Email address, phone number or user name." example:"owner@acme.example"`
		Password   string `json:"password" minLength:"1" maxLength:"1024" format:"password"`
		RememberMe bool   `json:"remember_me,omitempty" doc:"Stay signed in for 30 days without use instead of 7."`
	}
}

type signedIn struct {
	Body struct {
		Tokens TokenPair `json:"tokens"`
		User   User      `json:"user"`
	}
}

// TokenPair is what a client is signed in with.
type TokenPair struct {
	Access    string `json:"access" doc:"Send it as Authorization: Bearer."`
	Refresh   string `json:"refresh" doc:"Change it for new tokens at /auth/token/refresh. It works once."`
	ExpiresIn int64  `json:"expires_in" doc:"Seconds until the access token expires." example:"900"`
}

// tokens is how an answer hands tokens over.
func (sc *scope) tokens(t identity.Tokens) TokenPair {
	return TokenPair{Access: t.Access, Refresh: t.Refresh, ExpiresIn: int64(t.ExpiresIn.Seconds())}
}

func (sc *scope) signedIn(p identity.Profile, t identity.Tokens) *signedIn {
	var out signedIn
	out.Body.Tokens, out.Body.User = sc.tokens(t), userOf(p)
	return &out
}

func (s *server) login(ctx context.Context, sc *scope, in *loginInput) (*signedIn, error) {
	profile, tokens, err := s.Identity.Login(ctx, sc.tenant, identity.Login{
		Identifier: in.Body.Identifier, Password: in.Body.Password, Remember: in.Body.RememberMe,
	}, sc.client)
	if err != nil {
		return nil, err
	}
	return sc.signedIn(profile, tokens), nil
}

type refreshInput struct {
	Body struct {
		Refresh string `json:"refresh" minLength:"1" maxLength:"256"`
	}
}

type refreshOutput struct{ Body TokenPair }

func (s *server) refresh(ctx context.Context, sc *scope, in *refreshInput) (*refreshOutput, error) {
	tokens, err := s.Identity.Refresh(ctx, sc.tenant, in.Body.Refresh, sc.client)
	if err != nil {
		return nil, err
	}
	return &refreshOutput{sc.tokens(tokens)}, nil
}

type logoutInput struct {
	Body *struct {
		Refresh string `json:"refresh,omitempty" maxLength:"256" doc:"Of another session of yours, to end it too."`
	}
}

func (s *server) logout(ctx context.Context, tx pgx.Tx, c *caller, in *logoutInput) (*struct{}, error) {
	refresh := ""
	if in.Body != nil {
		refresh = in.Body.Refresh
	}
	return nil, s.Identity.Logout(ctx, c.tenant, tx, c.Actor, refresh, c.client)
}

type jwksOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Keys []route.JWK `json:"keys"`
	}
}

func (s *server) jwks(_ context.Context, sc *scope, _ *struct{}) (*jwksOutput, error) {
	out := &jwksOutput{CacheControl: "public, max-age=60"}
	out.Body.Keys = append([]route.JWK{}, sc.tenant.Route.Keys...) // never null
	return out, nil
}
