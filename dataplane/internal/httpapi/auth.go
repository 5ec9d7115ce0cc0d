package httpapi

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/usage"
	"github.com/ouvira/ouvira/shared/fault"
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
	Access    string `json:"access" doc:"Send it as Authorization: Bearer. Empty when X-Auth-Mode asked for cookies alone."`
	Refresh   string `json:"refresh" doc:"Change it for new tokens at /auth/token/refresh. It works once."`
	ExpiresIn int64  `json:"expires_in" doc:"Seconds until the access token expires." example:"900"`
	CSRF      string `json:"csrf,omitempty" doc:"With cookies: send it as X-CSRF-Token with what changes something. It is in the cookie __Host-ouvira_csrf too." example:"3q2-7wAAq83vEjRWeJC63v4QIDBAUGBwgJCgsMDQ4PA"`
}

// tokens is how an answer hands tokens over: in its body, and in cookies where
// they count. A page of another origin signs nobody in by cookies.
func (sc *scope) tokens(t identity.Tokens) TokenPair {
	pair := TokenPair{Access: t.Access, Refresh: t.Refresh, ExpiresIn: int64(t.ExpiresIn.Seconds())}
	if sc.cookies == nil || sc.cookies.foreign != nil {
		return pair
	}
	pair.CSRF = sc.cookies.give(sc.answer, t)
	if sc.cookies.alone {
		pair.Access, pair.Refresh = "", ""
	}
	return pair
}

func (sc *scope) signedIn(p identity.Profile, t identity.Tokens) *signedIn {
	var out signedIn
	out.Body.Tokens, out.Body.User = sc.tokens(t), userOf(p)
	return &out
}

// loginOutput is the end of a login, or with a second factor its first half.
type loginOutput struct {
	Body struct {
		Tokens *TokenPair `json:"tokens,omitempty"`
		User   *User      `json:"user,omitempty"`

		Requires2FA bool   `json:"requires_2fa,omitempty" doc:"The password was right, and a code is wanted: send it with session_id to /auth/login-2fa-verify-code." example:"false"`
		SessionID   string `json:"session_id,omitempty" doc:"Of the second half of the login; good for nothing else." example:"ovc_Zt7pR2vYc9Lk4QmX8sWb1NhJ6dGfA3eUoI5rTqVyKzE"`
		TwoFAType   string `json:"two_fa_type,omitempty" enum:"totp,sms" doc:"Where the code comes from." example:"totp"`
		CodeSent    *bool  `json:"code_sent,omitempty" doc:"Of SMS: whether a code is on its way. If not, there were too many for now, and a backup code is left." example:"true"`
		ExpiresIn   int64  `json:"expires_in,omitempty" doc:"Seconds that are left for the second half." example:"600"`
	}
}

func (s *server) login(ctx context.Context, sc *scope, in *loginInput) (*loginOutput, error) {
	end, err := s.Identity.Login(ctx, sc.tenant, identity.Login{
		Identifier: in.Body.Identifier, Password: in.Body.Password, Remember: in.Body.RememberMe,
	}, sc.client)
	if err != nil {
		return nil, err
	}
	var out loginOutput
	if half := end.Challenge; half != nil {
		out.Body.Requires2FA, out.Body.SessionID = true, half.SessionID
		out.Body.TwoFAType, out.Body.ExpiresIn = half.Method, int64(half.ExpiresIn.Seconds())
		if half.Method == identity.SMS {
			out.Body.CodeSent = &half.CodeSent
		}
		return &out, nil
	}
	s.countLogin(sc)
	tokens, user := sc.tokens(end.Tokens), userOf(end.Profile)
	out.Body.Tokens, out.Body.User = &tokens, &user
	return &out, nil
}

// countLogin counts somebody who has signed in, in whatever way.
func (s *server) countLogin(sc *scope) {
	s.Usage.Add(sc.tenant.Route.TenantID, usage.Sum{Logins: 1})
}

type refreshInput struct {
	Body *struct {
		Refresh string `json:"refresh,omitempty" maxLength:"256" doc:"Left out with cookies."`
	}
}

type refreshOutput struct{ Body TokenPair }

// refresh takes the token from the body, or else from its cookie.
func (s *server) refresh(ctx context.Context, sc *scope, in *refreshInput) (*refreshOutput, error) {
	sent := ""
	if in.Body != nil {
		sent = in.Body.Refresh
	}
	token, err := sc.refreshToken(sent)
	if err != nil {
		return nil, err
	}
	if token == "" {
		const message = "Send the refresh token."
		return nil, fault.Invalid(message).OnField("refresh", "required", message)
	}
	tokens, err := s.Identity.Refresh(ctx, sc.tenant, token, sc.client)
	if err != nil {
		return nil, err
	}
	return &refreshOutput{sc.tokens(tokens)}, nil
}

// refreshToken is the one of the body, or else that of the cookie when a page
// of ours has sent it.
func (sc *scope) refreshToken(sent string) (string, error) {
	if sent != "" || sc.cookies == nil || sc.cookies.refresh == "" {
		return sent, nil
	}
	return sc.cookies.refresh, sc.cookies.proven()
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
	if c.cookies != nil {
		c.cookies.take(c.answer)
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
	out := &jwksOutput{CacheControl: fmt.Sprintf("public, max-age=%d", int(route.KeysLifetime.Seconds()))}
	out.Body.Keys = append([]route.JWK{}, sc.tenant.Route.Keys...) // never null
	return out, nil
}
