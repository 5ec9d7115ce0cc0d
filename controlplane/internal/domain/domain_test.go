package domain_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

var actor = &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"}

type world struct {
	*domain.Service

	control controltest.Control
	dns     *nameserver
	clock   time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{control: controltest.New(t), dns: newNameserver(t), clock: time.Now()}
	resolver, err := domain.NewResolver([]string{w.dns.address})
	if err != nil {
		t.Fatal(err)
	}
	w.Service = &domain.Service{
		DB: w.control.Pool, BaseDomain: "ouvira.test", Reserved: []string{"platform.example"}, Resolver: resolver,
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.clock },
	}
	return w
}

// verified is a domain that was claimed and proven.
func (w *world) verified(t *testing.T, tenant uuid.UUID, hostname string) domain.Domain {
	t.Helper()
	d, err := w.Add(t.Context(), actor, tenant, hostname)
	if err != nil {
		t.Fatal(err)
	}
	w.dns.publish(d.RecordName(), d.Challenge)
	if d, err = w.Verify(t.Context(), actor, d.ID); err != nil {
		t.Fatal(err)
	}
	return d
}

func one[T any](t *testing.T, w *world, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := w.control.Pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (w *world) tenant(t *testing.T, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	_, err := w.control.Pool.Exec(t.Context(), `
		INSERT INTO control.tenants (id, slug, name, status, plan_id)
		SELECT $1, $2, $2, 'active', id FROM control.plans`, id, slug)
	if err == nil {
		_, err = w.control.Pool.Exec(t.Context(), "SELECT control.publish_route($1)", id)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) route(t *testing.T, id uuid.UUID) (version int64, hosts []string) {
	t.Helper()
	err := w.control.Pool.QueryRow(t.Context(), "SELECT version, hosts FROM node.routes_v1 WHERE tenant_id = $1", id).Scan(&version, &hosts)
	if err != nil {
		t.Fatal(err)
	}
	return version, hosts
}

// A hostname is routed once it is proven, and no longer once it is released;
// whoever claims it next needs a proof of their own.
func TestSec09AReleasedDomainNeedsAFreshProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	before, _ := w.route(t, acme)
	claimed, err := w.Add(t.Context(), actor, acme, "  BÜCHER.example. ")
	if err != nil || claimed.Hostname != "xn--bcher-kva.example" || claimed.DisplayName() != "bücher.example" || claimed.Status != domain.StatusPending {
		t.Fatalf("%+v, %v", claimed, err)
	}
	if _, hosts := w.route(t, acme); len(hosts) != 0 {
		t.Errorf("an unproven hostname is routed: %v", hosts)
	}
	if _, err := w.Add(t.Context(), actor, globex, "bücher.example"); fault.From(err).EffectiveCode() != "domain_taken" {
		t.Errorf("claimed twice: %v", err)
	}
	if _, err := w.Verify(t.Context(), actor, claimed.ID); fault.From(err).EffectiveCode() != "proof_missing" {
		t.Errorf("verified without a proof: %v", err)
	}
	w.dns.publish("_ouvira.xn--bcher-kva.example", "v=spf1", claimed.Challenge)
	verified, err := w.Verify(t.Context(), actor, claimed.ID)
	if err != nil || verified.Status != domain.StatusVerified || verified.VerifiedAt == nil {
		t.Fatalf("%+v, %v", verified, err)
	}
	version, hosts := w.route(t, acme)
	if len(hosts) != 1 || version <= before {
		t.Errorf("route version %d, hosts %v", version, hosts)
	}
	if _, err := w.Verify(t.Context(), actor, claimed.ID); err != nil {
		t.Errorf("verifying again: %v", err)
	}

	if err := w.Remove(t.Context(), actor, claimed.ID); err != nil {
		t.Fatal(err)
	}
	if after, hosts := w.route(t, acme); len(hosts) != 0 || after <= version {
		t.Errorf("after the release: version %d, hosts %v", after, hosts)
	}
	if err := w.Remove(t.Context(), actor, claimed.ID); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	again, err := w.Add(t.Context(), actor, globex, "bücher.example")
	if err != nil || again.Challenge == claimed.Challenge {
		t.Fatalf("%+v, %v", again, err)
	}
	// The old proof is still in the DNS.
	if _, err := w.Verify(t.Context(), actor, again.ID); fault.From(err).EffectiveCode() != "proof_missing" {
		t.Errorf("verified with the proof of the claim before: %v", err)
	}
	var audited int
	err = w.control.Pool.QueryRow(t.Context(), "SELECT count(*) FROM control.audit_log WHERE entity_type = 'domain'").Scan(&audited)
	if err != nil || audited != 4 {
		t.Errorf("%d audit entries, %v", audited, err)
	}
}

func TestHostnamesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	for _, name := range []string{
		"", "acme", "ouvira.test", "x.ouvira.test", "X.OUVIRA.TEST.", "a..b.example", "-a.example", "a_b.example",
		"127.0.0.1", "[::1]", "a.example:80", "https://a.example", "a.example/x", "a b.example", "a.example\x00",
		"＊.example", "*.example", "platform.example", "www.platform.example", "shop.localhost", "printer.local", "x.internal", "1.0.0.127.in-addr.arpa",
	} {
		if d, err := w.Add(t.Context(), actor, acme, name); !fault.Is(err, fault.KindInvalid) {
			t.Errorf("%q: %+v, %v", name, d, err)
		}
	}
	if _, err := w.Add(t.Context(), actor, uuid.New(), "a.example"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("a domain of no tenant: %v", err)
	}
	if _, err := w.Add(t.Context(), nil, acme, "a.example"); err == nil {
		t.Error("a domain was added by nobody")
	}
	if list, err := w.List(t.Context(), acme); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
