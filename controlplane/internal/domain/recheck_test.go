package domain_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/miekg/dns"

	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/shared/fault"
)

// What a real DNS answers: only its word that there is no proof counts as one.
func TestWhatTheDNSAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	d, err := w.Add(t.Context(), actor, acme, "shop.acme.example")
	if err != nil {
		t.Fatal(err)
	}
	name := d.RecordName()
	code := func(ctx context.Context) string {
		_, err := w.Verify(ctx, actor, d.ID)
		if err == nil {
			return "verified"
		}
		return fault.From(err).EffectiveCode()
	}
	if got := code(t.Context()); got != "proof_missing" {
		t.Errorf("NXDOMAIN: %s", got)
	}
	w.dns.publish(name)
	if got := code(t.Context()); got != "proof_missing" {
		t.Errorf("no records: %s", got)
	}
	w.dns.publish(name, "ouvira-verification=ANOTHER")
	if got := code(t.Context()); got != "proof_missing" {
		t.Errorf("another claim's record: %s", got)
	}
	w.dns.fail(name, dns.RcodeServerFailure)
	if got := code(t.Context()); got != "dns_unavailable" {
		t.Errorf("SERVFAIL: %s", got)
	}
	if _, proof, err := w.Check(t.Context(), actor, d.ID); err != nil || proof != domain.ProofUnknown {
		t.Errorf("SERVFAIL: %s %v", proof, err)
	}
	w.dns.silence(name)
	hurried, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if got := code(hurried); got != "dns_unavailable" {
		t.Errorf("silence: %s", got)
	}
	// The proof among records that fit into no datagram.
	records := []string{}
	for range 20 {
		records = append(records, strings.Repeat("x", 200))
	}
	before := w.dns.streams()
	w.dns.publish(name, append(records, d.Challenge)...)
	if _, proof, err := w.Check(t.Context(), actor, d.ID); err != nil || proof != domain.ProofFound {
		t.Errorf("truncated: %s %v", proof, err)
	}
	if w.dns.streams() == before {
		t.Error("the rest of a truncated answer was not asked for by TCP")
	}
	if _, hosts := w.route(t, acme); len(hosts) != 0 {
		t.Errorf("a look has routed %v", hosts)
	}
	if got := code(t.Context()); got != "verified" {
		t.Errorf("truncated: %s", got)
	}
	for _, wrong := range [][]string{{"dns.example:53"}, {"192.0.2.1"}, {""}} {
		if _, err := domain.NewResolver(wrong); err == nil {
			t.Errorf("%q is taken as a DNS server", wrong)
		}
	}
}

// pass lets time go by in steps and looks again at each.
func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for end := w.clock.Add(d); w.clock.Before(end); {
		w.clock = w.clock.Add(2 * time.Hour)
		if err := w.Recheck(t.Context(), actor); err != nil {
			t.Fatal(err)
		}
	}
}

// A domain whose proof is gone for days is lost, and only then; the tenant is
// reached by the platform's name again. A proof that is back makes it whole.
func TestALostDomainFallsBackAndComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	d, other := w.verified(t, acme, "shop.acme.example"), w.verified(t, globex, "globex.example")
	if _, err := w.SetPrimary(t.Context(), actor, d.ID); err != nil {
		t.Fatal(err)
	}
	status := func() domain.Status {
		got, err := w.Get(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.Status
	}
	primary := func() bool {
		return one[bool](t, w, "SELECT custom_primary FROM node.routes_v1 WHERE tenant_id = $1", acme)
	}

	w.dns.fail(d.RecordName(), dns.RcodeServerFailure)
	w.pass(t, 14*24*time.Hour)
	if status() != domain.StatusVerified {
		t.Error("a DNS that does not answer has cost the tenant its domain")
	}
	w.dns.remove(d.RecordName())
	w.dns.fail(d.RecordName(), dns.RcodeNameError)
	w.pass(t, 40*time.Hour)
	if status() != domain.StatusVerified {
		t.Error("lost within the grace")
	}
	w.dns.publish(d.RecordName(), d.Challenge) // a mended zone starts the grace anew
	w.pass(t, 26*time.Hour)
	w.dns.publish(d.RecordName(), "something else")
	w.pass(t, 60*time.Hour)
	if status() != domain.StatusVerified || !primary() {
		t.Error("failures before the proof was back count")
	}
	before, _ := w.route(t, acme)
	w.pass(t, 48*time.Hour)
	version, hosts := w.route(t, acme)
	if status() != domain.StatusLost || len(hosts) != 0 || primary() || version != before+1 {
		t.Errorf("status %s, hosts %v, primary %v, version %d after %d", status(), hosts, primary(), version, before)
	}
	if _, hosts := w.route(t, globex); len(hosts) != 1 {
		t.Errorf("the neighbour's hosts are %v", hosts)
	}
	if _, err := w.SetPrimary(t.Context(), actor, other.ID); err != nil {
		t.Error(err)
	}
	events := "SELECT count(*) FROM control.events WHERE type = $1 AND tenant_id = $2"
	if n := one[int](t, w, events, "domain.lost", acme); n != 1 {
		t.Errorf("%d events tell that it is lost", n)
	}

	w.dns.publish(d.RecordName(), d.Challenge)
	w.pass(t, 12*time.Hour)
	if _, hosts := w.route(t, acme); status() != domain.StatusVerified || len(hosts) != 1 || !primary() {
		t.Errorf("the proof is back: status %s, hosts %v", status(), hosts)
	}
	if n := one[int](t, w, events, "domain.verified", acme); n != 2 {
		t.Errorf("%d events tell that it is verified", n)
	}
}

