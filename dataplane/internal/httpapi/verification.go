package httpapi

import (
	"context"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
)

type verifyInput struct {
	Body *struct {
		Code string `json:"code,omitempty" maxLength:"16" doc:"The six digits. Without it a code is sent, and the one before dies." example:"123456"`
	}
}

func (s *server) verifyEmail(ctx context.Context, c *caller, in *verifyInput) (*messageOutput, error) {
	return s.verify(ctx, c, in, identity.EmailContact, "A code is on its way to your email address. It is good for 5 minutes.", "Your email address is verified.")
}

func (s *server) verifyPhone(ctx context.Context, c *caller, in *verifyInput) (*messageOutput, error) {
	return s.verify(ctx, c, in, identity.PhoneContact, "A code is on its way to your phone. It is good for 5 minutes.", "Your phone number is verified.")
}

func (s *server) verify(ctx context.Context, c *caller, in *verifyInput, which identity.Contact, sent, verified string) (*messageOutput, error) {
	if in.Body == nil || in.Body.Code == "" {
		if err := s.Identity.SendVerification(ctx, c.tenant, c.Actor, which); err != nil {
			return nil, err
		}
		return message(sent), nil
	}
	if err := s.Identity.Verify(ctx, c.tenant, c.Actor, c.who(), which, in.Body.Code); err != nil {
		return nil, err
	}
	return message(verified), nil
}
