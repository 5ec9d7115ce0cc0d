package operator_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/fault"
)

// background is for goroutines of a test, which outlive nothing.
var background = context.Background()

func principalOf(t *testing.T, s *operator.Service, email string) (operator.Principal, string) {
	t.Helper()
	tokens, err := s.Login(t.Context(), operator.Credentials{Email: email, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Authenticate(t.Context(), tokens.Access)
	if err != nil {
		t.Fatal(err)
	}
	return p, tokens.Access
}

// Two owners who take each other's role away at once: one stays.
func TestTheLastActiveOwnerStays(t *testing.T) {
	t.Parallel()
	s, c := newService(t)
	support, inactive := operator.RoleSupport, false
	first, second := create(t, s, "ada@ouvira.test"), create(t, s, "grace@ouvira.test")
	for round := range 10 {
		var lost atomic.Int32
		var changing sync.WaitGroup
		for _, id := range []operator.Operator{first, second} {
			changing.Go(func() {
				patch := operator.Patch{Role: &support}
				if round%2 == 1 {
					patch = operator.Patch{IsActive: &inactive}
				}
				if _, err := s.Update(background, actor, id.ID, patch); refusedWith(err, "last_owner") {
					lost.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		changing.Wait()
		var owners int
		if err := c.Pool.QueryRow(t.Context(), "SELECT count(*) FROM control.operators WHERE role = 'owner' AND is_active").Scan(&owners); err != nil || owners != 1 || lost.Load() != 1 {
			t.Fatalf("%d owners are left, %d were refused, %v", owners, lost.Load(), err)
		}
		if _, err := c.Pool.Exec(t.Context(), "UPDATE control.operators SET role = 'owner', is_active = true"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSec17 what an account loses it loses at the next call: sessions and keys.
func TestSec17AChangedOperatorIsSignedOutAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	create(t, s, "ada@ouvira.test")
	grace := create(t, s, "grace@ouvira.test")
	role, active, inactive, name := operator.RoleSupport, true, false, "Grace"
	p, token := principalOf(t, s, grace.Email)
	_, key, err := s.CreateAPIKey(t.Context(), actor, p, operator.NewKey{Name: "ci", Scopes: []string{"tenant.read", "tenant.edit"}})
	if err != nil {
		t.Fatal(err)
	}
	alive := func(token string) bool {
		_, err := s.Authenticate(t.Context(), token)
		if err != nil && !fault.Is(err, fault.KindUnauthenticated) {
			t.Fatal(err)
		}
		return err == nil
	}
	change := func(patch operator.Patch) {
		t.Helper()
		if _, err := s.Update(t.Context(), actor, grace.ID, patch); err != nil {
			t.Fatal(err)
		}
	}
	if change(operator.Patch{FullName: &name}); !alive(token) {
		t.Error("a new name ended the session")
	}
	if change(operator.Patch{Role: &role}); alive(token) || !alive(key) {
		t.Error("another role left the session, or took the key")
	}
	if used, err := s.Authenticate(t.Context(), key); err != nil || !used.May(operator.TenantRead) || used.May(operator.TenantEdit) {
		t.Errorf("the key does what the new role does not allow (%v)", err)
	}
	_, token = principalOf(t, s, grace.Email)
	if change(operator.Patch{IsActive: &inactive}); alive(token) || alive(key) {
		t.Error("who is deactivated is still in")
	}
	if change(operator.Patch{IsActive: &active}); alive(token) || alive(key) {
		t.Error("activating revives what has ended")
	}
	principalOf(t, s, grace.Email)
}

func TestChangedPasswordEndsTheOtherSessions(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	create(t, s, "ada@ouvira.test")
	p, mine := principalOf(t, s, "ada@ouvira.test")
	_, other := principalOf(t, s, "ada@ouvira.test")
	const chosen = "another horse and battery"
	for name, proof := range map[string]string{"wrong": "wrong password of mine", "none": ""} {
		if err := s.ChangePassword(t.Context(), actor, p, operator.Proof{Password: proof}, chosen); !fault.Is(err, fault.KindUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.ChangePassword(t.Context(), actor, p, operator.Proof{Password: password}, "short"); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("a short one: %v", err)
	}
	if err := s.ChangePassword(t.Context(), actor, p, operator.Proof{Password: password}, chosen); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(t.Context(), mine); err != nil {
		t.Errorf("one's own session: %v", err)
	}
	if _, err := s.Authenticate(t.Context(), other); !fault.Is(err, fault.KindUnauthenticated) {
		t.Errorf("another session: %v", err)
	}
	if _, err := s.Login(t.Context(), operator.Credentials{Email: "ada@ouvira.test", Password: chosen}); err != nil {
		t.Error(err)
	}
}

// TestSec28 a key does what stands on it, of what its maker may do.
func TestSec28NobodyPutsOnAKeyWhatTheyMayNot(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	if _, err := s.Create(t.Context(), actor, operator.New{Email: "sue@ouvira.test", Role: operator.RoleSupport, Password: password}); err != nil {
		t.Fatal(err)
	}
	p, _ := principalOf(t, s, "sue@ouvira.test")
	for name, n := range map[string]operator.NewKey{
		"not hers":  {Name: "k", Scopes: []string{"tenant.read", "tenant.delete"}},
		"no such":   {Name: "k", Scopes: []string{"tenant.*"}},
		"none":      {Name: "k"},
		"nameless":  {Scopes: []string{"tenant.read"}},
		"in a year": {Name: "k", Scopes: []string{"tenant.read"}, ExpiresAt: new(p.SignedInAt.AddDate(2, 0, 0))},
		"over":      {Name: "k", Scopes: []string{"tenant.read"}, ExpiresAt: new(p.SignedInAt.AddDate(-1, 0, 0))},
	} {
		if _, _, err := s.CreateAPIKey(t.Context(), actor, p, n); err == nil || fault.Is(err, fault.KindInternal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k, text, err := s.CreateAPIKey(t.Context(), actor, p, operator.NewKey{Name: "k", Scopes: []string{"tenant.read", "tenant.read"}})
	if err != nil || !slices.Equal(k.Scopes, []string{"tenant.read"}) {
		t.Fatalf("%v, %v", k.Scopes, err)
	}
	used, err := s.Authenticate(t.Context(), text)
	if err != nil || !used.May(operator.TenantRead) || used.May(operator.SupportEnter) || used.OperatorID != p.OperatorID {
		t.Errorf("the key is %+v, %v", used, err)
	}
	list, err := s.APIKeys(t.Context(), p)
	if err != nil || len(list) != 1 || list[0].LastUsedAt == nil {
		t.Errorf("%+v, %v", list, err)
	}
	create(t, s, "ada@ouvira.test")
	owner, _ := principalOf(t, s, "ada@ouvira.test")
	if list, err := s.APIKeys(t.Context(), owner); err != nil || len(list) != 1 {
		t.Errorf("an owner sees %d keys, %v", len(list), err)
	}
	other, err := s.Create(t.Context(), actor, operator.New{Email: "joe@ouvira.test", Role: operator.RoleOperator, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	joe, _ := principalOf(t, s, other.Email)
	if err := s.RevokeAPIKey(t.Context(), actor, joe, k.ID); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("somebody else revokes it: %v", err)
	}
	if err := s.RevokeAPIKey(t.Context(), actor, p, k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(t.Context(), text); !fault.Is(err, fault.KindUnauthenticated) {
		t.Errorf("a revoked key: %v", err)
	}
}
