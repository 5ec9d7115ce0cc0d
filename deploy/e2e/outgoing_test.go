package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// outgoing is a stack with somebody who hears of every sign-up, and the way to invite
// people into a tenant, which sends a mail from a node.
type outgoing struct {
	s      *stack.Stack
	armed  string
	app    stack.API
	invite string
	role   int64

	mu    sync.Mutex
	heard map[string][]string // slug → the ids of the webhooks that told of it
	down  bool
}

func newOutgoing(t *testing.T) *outgoing {
	t.Helper()
	o := &outgoing{heard: map[string][]string{}}
	o.s, o.armed = start(t, stack.Options{NoTenants: true})
	o.app = arrives(t, o.s, "acme").login(t, o.s, 0)
	generous(t, o.s)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var event struct {
			Data struct {
				Slug string `json:"slug"`
			} `json:"data"`
		}
		_ = json.Unmarshal(body, &event)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		o.heard[event.Data.Slug] = append(o.heard[event.Data.Slug], r.Header.Get("webhook-id"))
	}))
	t.Cleanup(receiver.Close)
	operator, err := o.s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/webhooks", map[string]any{"url": receiver.URL, "events": []string{"signup.created"}}, nil))
	address, _ := tenantDatabase(t, o.s, "acme")
	o.role = column[int64](t, address, "SELECT id FROM roles WHERE role = 'employee'")[0]
	o.invite = fmt.Sprintf("/company/%d/invite", column[int64](t, address, "SELECT id FROM companies")[0])
	return o
}

// signUp sends a code by mail, and a webhook.
func (o *outgoing) signUp(t *testing.T, slug string) {
	t.Helper()
	must(t, o.s.ControlAPI().Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/signups", map[string]string{
		"company_name": "Company", "slug": slug, "full_name": "Owner", "email": "owner@" + slug + ".example", "password": "correct horse battery",
	}, nil))
}

// invitation sends a mail from a node.
func (o *outgoing) invitation(t *testing.T, slug string) {
	t.Helper()
	must(t, o.app.Want(t.Context(), http.StatusCreated, http.MethodPost, o.invite, map[string]any{"email": "owner@" + slug + ".example", "role": o.role}, nil))
}

// mails are the Message-IDs of what somebody got.
func (o *outgoing) mails(slug string) (ids []string) {
	for _, m := range o.s.Mail().Messages() {
		for _, to := range m.To {
			if to.Address == "owner@"+slug+".example" {
				ids = append(ids, m.MessageID)
			}
		}
	}
	return ids
}

func (o *outgoing) webhooks(slug string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.heard[slug])
}

// The process that sends is killed between the commit and the sending, and between the
// sending and its note: nothing is lost, and what is sent once more is the same mail or
// webhook, under the same id.
func TestRel11WhatIsToBeSentSurvivesKilledProcesses(t *testing.T) {
	t.Parallel()
	o := newOutgoing(t)
	points := []string{"mail/taken", "mail/sent", "webhook/taken", "webhook/sent", "outbox/claimed", "outbox/sent"}
	var slugs []string
	for kill := range scaled(12, 200) {
		point := points[kill%len(points)]
		slug := fmt.Sprintf("killed-%d", kill)
		slugs = append(slugs, slug)
		file := fileOf(o.armed, point)
		must(t, os.WriteFile(file, nil, 0o600))
		part := stack.Worker
		if kill%len(points) < 4 {
			o.signUp(t, slug)
		} else {
			part = stack.DataNode(0)
			o.invitation(t, slug)
		}
		eventually(t, time.Minute, func() (bool, string) {
			_, err := os.Stat(file + ".hit")
			return err == nil, "nothing has reached " + point
		})
		must(t, o.s.Kill9(part))
		must(t, os.Remove(file+".hit"))
		must(t, o.s.Start(t.Context(), part))
		if part != stack.Worker {
			settled(t, o.s, 0)
		}
	}
	// The queue waits for 90 s before it takes a job for a dead worker's. The test does not.
	control := sql(t, o.s.Demo().Postgres.Control)
	_, err := control.Exec(t.Context(), "UPDATE river.river_job SET attempted_at = attempted_at - interval '2 min' WHERE state = 'running' AND kind = 'signup_code_mail'")
	must(t, err)
	repeated := 0
	once := func(what, slug string, ids []string) {
		t.Helper()
		repeated += len(ids) - 1
		if distinct := slices.Compact(slices.Sorted(slices.Values(ids))); len(distinct) != 1 {
			t.Errorf("%s of %s have the ids %v", what, slug, distinct)
		}
	}
	for kill, slug := range slugs {
		signedUp := kill%len(points) < 4
		eventually(t, 3*time.Minute, func() (bool, string) {
			mails, webhooks := o.mails(slug), o.webhooks(slug)
			return len(mails) > 0 && (!signedUp || len(webhooks) > 0), fmt.Sprintf("%s, killed at %s, got the mails %v and the webhooks %v", slug, points[kill%len(points)], mails, webhooks)
		})
	}
	for kill, slug := range slugs {
		once("mails", slug, o.mails(slug))
		if kill%len(points) < 4 {
			once("webhooks", slug, o.webhooks(slug))
		}
	}
	if repeated == 0 {
		t.Error("nothing was sent twice: the processes were not killed after they had sent")
	}
	t.Logf("%d kills, %d were sent once more", len(slugs), repeated)
}

