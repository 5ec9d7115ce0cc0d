package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// An operation that nobody takes up is not waited for in silence.
func TestAWaitSaysThatNobodyWorks(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "data: {\"id\":\"o\",\"status\":\"queued\"}\n\n: still here\n\n: still here\n\ndata: {\"id\":\"o\",\"status\":\"succeeded\"}\n\n")
	})
	code, _, errOut := p.run(t, "", "operation", "watch", "o")
	if code != cli.ExitOK || strings.Count(errOut, "does a worker run?") != 1 {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// hangUp ends the connection without an answer, as a process does that is gone.
func hangUp(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// A wait goes on while the control plane is away, and while a proxy says so.
func TestAWaitOutlivesTheControlPlane(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case n == 1:
			fmt.Fprint(w, "data: {\"id\":\"o\",\"status\":\"running\",\"steps\":[{\"name\":\"copy\",\"status\":\"running\"}]}\n\n") // and breaks
		case n <= 3:
			hangUp(w)
		case n <= 5:
			problem(w, http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "/events"):
			fmt.Fprint(w, "data: {\"id\":\"o\",\"status\":\"succeeded\"}\n\n")
		default:
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
	})
	code, _, errOut := p.run(t, "", "operation", "watch", "o")
	if code != cli.ExitOK || strings.Count(errOut, "the control plane does not answer") != 1 {
		t.Errorf("exit %d: %s", code, errOut)
	}
	// Refusals are no outage.
	asked.Store(0)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); problem(w, http.StatusNotFound) })
	if code, _, errOut := p.run(t, "", "operation", "watch", "o"); code != cli.ExitNotFound || asked.Load() != 2 || strings.Contains(errOut, "goes on") {
		t.Errorf("exit %d after %d questions: %s", code, asked.Load(), errOut)
	}
}

// impatient presses a key when it reads a word.
type impatient struct {
	bytes.Buffer

	when  string
	press func()
}

func (i *impatient) Write(p []byte) (int, error) {
	defer func() {
		if strings.Contains(i.String(), i.when) {
			i.press()
		}
	}()
	return i.Buffer.Write(p)
}

// Ctrl-C ends the wait and not the operation, and says so.
func TestAWaitIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprint(w, `{"operation":{"id":"o-1","status":"queued"}}`)
			return
		}
		fmt.Fprint(w, "data: {\"id\":\"o-1\",\"status\":\"running\",\"progress\":0.5,\"steps\":[{\"name\":\"copy\",\"status\":\"running\"}]}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	var out bytes.Buffer
	errOut := &impatient{when: "copy", press: interrupt}
	code := cli.Run(ctx, []string{"tenant", "move", "acme", "--server", "b", "--wait"}, cli.Process{
		In: strings.NewReader(""), Out: &out, Err: errOut, Terminal: true,
		Getenv: func(name string) string { return p.env[name] }, ConfigDir: func() (string, error) { return p.home, nil },
	})
	text := errOut.String()
	if code != cli.ExitInterrupted || !strings.Contains(text, "the operation goes on") || !strings.Contains(text, "ouvira operation watch o-1") || !strings.Contains(text, "ouvira operation cancel o-1") {
		t.Errorf("exit %d: %s", code, text)
	}
	if !strings.Contains(text, "[###############...............]  50 % copy") || !strings.HasSuffix(strings.TrimSuffix(text, text[strings.LastIndex(text, "ouvira: interrupted"):]), "\r\x1b[K") {
		t.Errorf("the bar: %q", text)
	}
}
