package stack

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// A second process (make start, make stop) reaches the stack through a loopback
// port. Where it is and the password for it are in a file that only the owner
// of the state folder can read.
type supervisor struct {
	PID   int    `json:"pid"`
	URL   string `json:"url"`
	Token string `json:"token"`
}

func (s *Stack) supervisorPath() string { return supervisorFile(s.options.State) }

func supervisorFile(state string) string { return filepath.Join(state, "supervisor.json") }

// A part takes this long to start at worst, with some room.
const requestTimeout = 2 * time.Minute

func (s *Stack) serveControl(context.Context) error {
	token := rand.Text()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{action}/{name}", func(w http.ResponseWriter, r *http.Request) {
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
			http.Error(w, "The password of the state folder is missing.", http.StatusUnauthorized)
			return
		}
		if err := s.act(r.Context(), r.PathValue("action"), r.PathValue("name")); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("open the port for make start and make stop: %w", err)
	}
	s.serveListener(listener, httpServer(mux))
	return writeJSON(s.supervisorPath(), supervisor{PID: os.Getpid(), URL: "http://" + listener.Addr().String(), Token: token})
}

func (s *Stack) act(ctx context.Context, action, name string) error {
	switch action {
	case "start":
		// The part outlives the request that asked for it.
		return s.Start(context.WithoutCancel(ctx), name)
	case "stop":
		return s.Stop(name)
	case "stop-immediate":
		return s.StopImmediate(name)
	case "kill":
		return s.Kill9(name)
	default:
		return fmt.Errorf("a part can be started, stopped, stopped at once (stop-immediate) and killed, not %q", action)
	}
}

// Ask has the stack that runs on the state folder start or stop a part.
func Ask(ctx context.Context, state, action, name string) error {
	notRunning := fmt.Errorf("no stack runs on %s: start one with `make run`", state)
	text, err := os.ReadFile(supervisorFile(state))
	if errors.Is(err, os.ErrNotExist) {
		return notRunning
	}
	if err != nil {
		return fmt.Errorf("the state folder cannot be read: %w. Run as the user who started the stack", err)
	}
	var at supervisor
	if err := json.Unmarshal(text, &at); err != nil {
		return fmt.Errorf("%s: %w", supervisorFile(state), err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+"/"+action+"/"+name, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+at.Token)
	response, err := (&http.Client{}).Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// A supervisor that was killed leaves its file.
		return notRunning
	}
	defer response.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(said)))
	}
	return nil
}

// kept are the files and folders that a stack makes in its state folder. A
// reset removes these and nothing else, whatever folder it is pointed at.
var kept = []string{"supervisor.json", "demo.json", "secrets.json", "keys", "log", "lock"}

// Reset forgets the stack of the state folder. It says where it removed data.
func Reset(state string) ([]string, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, err
	}
	if !exists(filepath.Join(state, "lock")) {
		return nil, nil
	}
	lock, err := lockState(state)
	if err != nil {
		return nil, fmt.Errorf("nothing was removed: %w", err)
	}
	defer lock.Close()
	place, _, err := pgserver.Place(state)
	if err != nil {
		return nil, err
	}
	var targets []string
	for _, name := range postgresNames {
		targets = append(targets, filepath.Join(state, name), filepath.Join(place, name))
	}
	for i := range maxDataNodes {
		targets = append(targets, filepath.Join(state, DataNode(i)))
	}
	for _, name := range kept {
		targets = append(targets, filepath.Join(state, name))
	}
	var removed []string
	for _, target := range targets {
		if !exists(target) {
			continue
		}
		if err := os.RemoveAll(target); err != nil {
			return removed, fmt.Errorf("%w. Run as the user who started the stack", err)
		}
		removed = append(removed, target)
	}
	// The folders too, when nothing else is in them.
	_ = os.Remove(state)
	if place != state {
		_ = os.Remove(place)
		_ = os.Remove(filepath.Dir(place))
	}
	return removed, nil
}
