package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pquerna/otp/totp"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/seal"
)

// people log in again and again: they ask who they are, and refresh, and ask again. Some
// do so with the code of an authenticator app, and then take another app. Each request
// comes to another node, and nobody tries again.
type people struct {
	customer

	app    stack.API
	secret string    // of the authenticator app; "": none
	db     *pgx.Conn // the tenant's database, for the clock of the app

	stop func()

	mu     sync.Mutex
	served int // journeys
	failed []string
}

func openDoor(t *testing.T, s *stack.Stack, b *balancer, c customer, withApp bool) *people {
	t.Helper()
	p := &people{customer: c, app: c.login(t, s, 0)}
	p.app.Base, p.app.Client = "http://nodes", &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: b.dial, DisableKeepAlives: true}}
	if withApp {
		address, _ := tenantDatabase(t, s, c.slug)
		p.db = sql(t, address)
		must(t, p.enrol(t.Context(), p.app))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var walking sync.WaitGroup
	p.stop = func() { cancel(); walking.Wait() }
	walking.Go(func() {
		tick := time.NewTicker(10 * pace)
		defer tick.Stop()
		for ctx.Err() == nil {
			err := p.journey(context.WithoutCancel(ctx))
			p.mu.Lock()
			if p.served++; err != nil {
				p.failed = append(p.failed, time.Now().UTC().Format("15:04:05.000 ")+err.Error())
			}
			p.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *people) journey(ctx context.Context) error {
	app := p.app
	app.Token = ""
	var session struct {
		Session string `json:"session_id"`
		Tokens  struct {
			Access  string `json:"access"`
			Refresh string `json:"refresh"`
		} `json:"tokens"`
	}
	if err := app.Want(ctx, http.StatusOK, http.MethodPost, "/auth/login", map[string]string{"identifier": p.email, "password": p.password}, &session); err != nil {
		return err
	}
	if p.secret != "" {
		// The last code was shown half a minute ago.
		if _, err := p.db.Exec(ctx, "UPDATE public.two_factors SET last_step = 0"); err != nil {
			return err
		}
		code, err := totp.GenerateCode(p.secret, time.Now())
		if err == nil {
			err = app.Want(ctx, http.StatusOK, http.MethodPost, "/auth/login-2fa-verify-code", map[string]string{"session_id": session.Session, "code": code}, &session)
		}
		if err != nil {
			return err
		}
	}
	app.Token = session.Tokens.Access
	if err := app.Want(ctx, http.StatusOK, http.MethodGet, "/account/me", nil, nil); err != nil {
		return err
	}
	if err := app.Want(ctx, http.StatusOK, http.MethodPost, "/auth/token/refresh", map[string]string{"refresh": session.Tokens.Refresh}, &session.Tokens); err != nil {
		return err
	}
	app.Token = session.Tokens.Access
	if p.secret != "" {
		if err := p.enrol(ctx, app); err != nil {
			return err
		}
	}
	return app.Want(ctx, http.StatusOK, http.MethodGet, "/account/me", nil, nil)
}

// enrol takes another authenticator app, of which one node seals the secret and the other
// one opens it. A mail tells of it.
func (p *people) enrol(ctx context.Context, app stack.API) error {
	var enrolled struct {
		Secret string `json:"secret"`
	}
	if err := app.Want(ctx, http.StatusOK, http.MethodPost, "/auth/settings_enable-2fa", map[string]string{"method": "totp", "password": p.password}, &enrolled); err != nil {
		return err
	}
	code, err := totp.GenerateCode(enrolled.Secret, time.Now())
	if err != nil {
		return err
	}
	p.secret = enrolled.Secret
	return app.Want(ctx, http.StatusOK, http.MethodPost, "/auth/2fa/confirm", map[string]string{"code": code}, nil)
}

func (p *people) journeys() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served
}

// flawless fails the test for what has failed.
func (p *people) flawless(t *testing.T) {
	t.Helper()
	p.stop()
	if len(p.failed) > 0 || p.served == 0 {
		t.Errorf("%s: people came %d times, and %d times something failed:\n%s", p.slug, p.served, len(p.failed), strings.Join(p.failed[:min(5, len(p.failed))], "\n"))
	}
	t.Logf("%s: people came %d times", p.slug, p.served)
}

// listedKey is a line of ouvira key list.
type listedKey struct {
	Kind  string `json:"kind"`
	ID    uint32 `json:"id"`
	State string `json:"state"`
	Needs []any  `json:"needs"`
	Free  bool   `json:"free"`
}

// The control key and the data key are rotated as docs/operations.md tells, with its
// commands and restarts of all processes one by one, while people of two tenants log in,
// one of them with a second factor, and refresh, at both nodes: not one request fails. A
// sign-up goes on with the code that was mailed before. In the end the old keys are in no
// file, and nothing misses them.
func TestSec38TheKeysAreRotatedByCommandUnderLoad(t *testing.T) {
	t.Parallel()
	lingering := map[string]string{"OUVIRA_LINGER": (4 * look).String()}
	s, _ := start(t, stack.Options{Env: map[string]map[string]string{stack.DataNode(0): lingering, stack.DataNode(1): lingering}})
	generous(t, s)
	b := newBalancer(t, s)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPatch, "/v1/plans/standard", map[string]any{"limits": map[string]int{"enable_2fa_per_user": 100_000}}, nil))
	ouvira := func(args ...string) string {
		t.Helper()
		return output(t, []string{"OUVIRA_URL=" + operator.Base, "OUVIRA_TOKEN=" + operator.Token}, "ouvira", args...)
	}
	listed := func() (keys []listedKey) {
		t.Helper()
		must(t, json.Unmarshal([]byte(ouvira("key", "list", "--output", "json")), &keys))
		return keys
	}
	control, data := s.Env(stack.Control), s.Env(stack.DataNode(0))["OUVIRA_DATA_KEY_FILE"]
	controlKeys := func(args ...string) {
		t.Helper()
		output(t, nil, "controlplane", append([]string{"keys", args[0], "--control-key-file", control["OUVIRA_CONTROL_KEY_FILE"]}, args[1:]...)...)
	}
	dataKeys := func(args ...string) {
		t.Helper()
		output(t, nil, "dataplane", append([]string{"keys", args[0], "--data-key-file", data, "--public-key-file", control["OUVIRA_DATA_PUBLIC_KEY_FILE"]}, args[1:]...)...)
	}
	crowd := []*people{openDoor(t, s, b, demo(s, "acme"), true), openDoor(t, s, b, demo(s, "globex"), false)}
	more := func() { // people come who were not there yet, to both nodes
		t.Helper()
		began := []int{crowd[0].journeys(), crowd[1].journeys()}
		for i, p := range crowd {
			eventually(t, recovery, func() (bool, string) { return p.journeys() > began[i]+3, p.slug + " is not served" })
		}
	}
	restart := func() {
		t.Helper()
		for _, part := range []string{stack.Control, stack.Worker} {
			must(t, s.Stop(part))
			must(t, s.Start(t.Context(), part))
		}
		for node := range 2 {
			must(t, s.Stop(stack.DataNode(node)))
			must(t, s.Start(t.Context(), stack.DataNode(node)))
			b.sends(t, node)
			more() // one node is ahead of the other
		}
	}
	pass := func(step string) { // the time that tenants' rotations wait for after a step
		t.Helper()
		column[string](t, s.Demo().Postgres.Control, `
			WITH waits AS (UPDATE control.operations SET wake_at = now() WHERE kind IN ('key.rotate', 'tenant.rotate_key') AND status = 'queued' RETURNING id)
			UPDATE control.operation_steps SET finished_at = finished_at - interval '1 hour'
			WHERE operation_id IN (SELECT id FROM waits) AND name = $1 AND finished_at > now() - interval '1 hour' RETURNING name`, step)
	}
	early, code := ask(t, s, "early")
	before := listed()
	begun := time.Now()
	lap := func(what string) { t.Logf("%v %s", time.Since(begun).Round(100*time.Millisecond), what) }

	controlKeys("add")
	dataKeys("add")
	restart()
	lap("added")
	controlKeys("promote")
	dataKeys("promote")
	restart()
	lap("promoted")
	ouvira("key", "rotate", "control", "--wait")
	lap("control rotated")
	rotating := exec.CommandContext(t.Context(), filepath.Join(bin, "ouvira"), "key", "rotate", "data", "--wait")
	rotating.Env = append(rotating.Environ(), "OUVIRA_URL="+operator.Base, "OUVIRA_TOKEN="+operator.Token)
	ended := make(chan error, 1)
	go func() {
		out, err := rotating.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		ended <- err
	}()
	const signs = "SELECT count(*)::text FROM control.operations WHERE kind = 'tenant.rotate_key' AND status = 'queued' AND error ->> 'code' = 'tokens_live'"
	eventually(t, recovery, func() (bool, string) {
		pass("announce")
		n := column[string](t, s.Demo().Postgres.Control, signs)[0]
		return n == strconv.Itoa(len(crowd)), n + " tenants sign with another key"
	})
	lap("new keys sign")
	more() // nobody has a token of the key before
	early.verify(t, s, code)
	eventually(t, recovery, func() (bool, string) {
		pass("sign")
		select {
		case err := <-ended:
			must(t, err)
			return true, ""
		default:
			return false, fmt.Sprint("the data key is still being rotated: ", column[string](t, s.Demo().Postgres.Control,
				"SELECT concat_ws(' ', kind, status, error::text) FROM control.operations WHERE finished_at IS NULL"))
		}
	})
	lap("data rotated")
	for _, k := range listed() {
		if k.Free {
			t.Errorf("%s key %d may be removed while codes are on their way that it has made", k.Kind, k.ID)
		}
	}
	column[string](t, s.Demo().Postgres.Control, "UPDATE control.key_rings SET changed_at = changed_at - interval '20 minutes' RETURNING member_id")
	old := map[uint32]bool{}
	for _, k := range before {
		old[k.ID] = true
	}
	for _, k := range listed() {
		if k.Free != old[k.ID] || (k.State == "seals") == old[k.ID] {
			t.Errorf("%s key %d, which was there before: %t; %+v", k.Kind, k.ID, old[k.ID], k)
		}
	}
	remove := map[string]func(...string){"control": controlKeys, "data": dataKeys}
	for _, k := range before {
		if remove[k.Kind] != nil {
			remove[k.Kind]("remove", "--key", fmt.Sprint(k.ID))
			remove[k.Kind] = nil // one id names the key in all its uses
		}
	}
	restart()
	lap("removed")
	for _, p := range crowd {
		p.flawless(t)
	}
	early.login(t, s, 1)
	after := listed()
	for _, k := range after {
		if k.State != "seals" || old[k.ID] {
			t.Errorf("in the end: %+v", k)
		}
	}
	if len(after) != 2 {
		t.Errorf("in the end there are %d keys, want one of each plane", len(after))
	}
	ouvira("doctor")
	clean(t, s)
	for id := range old {
		for _, file := range []string{control["OUVIRA_CONTROL_KEY_FILE"], control["OUVIRA_DATA_PUBLIC_KEY_FILE"], data} {
			text, err := os.ReadFile(file)
			must(t, err)
			if strings.Contains(string(text), fmt.Sprint(id)) {
				t.Errorf("key %d is still in %s", id, file)
			}
		}
		for node := range 2 {
			snapshot := s.Env(stack.DataNode(node))["OUVIRA_SNAPSHOT_FILE"]
			for _, file := range []string{snapshot, snapshot + ".shares"} {
				sealed, err := os.ReadFile(file)
				must(t, err)
				if seal.KeyID(sealed) == id {
					t.Errorf("%s is sealed with key %d, which is gone", file, id)
				}
			}
		}
	}
	lap("done")
}
