package httpapi

import (
	"context"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
)

type messageOutput struct {
	Body struct {
		Message string `json:"message"`
	}
}

func message(text string) *messageOutput {
	var out messageOutput
	out.Body.Message = text
	return &out
}

type forgotPasswordInput struct {
	Body struct {
		Email      string `json:"email,omitempty" maxLength:"254" doc:"Of the account." example:"owner@acme.example"`
		Identifier string `json:"identifier,omitempty" maxLength:"254" doc:"Instead of email: what one signs in with. The link goes to the account's address."`
	}
}

func (s *server) forgotPassword(ctx context.Context, sc *scope, in *forgotPasswordInput) (*messageOutput, error) {
	identifier := in.Body.Email
	if identifier == "" {
		identifier = in.Body.Identifier
	}
	if identifier == "" {
		return nil, fault.Invalid("Say whose password it is.").OnField("email", "required", "This must not be empty.")
	}
	if err := s.Identity.ForgotPassword(ctx, sc.tenant, identifier, sc.client); err != nil {
		return nil, err
	}
	return message("If there is an account for this, a mail with a link is on its way. The link is good for an hour."), nil
}

type resetPasswordInput struct {
	Body struct {
		Token    string `json:"token" minLength:"1" maxLength:"256" doc:"From the mailed link."`
		Password string `json:"password" minLength:"1" maxLength:"1024" format:"password" doc:"At least 12 characters, or 8 with a second factor; none of the last five."`
	}
}

func (s *server) resetPassword(ctx context.Context, sc *scope, in *resetPasswordInput) (*messageOutput, error) {
	if err := s.Identity.SetPassword(ctx, sc.tenant, in.Body.Token, in.Body.Password, sc.client); err != nil {
		return nil, err
	}
	return message("The password is set. Sign in with it."), nil
}

type changePasswordInput struct {
	Body struct {
		CurrentPassword string `json:"current_password" minLength:"1" maxLength:"1024" format:"password"`
		NewPassword     string `json:"new_password" minLength:"1" maxLength:"1024" format:"password" doc:"At least 12 characters, or 8 with a second factor; none of the last five."`
	}
}

func (s *server) changePassword(ctx context.Context, c *caller, in *changePasswordInput) (*messageOutput, error) {
	change := identity.PasswordChange{Current: in.Body.CurrentPassword, New: in.Body.NewPassword}
	if err := s.Identity.ChangePassword(ctx, c.tenant, c.Actor, change, c.client); err != nil {
		return nil, err
	}
	return message("The password is changed. Your other sessions have ended."), nil
}
