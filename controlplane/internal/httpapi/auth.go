package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/telemetry"
)

// cookieName has the prefix __Host- where the browser would honour it: such a
// cookie comes from this very host and travels over https only.
func (a *api) cookieName() string {
	if a.options.SecureCookies {
		return "__Host-ouvira_session"
	}
	return "ouvira_session"
}

func (a *api) cookie(value string, lifetime time.Duration) string {
	c := http.Cookie{ //nolint:gosec // not Secure on a plain http address, where a browser would drop it
		Name: a.cookieName(), Value: value, Path: "/", MaxAge: int(lifetime.Seconds()),
		HttpOnly: true, Secure: a.options.SecureCookies, SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c.String()
}

// Tokens of an operator's login.
type Tokens struct {
	AccessToken  string `json:"access_token,omitempty" doc:"Send it as a bearer token. Absent from a cookie login."`
	ExpiresIn    int    `json:"expires_in" doc:"Seconds."`
	RefreshToken string `json:"refresh_token,omitempty" doc:"Good once, for new tokens. Absent from a cookie login."`
}

type loginInput struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Email    string `json:"email" maxLength:"254"`
		Password string `json:"password" maxLength:"1024"`
		OTP      string `json:"otp,omitempty" maxLength:"16" doc:"The second factor, for accounts that have one."`
		Cookie   bool   `json:"cookie,omitempty" doc:"For browsers: answer with a cookie instead of tokens."`
	}
}

type tokensOutput struct {
	SetCookie []string `header:"Set-Cookie"`
	Body      Tokens
}

func (a *api) login(ctx context.Context, in *loginInput) (*tokensOutput, error) {
	if in.Body.Cookie {
		// A login that another page started would make the browser work for
		// that page's author.
		if err, _ := ctx.Value(originKey{}).(error); err != nil {
			return nil, err
		}
	}
	t, err := a.Operators.Login(ctx, operator.Credentials{
		Email: in.Body.Email, Password: in.Body.Password, Cookie: in.Body.Cookie,
		UserAgent: in.UserAgent, IP: httpserver.ClientIP(ctx), RequestID: telemetry.RequestID(ctx),
	})
	if err != nil {
		return nil, err
	}
	out := &tokensOutput{Body: Tokens{ExpiresIn: int(t.ExpiresIn.Seconds())}}
	if in.Body.Cookie {
		out.SetCookie = []string{a.cookie(t.Access, operator.CookieLifetime)}
		return out, nil
	}
	out.Body.AccessToken, out.Body.RefreshToken = t.Access, t.Refresh
	return out, nil
}

type refreshInput struct {
	Body struct {
		RefreshToken string `json:"refresh_token" maxLength:"128"`
	}
}

func (a *api) refresh(ctx context.Context, in *refreshInput) (*tokensOutput, error) {
	t, err := a.Operators.Refresh(ctx, in.Body.RefreshToken)
	if err != nil {
		return nil, err
	}
	return &tokensOutput{Body: Tokens{AccessToken: t.Access, RefreshToken: t.Refresh, ExpiresIn: int(t.ExpiresIn.Seconds())}}, nil
}

type logoutOutput struct {
	SetCookie []string `header:"Set-Cookie"`
}

func (a *api) logout(ctx context.Context, _ *struct{}) (*logoutOutput, error) {
	if err := a.Operators.Logout(ctx, actorOf(ctx), principalOf(ctx)); err != nil {
		return nil, err
	}
	return &logoutOutput{SetCookie: []string{a.cookie("", 0)}}, nil
}

// Operator is an account.
type Operator struct {
	ID          uuid.UUID     `json:"id"`
	Email       string        `json:"email"`
	FullName    string        `json:"full_name"`
	Role        operator.Role `json:"role" enum:"owner,operator,support,auditor"`
	IsActive    bool          `json:"is_active"`
	LastLoginAt *time.Time    `json:"last_login_at"`
	CreatedAt   time.Time     `json:"created_at"`
}

// Me is the account of the caller.
type Me struct {
	ID       uuid.UUID     `json:"id"`
	Email    string        `json:"email"`
	FullName string        `json:"full_name"`
	Role     operator.Role `json:"role" enum:"owner,operator,support,auditor"`
}

func (a *api) me(ctx context.Context, _ *struct{}) (*body[Me], error) {
	p := principalOf(ctx)
	return &body[Me]{Me{ID: p.OperatorID, Email: p.Email, FullName: p.FullName, Role: p.Role}}, nil
}

func (a *api) listOperators(ctx context.Context, _ *struct{}) (*body[List[Operator]], error) {
	found, err := a.Operators.List(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Operator, 0, len(found))
	for _, o := range found {
		items = append(items, Operator(o))
	}
	return listed(items, ""), nil
}
