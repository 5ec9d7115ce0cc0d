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
	AccessToken  string `json:"access_token,omitempty" secret:"true" doc:"Send it as a bearer token. Absent from a cookie login."`
	ExpiresIn    int    `json:"expires_in" doc:"Seconds."`
	RefreshToken string `json:"refresh_token,omitempty" secret:"true" doc:"Good once, for new tokens. Absent from a cookie login."`
}

type loginInput struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Email    string `json:"email" maxLength:"254"`
		Password string `json:"password" maxLength:"1024"`
		OTP      string `json:"otp,omitempty" maxLength:"32" doc:"The code of the second factor, for accounts that have one; or a backup code."`
		Cookie   bool   `json:"cookie,omitempty" doc:"For browsers: answer with a cookie instead of tokens."`
	}
}

type tokensOutput struct {
	SetCookie []string `header:"Set-Cookie" secret:"true"`
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
		Email: in.Body.Email, Password: in.Body.Password, Code: in.Body.OTP, Cookie: in.Body.Cookie,
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
	SetCookie []string `header:"Set-Cookie" secret:"false"` // it takes the cookie away
}

func (a *api) logout(ctx context.Context, _ *struct{}) (*logoutOutput, error) {
	if err := a.Operators.Logout(ctx, actorOf(ctx), principalOf(ctx)); err != nil {
		return nil, err
	}
	return &logoutOutput{SetCookie: []string{a.cookie("", 0)}}, nil
}

// Me is the account of the caller.
type Me struct {
	ID           uuid.UUID     `json:"id"`
	Email        string        `json:"email"`
	FullName     string        `json:"full_name"`
	Role         operator.Role `json:"role" enum:"owner,operator,support,auditor"`
	SecondFactor bool          `json:"second_factor" doc:"Logins ask for a code besides the password."`
	APIKey       *string       `json:"api_key" doc:"Name of the API key that asks; null for a person."`
	Scopes       []string      `json:"scopes" nullable:"false" doc:"What the API key may; empty for a person, who may what the role may."`
}

func (a *api) me(ctx context.Context, _ *struct{}) (*body[Me], error) {
	p := principalOf(ctx)
	has, err := a.Operators.HasFactor(ctx, p.OperatorID)
	if err != nil {
		return nil, err
	}
	me := Me{ID: p.OperatorID, Email: p.Email, FullName: p.FullName, Role: p.Role, SecondFactor: has, Scopes: []string{}}
	if p.Key != nil {
		me.APIKey, me.Scopes = &p.Key.Name, p.Key.Scopes
	}
	return &body[Me]{me}, nil
}

// Proof is what somebody shows of themselves once more.
type Proof struct {
	Password string `json:"password" maxLength:"1024"`
	OTP      string `json:"otp,omitempty" maxLength:"32" doc:"The code of the second factor, for accounts that have one; or a backup code."`
}

func (p Proof) of() operator.Proof { return operator.Proof{Password: p.Password, Code: p.OTP} }

type proofInput struct{ Body Proof }

func (a *api) confirm(ctx context.Context, in *proofInput) (*struct{}, error) {
	return nil, a.Operators.Confirm(ctx, actorOf(ctx), principalOf(ctx), in.Body.of())
}

type changePasswordInput struct {
	Body struct {
		Proof

		NewPassword string `json:"new_password" maxLength:"1024"`
	}
}

func (a *api) changePassword(ctx context.Context, in *changePasswordInput) (*struct{}, error) {
	return nil, a.Operators.ChangePassword(ctx, actorOf(ctx), principalOf(ctx), in.Body.of(), in.Body.NewPassword)
}

type forgotPasswordInput struct {
	Body struct {
		Email string `json:"email" maxLength:"254"`
	}
}

func (a *api) forgotPassword(ctx context.Context, in *forgotPasswordInput) (*struct{}, error) {
	return nil, a.Operators.ForgotPassword(ctx, in.Body.Email)
}

type resetPasswordInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"128" doc:"From the link in the mail."`
		Password string `json:"password" maxLength:"1024"`
	}
}

func (a *api) resetPassword(ctx context.Context, in *resetPasswordInput) (*struct{}, error) {
	return nil, a.Operators.ResetPassword(ctx, in.Body.Token, in.Body.Password, httpserver.ClientIP(ctx), telemetry.RequestID(ctx))
}

// Enrolment is a second factor that waits for its first code.
type Enrolment struct {
	Secret      string   `json:"secret" secret:"true" doc:"For an authenticator app: base32."`
	URL         string   `json:"url" secret:"true" doc:"The same, for a QR code." example:"otpauth://totp/…"`
	BackupCodes []string `json:"backup_codes" secret:"true" nullable:"false" doc:"Each good once, when the app is lost. Shown this time only."`
}

func (a *api) enrolFactor(ctx context.Context, _ *struct{}) (*body[Enrolment], error) {
	e, err := a.Operators.EnrolFactor(ctx, actorOf(ctx), principalOf(ctx))
	if err != nil {
		return nil, err
	}
	return &body[Enrolment]{Enrolment(e)}, nil
}

type confirmFactorInput struct {
	Body struct {
		Code string `json:"code" maxLength:"32"`
	}
}

func (a *api) confirmFactor(ctx context.Context, in *confirmFactorInput) (*struct{}, error) {
	return nil, a.Operators.ConfirmFactor(ctx, actorOf(ctx), principalOf(ctx), in.Body.Code)
}

func (a *api) disableFactor(ctx context.Context, in *proofInput) (*struct{}, error) {
	return nil, a.Operators.DisableFactor(ctx, actorOf(ctx), principalOf(ctx), in.Body.of())
}

// BackupCodes stand in for a second factor that is lost.
type BackupCodes struct {
	BackupCodes []string `json:"backup_codes" secret:"true" nullable:"false" doc:"Each good once. Those before count no more."`
}

func (a *api) renewBackupCodes(ctx context.Context, in *proofInput) (*body[BackupCodes], error) {
	codes, err := a.Operators.RenewBackupCodes(ctx, actorOf(ctx), principalOf(ctx), in.Body.of())
	if err != nil {
		return nil, err
	}
	return &body[BackupCodes]{BackupCodes{codes}}, nil
}
