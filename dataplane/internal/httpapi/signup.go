package httpapi

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/turnstile"
)

type signupInput struct {
	Body struct {
		FullName      string `json:"full_name" minLength:"1" maxLength:"200" example:"Ada Example"`
		PrimaryMobile string `json:"primary_mobile" maxLength:"32" doc:"E.164. A code goes there by SMS." example:"+4915112345678"`

		TurnstileToken string `json:"turnstile_token,omitempty" maxLength:"2048" doc:"Of a Cloudflare Turnstile widget with the action signup; wanted where Turnstile is configured."`
	}
}

// human refuses a request of a program, where Turnstile is configured. The page
// has to be the tenant's: under one of its hosts, or of an origin that it lists.
// No connection is held while Cloudflare is asked.
func (s *server) human(ctx context.Context, sc *scope, token, action string) error {
	if s.Turnstile == nil {
		return nil
	}
	err := s.Turnstile.Verify(ctx, turnstile.Claim{
		Token: token, Action: action, ClientIP: sc.client.IP,
		Hostname: func(name string) bool { return s.isPageOf(sc.tenant.Route, name) },
	})
	if err != nil {
		return err
	}
	// Cloudflare takes a token once; so do we, should it be asked twice at once.
	first, err := s.Identity.FirstUse(ctx, sc.tenant, turnstile.Digest(token), turnstile.Lifetime)
	if err == nil && !first {
		err = turnstile.Refused(errors.New("the token has been used"))
	}
	return err
}

func (s *server) isPageOf(tenant *route.Route, hostname string) bool {
	if found, err := s.Routes.Lookup(hostname); err == nil && found.TenantID == tenant.TenantID {
		return true
	}
	return slices.ContainsFunc(tenant.Settings.CORSOrigins, func(origin string) bool {
		u, err := url.Parse(origin)
		return err == nil && strings.EqualFold(u.Hostname(), hostname)
	})
}

type mobileOutput struct {
	Body struct {
		Message       string `json:"message"`
		PrimaryMobile string `json:"primary_mobile" example:"+4915112345678"`
	}
}

func (s *server) signup(ctx context.Context, sc *scope, in *signupInput) (*mobileOutput, error) {
	if err := s.human(ctx, sc, in.Body.TurnstileToken, "signup"); err != nil {
		return nil, err
	}
	mobile, err := s.Identity.Signup(ctx, sc.tenant, identity.Signup{FullName: in.Body.FullName, PrimaryMobile: in.Body.PrimaryMobile}, sc.client)
	if err != nil {
		return nil, err
	}
	var out mobileOutput
	out.Body.Message, out.Body.PrimaryMobile = "If the number can be used for a new account, a code is on its way to it. It counts for 5 minutes.", mobile
	return &out, nil
}

type verifyOTPInput struct {
	Body struct {
		PrimaryMobile string `json:"primary_mobile" maxLength:"32" example:"+4915112345678"`
		OTP           string `json:"otp" minLength:"1" maxLength:"16" doc:"The six digits of the SMS." example:"123456"`
	}
}

type verifiedOutput struct {
	Body struct {
		Message       string `json:"message"`
		PrimaryMobile string `json:"primary_mobile" example:"+4915112345678"`
		SignupToken   string `json:"signup_token" doc:"Send it with the last step. Without it, the last step must come from the address of this request."`
		ExpiresIn     int64  `json:"expires_in" doc:"Seconds that are left for the last step." example:"900"`
	}
}

func (s *server) verifyOTP(ctx context.Context, sc *scope, in *verifyOTPInput) (*verifiedOutput, error) {
	mobile, token, err := s.Identity.VerifySignup(ctx, sc.tenant, in.Body.PrimaryMobile, in.Body.OTP, sc.client)
	if err != nil {
		return nil, err
	}
	var out verifiedOutput
	out.Body.Message, out.Body.PrimaryMobile = "The number is verified. Choose an email address and a password.", mobile
	out.Body.SignupToken, out.Body.ExpiresIn = token, int64(identity.SignupFinish.Seconds())
	return &out, nil
}

type resendOTPInput struct {
	Body struct {
		PrimaryMobile string `json:"primary_mobile" maxLength:"32" example:"+4915112345678"`
	}
}

func (s *server) resendOTP(ctx context.Context, sc *scope, in *resendOTPInput) (*messageOutput, error) {
	if err := s.Identity.ResendSignup(ctx, sc.tenant, in.Body.PrimaryMobile, sc.client); err != nil {
		return nil, err
	}
	return message("If a sign-up with this number is under way, a new code is on its way to it. The one before counts no more."), nil
}

type finishSignupInput struct {
	Body struct {
		PrimaryMobile string `json:"primary_mobile" maxLength:"32" example:"+4915112345678"`
		Email         string `json:"email" minLength:"3" maxLength:"254" example:"ada@example.com"`
		Password      string `json:"password" minLength:"1" maxLength:"1024" format:"password" doc:"At least 12 characters."`
		SignupToken   string `json:"signup_token,omitempty" maxLength:"256" doc:"From the step before."`
	}
}

type finishedSignup struct {
	Body struct {
		Message string    `json:"message"`
		Tokens  TokenPair `json:"tokens"`
		User    User      `json:"user"`
	}
}

func (s *server) finishSignup(ctx context.Context, sc *scope, in *finishSignupInput) (*finishedSignup, error) {
	profile, tokens, err := s.Identity.FinishSignup(ctx, sc.tenant, identity.FinishedSignup{
		PrimaryMobile: in.Body.PrimaryMobile, Email: in.Body.Email, Password: in.Body.Password, Token: in.Body.SignupToken,
	}, sc.client)
	if err != nil {
		return nil, err
	}
	s.countLogin(sc)
	var out finishedSignup
	out.Body.Message, out.Body.Tokens, out.Body.User = "The account is made, and signed in.", sc.tokens(tokens), userOf(profile)
	return &out, nil
}
