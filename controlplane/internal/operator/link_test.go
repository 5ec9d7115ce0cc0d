package operator_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/mail"
)

// mailbox keeps what was sent.
type mailbox struct{ got []mail.Message }

func (m *mailbox) Send(_ context.Context, message mail.Message) error {
	m.got = append(m.got, message)
	return nil
}

// token works the mail jobs that wait, and gives the token of the last mail.
func (m *mailbox) token(t *testing.T, s *operator.Service, c controltest.Control) string {
	t.Helper()
	m.work(t, s, c)
	if len(m.got) == 0 {
		t.Fatal("no mail was sent")
	}
	_, after, found := strings.Cut(m.got[len(m.got)-1].Text, "#token=")
	if !found {
		t.Fatalf("no link in %q", m.got[len(m.got)-1].Text)
	}
	token, _, _ := strings.Cut(after, "\n")
	return token
}

func (m *mailbox) work(t *testing.T, s *operator.Service, c controltest.Control) {
	t.Helper()
	rows, err := c.Pool.Query(t.Context(), "DELETE FROM river.river_job WHERE kind = 'operator_link_mail' RETURNING args ->> 'purpose', (args ->> 'id')::uuid, args::text")
	if err != nil {
		t.Fatal(err)
	}
	var jobs []operator.LinkMail
	for rows.Next() {
		var j operator.LinkMail
		var args string
		if err := rows.Scan(&j.Purpose, &j.ID, &args); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(args, "ovoi_") || strings.Contains(args, "ovop_") {
			t.Errorf("the job holds the token: %s", args)
		}
		jobs = append(jobs, j)
	}
	mailer := &operator.LinkMailer{DB: c.Pool, Key: s.Key, Sender: m, URL: "https://control.ouvira.test/"}
	for _, j := range jobs {
		if err := mailer.Work(t.Context(), &river.Job[operator.LinkMail]{Args: j}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInvitation(t *testing.T) {
	t.Parallel()
	s, c := newService(t)
	var box mailbox
	create(t, s, "ada@ouvira.test")
	owner, _ := principalOf(t, s, "ada@ouvira.test")
	accept := func(token string) (operator.Operator, error) {
		return s.AcceptInvitation(background, token, "Grace Hopper", password, netip.Addr{}, "")
	}
	if _, err := s.Invite(t.Context(), actor, owner, "ADA@ouvira.test", "", operator.RoleSupport); !refusedWith(err, "email_taken") {
		t.Errorf("inviting who is there: %v", err)
	}
	if _, err := s.Invite(t.Context(), actor, owner, "Grace@ouvira.test", "", operator.RoleOwner); err != nil {
		t.Fatal(err)
	}
	first := box.token(t, s, c)
	if _, err := s.Invite(t.Context(), actor, owner, "grace@ouvira.test", "Grace", operator.RoleAuditor); err != nil {
		t.Fatal(err)
	}
	second := box.token(t, s, c)
	if to := box.got[1]; to.To != "grace@ouvira.test" || !strings.Contains(to.Text, "https://control.ouvira.test/operators/invitation#token=") || !strings.Contains(to.Text, "as auditor") {
		t.Errorf("the mail: %+v", to)
	}
	if _, err := accept(first); !refusedWith(err, "invalid_link") {
		t.Errorf("a replaced invitation: %v", err)
	}
	if list, err := s.Invitations(t.Context()); err != nil || len(list) != 1 || list[0].InvitedBy != "ada@ouvira.test" {
		t.Errorf("%+v, %v", list, err)
	}
	var won atomic.Int32
	var accepting sync.WaitGroup
	for range 8 {
		accepting.Go(func() {
			if o, err := accept(second); err == nil && o.Role == operator.RoleAuditor {
				won.Add(1)
			} else if !refusedWith(err, "invalid_link") {
				t.Errorf("accepting: %v", err)
			}
		})
	}
	accepting.Wait()
	if won.Load() != 1 {
		t.Errorf("accepted %d times", won.Load())
	}
	principalOf(t, s, "grace@ouvira.test")

	// Ended by time, by whoever takes it back, and with the account that invited.
	for name, end := range map[string]func(operator.Invitation){
		"expired": func(operator.Invitation) {
			exec(t, c, "UPDATE control.operator_invitations SET expires_at = now()")
		},
		"revoked": func(inv operator.Invitation) {
			if err := s.RevokeInvitation(t.Context(), actor, inv.ID); err != nil {
				t.Error(err)
			}
			if err := s.RevokeInvitation(t.Context(), actor, inv.ID); !fault.Is(err, fault.KindNotFound) {
				t.Errorf("revoked twice: %v", err)
			}
		},
		"of nobody": func(operator.Invitation) {
			exec(t, c, "UPDATE control.operators SET role = 'operator' WHERE email = 'ada@ouvira.test'")
		},
	} {
		inv, err := s.Invite(t.Context(), actor, owner, uuid.NewString()+"@ouvira.test", "", operator.RoleSupport)
		if err != nil {
			t.Fatal(err)
		}
		token := box.token(t, s, c)
		end(inv)
		if _, err := accept(token); !refusedWith(err, "invalid_link") {
			t.Errorf("%s: %v", name, err)
		}
		exec(t, c, "UPDATE control.operators SET role = 'owner' WHERE email = 'ada@ouvira.test'")
	}
}

func exec(t *testing.T, c controltest.Control, sql string) {
	t.Helper()
	if _, err := c.Pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestForgottenPassword(t *testing.T) {
	t.Parallel()
	s, c := newService(t)
	var box mailbox
	create(t, s, "ada@ouvira.test")
	_, session := principalOf(t, s, "ada@ouvira.test")
	const chosen = "another horse and battery"
	for _, nobody := range []string{"nobody@ouvira.test", "not an address"} {
		if err := s.ForgotPassword(t.Context(), nobody); err != nil {
			t.Errorf("%s: %v", nobody, err)
		}
	}
	if box.work(t, s, c); len(box.got) != 0 {
		t.Errorf("%d mails to nobody", len(box.got))
	}
	var asking sync.WaitGroup
	for range 12 {
		asking.Go(func() {
			if err := s.ForgotPassword(background, "Ada@ouvira.test"); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	token := box.token(t, s, c)
	if len(box.got) != 3 {
		t.Errorf("%d mails within an hour", len(box.got))
	}
	if err := s.ResetPassword(t.Context(), token, "short", netip.Addr{}, ""); !fault.Is(err, fault.KindInvalid) || refusedWith(err, "invalid_link") {
		t.Errorf("a short password: %v", err)
	}
	// Locked out or not, the link lets in.
	exec(t, c, "UPDATE control.operators SET failed_logins = 5, locked_until = now() + interval '30 min'")
	if err := s.ResetPassword(t.Context(), token, chosen, netip.Addr{}, ""); err != nil {
		t.Fatal(err)
	}
	for _, dead := range []string{token, box.got[0].Text[strings.Index(box.got[0].Text, "ovop_"):][:len(token)], "ovop_" + strings.Repeat("a", 43), ""} {
		if err := s.ResetPassword(t.Context(), dead, chosen, netip.Addr{}, ""); !refusedWith(err, "invalid_link") {
			t.Errorf("a dead link: %v", err)
		}
	}
	if _, err := s.Authenticate(t.Context(), session); !fault.Is(err, fault.KindUnauthenticated) {
		t.Errorf("a session of before: %v", err)
	}
	if _, err := s.Login(t.Context(), operator.Credentials{Email: "ada@ouvira.test", Password: chosen}); err != nil {
		t.Error(err)
	}
}
