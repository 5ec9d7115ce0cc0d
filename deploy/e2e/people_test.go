package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/ouvira/ouvira/deploy/stack"
)

// mailsTo are the texts of the mails that somebody got with these words.
func mailsTo(s *stack.Stack, address, words string) (texts []string) {
	for _, m := range s.Mail().Messages() {
		for _, to := range m.To {
			if to.Address == address && strings.Contains(m.Text, words) {
				texts = append(texts, m.Text)
			}
		}
	}
	return texts
}

// In an emergency an owner of the platform enters a tenant with a code of the
// control plane: it takes their second factor, reads, and is told to the tenant's
// owner by one mail. Whom they invite has an account by the link of a mail, and a
// system outside hears of what happens.
func TestBreakGlassInvitationsAndWebhooks(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{NoTenants: true})
	acme := signUp(t, s, "acme")
	acme.login(t, s, 0)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)

	heard := make(chan string, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case heard <- r.Header.Get("webhook-id") + " " + string(body):
		default:
		}
	}))
	t.Cleanup(receiver.Close)
	must(t, operator.Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/webhooks", map[string]any{"url": receiver.URL, "events": []string{"tenant.suspended"}}, nil))

	glass := map[string]any{"reason": "The owners are locked out", "minutes": 5, "break_glass": true}
	must(t, operator.Want(t.Context(), http.StatusForbidden, http.MethodPost, "/v1/tenants/acme/support-sessions", glass, nil))
	var factor struct {
		Secret string `json:"secret"`
	}
	must(t, operator.Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/auth/2fa", nil, &factor))
	code, err := totp.GenerateCode(factor.Secret, time.Now())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusNoContent, http.MethodPost, "/v1/auth/2fa/confirm", map[string]string{"code": code}, nil))
	var entry struct {
		Code string `json:"code"`
	}
	must(t, operator.Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/tenants/acme/support-sessions", glass, &entry))
	var token struct {
		Access string `json:"access"`
	}
	tenant := s.TenantAPI(1, "acme")
	must(t, tenant.Want(t.Context(), http.StatusOK, http.MethodPost, "/auth/support-session", map[string]string{"code": entry.Code}, &token))
	tenant.Token = token.Access
	must(t, tenant.Want(t.Context(), http.StatusOK, http.MethodGet, "/company", nil, nil))

	must(t, operator.Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/operators/invitations", map[string]string{"email": "grace@ouvira.example", "role": "support"}, nil))
	eventually(t, time.Minute, func() (bool, string) {
		return len(mailsTo(s, "grace@ouvira.example", "#token=")) == 1, "nobody was invited"
	})
	_, link, _ := strings.Cut(mailsTo(s, "grace@ouvira.example", "#token=")[0], "#token=")
	accepted := map[string]string{"token": strings.Fields(link)[0], "password": "correct horse battery grace"}
	must(t, s.ControlAPI().Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/operators/invitations/accept", accepted, nil))
	must(t, s.ControlAPI().Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/auth/login", map[string]string{"email": "grace@ouvira.example", "password": accepted["password"]}, nil))

	eventually(t, time.Minute, func() (bool, string) {
		n := len(mailsTo(s, acme.email, "Without an owner's consent"))
		return n > 0, fmt.Sprintf("the owner got %d mails", n)
	})
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/acme/suspend", map[string]string{"reason": "The exercise is over."}, nil))
	waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case text := <-heard:
		_, body, _ := strings.Cut(text, " ")
		if !json.Valid([]byte(body)) || !strings.Contains(body, `"tenant.suspended"`) || !strings.Contains(body, `"tenant_slug":"acme"`) {
			t.Errorf("heard %s", text)
		}
	case <-waiting.Done():
		t.Error("nobody outside heard of the suspension")
	}
	if n := len(mailsTo(s, acme.email, "Without an owner's consent")); n != 1 {
		t.Errorf("the owner got %d mails about one entry", n)
	}
}