// The mail server and a webhook's receiver are away: sign-ups and invitations are
// answered as ever, and everything leaves when they are back, on a schedule with jitter.
func TestRel12WhatWaitsForAProviderDrainsAfterwards(t *testing.T) {
	t.Parallel()
	o := newOutgoing(t)
	n := scaled(10, 100)
	ask := func(prefix string) (took []time.Duration) {
		t.Helper()
		for i := range n {
			slug := fmt.Sprintf("%s-%d", prefix, i)
			begun := time.Now()
			o.signUp(t, slug)
			took = append(took, time.Since(begun))
			o.invitation(t, slug+"-invited")
		}
		slices.Sort(took)
		return took
	}
	before := ask("before")

	var none net.ListenConfig
	listener, err := none.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	nobody := fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
	must(t, listener.Close())
	working := o.s.Env(stack.Worker)["EMAIL_PORT"]
	senders := []string{stack.Worker, stack.DataNode(0), stack.DataNode(1)}
	provider := func(port string, down bool) {
		t.Helper()
		o.mu.Lock()
		o.down = down
		o.mu.Unlock()
		for _, part := range senders {
			o.s.SetEnv(part, "EMAIL_PORT", port)
			must(t, o.s.Stop(part))
			must(t, o.s.Start(t.Context(), part))
		}
		settled(t, o.s, 0)
	}
	provider(nobody, true)
	meanwhile := ask("meanwhile")
	control := o.s.Demo().Postgres.Control
	eventually(t, time.Minute, func() (bool, string) {
		mails := column[int](t, control, "SELECT count(*)::int FROM river.river_job WHERE kind = 'signup_code_mail' AND errors IS NOT NULL")[0]
		hooks := column[int](t, control, "SELECT count(*)::int FROM control.webhook_deliveries WHERE status = 'pending' AND attempts > 0 AND lease_until IS NULL")[0]
		return mails >= n && hooks >= n, fmt.Sprintf("%d mails and %d webhooks of %d have failed", mails, hooks, n)
	})
	moments := column[int](t, control, "SELECT count(DISTINCT round(extract(epoch FROM next_attempt_at) * 10))::int FROM control.webhook_deliveries WHERE status = 'pending'")[0]
	if moments < n/2 {
		t.Errorf("%d attempts are due at %d moments: there is no jitter", n, moments)
	}
	provider(working, false)
	for i := range n {
		for _, slug := range []string{fmt.Sprintf("meanwhile-%d", i), fmt.Sprintf("meanwhile-%d-invited", i)} {
			eventually(t, 3*time.Minute, func() (bool, string) { return len(o.mails(slug)) > 0, "no mail for " + slug })
			if ids := o.mails(slug); len(ids) != 1 {
				t.Errorf("%s got %d mails", slug, len(ids))
			}
		}
		slug := fmt.Sprintf("meanwhile-%d", i)
		eventually(t, 3*time.Minute, func() (bool, string) { return len(o.webhooks(slug)) > 0, "no webhook for " + slug })
	}
	t.Logf("a sign-up took %v in the median before, %v meanwhile", before[n/2].Round(time.Millisecond), meanwhile[n/2].Round(time.Millisecond))
	if flat := 10*before[n/2] + time.Second; meanwhile[n/2] > flat {
		t.Errorf("a sign-up took %v in the median while nothing could be sent, %v before", meanwhile[n/2], before[n/2])
	}
}