// A lost name can be claimed by another tenant, with a proof of their own; the
// old one does not bring it back.
func TestSec09ALostDomainClaimedByAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	d := w.verified(t, acme, "shop.example")
	w.dns.remove(d.RecordName())
	if _, err := w.Add(t.Context(), actor, globex, "shop.example"); fault.From(err).EffectiveCode() != "domain_taken" {
		t.Errorf("taken from who has it: %v", err)
	}
	w.pass(t, 5*24*time.Hour)
	claimed, err := w.Add(t.Context(), actor, globex, "shop.example")
	if err != nil {
		t.Fatal(err)
	}
	w.dns.publish(d.RecordName(), d.Challenge) // acme's
	if _, err := w.Verify(t.Context(), actor, claimed.ID); fault.From(err).EffectiveCode() != "proof_missing" {
		t.Errorf("verified by the proof of another: %v", err)
	}
	w.pass(t, 24*time.Hour)
	for _, tenant := range []uuid.UUID{acme, globex} {
		if _, hosts := w.route(t, tenant); len(hosts) != 0 {
			t.Errorf("hosts %v", hosts)
		}
	}
	w.dns.publish(claimed.RecordName(), claimed.Challenge)
	if _, err := w.Verify(t.Context(), actor, claimed.ID); err != nil {
		t.Error(err)
	}
	if _, hosts := w.route(t, globex); len(hosts) != 1 {
		t.Errorf("hosts %v", hosts)
	}
}

// A claim that nobody proves does not block the name for ever.
func TestAClaimExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	kept := w.verified(t, acme, "kept.example")
	claim, err := w.Add(t.Context(), actor, acme, "claimed.example")
	if err != nil || claim.ExpiresAt() == nil || kept.ExpiresAt() != nil {
		t.Fatalf("%v %v", claim, err)
	}
	w.clock = claim.ExpiresAt().Add(-time.Minute)
	if err := w.Expire(t.Context(), actor); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Get(t.Context(), claim.ID); err != nil {
		t.Errorf("gone before its time: %v", err)
	}
	w.clock = claim.ExpiresAt().Add(time.Minute)
	if err := w.Expire(t.Context(), actor); err != nil {
		t.Fatal(err)
	}
	if list, err := w.List(t.Context(), acme); err != nil || len(list) != 1 || list[0].ID != kept.ID {
		t.Errorf("%v %v", list, err)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.audit_log WHERE action = 'domain.expire' AND tenant_id = $1", acme); n != 1 {
		t.Errorf("%d audit entries", n)
	}
	if _, err := w.Add(t.Context(), actor, globex, "claimed.example"); err != nil {
		t.Error(err)
	}
}

func TestThePrimaryDomain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	pending, err := w.Add(t.Context(), actor, acme, "pending.example")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.SetPrimary(t.Context(), actor, pending.ID); fault.From(err).EffectiveCode() != "domain_pending" || !strings.Contains(err.Error(), "Verify it first") {
		t.Errorf("an unproven primary domain: %v", err)
	}
	first, second, theirs := w.verified(t, acme, "a.example"), w.verified(t, acme, "b.example"), w.verified(t, globex, "c.example")
	for _, d := range []domain.Domain{first, second, theirs, second} {
		if set, err := w.SetPrimary(t.Context(), actor, d.ID); err != nil || !set.IsPrimary {
			t.Errorf("%+v %v", set, err)
		}
	}
	if _, hosts := w.route(t, acme); hosts[0] != "b.example" {
		t.Errorf("hosts %v", hosts)
	}
	if _, hosts := w.route(t, globex); hosts[0] != "c.example" {
		t.Errorf("hosts %v", hosts)
	}
	if _, err := w.UnsetPrimary(t.Context(), actor, second.ID); err != nil {
		t.Error(err)
	}
	if one[bool](t, w, "SELECT custom_primary FROM node.routes_v1 WHERE tenant_id = $1", acme) {
		t.Error("the primary domain was not taken back")
	}
}

// Who may have a certificate: proven names, and those of tenants on the platform.
func TestWhatIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	w.verified(t, acme, "shop.acme.example")
	if _, err := w.Add(t.Context(), actor, acme, "pending.example"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"shop.acme.example": true, "SHOP.acme.example.": true, "acme.ouvira.test": true,
		"pending.example": false, "globex.ouvira.test": false, "ouvira.test": false, "www.acme.ouvira.test": false, "acme": false,
		"": false, "127.0.0.1": false, "shop.acme.example:443": false, "a b": false, "x.shop.acme.example": false,
	} {
		if got, err := w.Serves(t.Context(), name); err != nil || got != want {
			t.Errorf("%q: %v %v", name, got, err)
		}
	}
	if _, err := w.control.Pool.Exec(t.Context(), "UPDATE control.tenants SET status = 'deleted' WHERE id = $1", acme); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shop.acme.example", "acme.ouvira.test"} {
		if got, err := w.Serves(t.Context(), name); err != nil || got {
			t.Errorf("%s of a deleted tenant: %v %v", name, got, err)
		}
	}
}
