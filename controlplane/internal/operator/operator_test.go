package operator_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

const password = "correct horse battery staple"

var actor = &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"}

func newService(t *testing.T) (*operator.Service, controltest.Control) {
	t.Helper()
	c := controltest.New(t)
	queue, err := job.NewInsertOnly(c.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &operator.Service{DB: c.Pool, Key: controltest.NewKeys(t).Control, Jobs: queue}, c
}

func create(t *testing.T, s *operator.Service, email string) operator.Operator {
	t.Helper()
	o, err := s.Create(t.Context(), actor, operator.New{Email: email, Role: operator.RoleOwner, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	create(t, s, "ada@ouvira.test")
	for name, tc := range map[string]struct {
		n    operator.New
		kind fault.Kind
	}{
		"taken":          {operator.New{Email: "ADA@ouvira.test", Role: operator.RoleOwner, Password: password}, fault.KindConflict},
		"no address":     {operator.New{Email: "ada", Role: operator.RoleOwner, Password: password}, fault.KindInvalid},
		"no such role":   {operator.New{Email: "b@ouvira.test", Role: "god", Password: password}, fault.KindInvalid},
		"short password": {operator.New{Email: "b@ouvira.test", Role: operator.RoleOwner, Password: "short"}, fault.KindInvalid},
	} {
		if _, err := s.Create(t.Context(), actor, tc.n); !fault.Is(err, tc.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Create(t.Context(), nil, operator.New{Email: "c@ouvira.test", Role: operator.RoleOwner, Password: password}); err == nil {
		t.Error("an account was made by nobody")
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Errorf("%d operators, %v", len(list), err)
	}
}

// However many guesses arrive at once, five are compared; then even the right
// password is refused until the lock ends, with the same answer.
func TestLockout(t *testing.T) {
	t.Parallel()
	s, c := newService(t)
	create(t, s, "ada@ouvira.test")
	login := func(pw string) error {
		_, err := s.Login(t.Context(), operator.Credentials{Email: "ada@ouvira.test", Password: pw})
		return err
	}
	var guessing sync.WaitGroup
	for range 20 {
		guessing.Go(func() {
			if err := login("wrong password of mine"); !fault.Is(err, fault.KindUnauthenticated) {
				t.Errorf("a wrong password: %v", err)
			}
		})
	}
	guessing.Wait()
	var failures int
	var until *time.Time
	if err := c.Pool.QueryRow(t.Context(), "SELECT failed_logins, locked_until FROM control.operators").Scan(&failures, &until); err != nil {
		t.Fatal(err)
	}
	if failures != 5 || until == nil || time.Until(*until) < 25*time.Minute {
		t.Errorf("%d guesses were compared, locked until %v", failures, until)
	}
	locked := login(password)
	_, unknown := s.Login(t.Context(), operator.Credentials{Email: "nobody@ouvira.test", Password: password})
	if locked == nil || locked.Error() != unknown.Error() {
		t.Errorf("locked says %v, unknown says %v", locked, unknown)
	}
	if _, err := c.Pool.Exec(t.Context(), "UPDATE control.operators SET locked_until = now()"); err != nil {
		t.Fatal(err)
	}
	if err := login(password); err != nil {
		t.Errorf("after the lock: %v", err)
	}
	if err := c.Pool.QueryRow(t.Context(), "SELECT failed_logins FROM control.operators").Scan(&failures); err != nil || failures != 0 {
		t.Errorf("%d failures after a success, %v", failures, err)
	}
}

// Refreshing does not extend the absolute lifetime.
func TestEndlessRefreshing(t *testing.T) {
	t.Parallel()
	s, c := newService(t)
	create(t, s, "ada@ouvira.test")
	tokens, err := s.Login(t.Context(), operator.Credentials{Email: "ada@ouvira.test", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pool.Exec(t.Context(), "UPDATE control.operator_sessions SET expires_at = now() + interval '1 min'"); err != nil {
		t.Fatal(err)
	}
	tokens, err = s.Refresh(t.Context(), tokens.Refresh)
	if err != nil || tokens.ExpiresIn > time.Minute {
		t.Errorf("the new access token lives %s, %v", tokens.ExpiresIn, err)
	}
	if _, err := c.Pool.Exec(t.Context(), "UPDATE control.operator_sessions SET expires_at = now()"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Refresh(t.Context(), tokens.Refresh); !fault.Is(err, fault.KindUnauthenticated) {
		t.Errorf("refreshing after the end: %v", err)
	}
}

// Twenty at once with one refresh token: one gets new tokens.
func TestParallelRefresh(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	create(t, s, "ada@ouvira.test")
	tokens, err := s.Login(t.Context(), operator.Credentials{Email: "ada@ouvira.test", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	var won sync.Map
	var refreshing sync.WaitGroup
	for i := range 20 {
		refreshing.Go(func() {
			if _, err := s.Refresh(t.Context(), tokens.Refresh); err == nil {
				won.Store(i, true)
			}
		})
	}
	refreshing.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d refreshes with one token", n)
	}
}

func TestHugeTokensAreNotLookedUp(t *testing.T) {
	t.Parallel()
	s := &operator.Service{} // without a database: looking up would panic
	for _, token := range []string{"", ".", "ovoa_" + strings.Repeat("a", 1<<20), strings.Repeat(".", 1<<20)} {
		if _, err := s.Authenticate(t.Context(), token); !fault.Is(err, fault.KindUnauthenticated) {
			t.Errorf("%d bytes: %v", len(token), err)
		}
	}
}

func TestPermissionTable(t *testing.T) {
	t.Parallel()
	for role, want := range map[operator.Role]map[operator.Permission]bool{
		operator.RoleOwner:    {operator.TenantCreate: true, operator.AuditRead: true, operator.OperatorRead: true, operator.JobManage: true, operator.OperatorEdit: true, operator.TenantPurge: true, operator.SupportBreakGlass: true},
		operator.RoleOperator: {operator.TenantCreate: true, operator.AuditRead: true, operator.OperatorRead: false, operator.JobManage: true, operator.OperatorEdit: false, operator.TenantDelete: true, operator.TenantPurge: false, operator.SupportBreakGlass: false},
		operator.RoleSupport:  {operator.TenantRead: true, operator.TenantEdit: false, operator.AuditRead: false, operator.JobManage: false, operator.SupportEnter: true, operator.TenantDelete: false, operator.WebhookRead: false},
		operator.RoleAuditor:  {operator.TenantRead: true, operator.TenantEdit: false, operator.AuditRead: true, operator.JobManage: false, operator.WebhookRead: true, operator.WebhookEdit: false, operator.OperatorEdit: false},
		"":                    {operator.TenantRead: false},
	} {
		for permission, may := range want {
			if role.May(permission) != may {
				t.Errorf("%s may %s: %v", role, permission, !may)
			}
		}
	}
}
