package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Names in the control database's URL.
const (
	controlDatabase = "ouvira"
	controlRole     = "ouvira_control"
	nodeRole        = "ouvira_node"
	baseDomain      = "localhost"
)

func (s *Stack) path(elements ...string) string {
	return filepath.Join(append([]string{s.options.State}, elements...)...)
}

func (s *Stack) logPath(name string) string { return s.path("log", name+".log") }

// binary is the path of one of the programs.
func (s *Stack) binary(program string) string { return filepath.Join(s.options.Bin, program) }

// controlURL is the control database as a role of the planes sees it.
func (s *Stack) controlURL(role, password string) string {
	address := url.URL{
		Scheme: "postgres", User: url.UserPassword(role, password),
		Host: loopback(s.secrets.Ports[PGControl]), Path: "/" + controlDatabase, RawQuery: "sslmode=disable",
	}
	return address.String()
}

// The key files. Each plane is told only of what it may read: the private half
// of the data key is the data plane's alone.
func (s *Stack) controlKey() string    { return s.path("keys", "control.key") }
func (s *Stack) dataKey() string       { return s.path("keys", "data.key") }
func (s *Stack) dataPublicKey() string { return s.path("keys", "data.pub") }

// env is the environment of one program as an installation would set it.
func (s *Stack) env(name string) map[string]string {
	values := map[string]string{
		"OUVIRA_ENV":         "local",
		"OUVIRA_BASE_DOMAIN": baseDomain,
		"OUVIRA_LOG_LEVEL":   "info",
		"OUVIRA_NODE_ID":     name,
		"EMAIL_HOST":         "127.0.0.1",
		"EMAIL_PORT":         strconv.Itoa(s.ports.SMTP),
		"EMAIL_USE_TLS":      "false",
		"DEFAULT_FROM_EMAIL": "Ouvira <no-reply@ouvira.example>",
		// The tenants' addresses in mails and answers.
		"OUVIRA_PUBLIC_SCHEME": "http",
		"OUVIRA_PUBLIC_PORT":   strconv.Itoa(s.ports.Data[0]),
	}
	controlPlane := map[string]string{
		"OUVIRA_CONTROL_DATABASE_URL": s.controlURL(controlRole, s.secrets.ControlPassword),
		"OUVIRA_CONTROL_KEY_FILE":     s.controlKey(),
		"OUVIRA_WEBHOOK_PRIVATE":      "true",
		"OUVIRA_CONTROL_URL":          "http://localhost:" + strconv.Itoa(s.ports.Control),
		"OUVIRA_DATA_PUBLIC_KEY_FILE": s.dataPublicKey(),
		"OUVIRA_DNS_SERVERS":          loopback(s.ports.DNS),
		"OUVIRA_BACKUP_URL":           (&url.URL{Scheme: "file", Path: s.path("backups")}).String(),
	}
	switch name {
	case Control:
		maps.Copy(values, controlPlane)
		values["OUVIRA_LISTEN"] = loopback(s.ports.Control)
		// Everybody here comes from one address.
		values["OUVIRA_SIGNUPS_PER_ADDRESS"], values["OUVIRA_SIGNUPS_PER_NETWORK"] = "0", "0"
		values["OUVIRA_INTERNAL_LISTEN"] = loopback(s.ports.ControlInternal)
	case Worker:
		maps.Copy(values, controlPlane)
		values["OUVIRA_INTERNAL_LISTEN"] = loopback(s.ports.WorkerInternal)
	default:
		node := slices.Index(s.nodeNames(), name)
		values["OUVIRA_NODE_DATABASE_URL"] = s.controlURL(nodeRole, s.secrets.NodePassword)
		values["OUVIRA_DATA_KEY_FILE"] = s.dataKey()
		values["OUVIRA_SNAPSHOT_FILE"] = s.path(name, "routes.snapshot")
		values["OUVIRA_LISTEN"] = loopback(s.ports.Data[node])
		values["OUVIRA_INTERNAL_LISTEN"] = loopback(s.ports.DataInternal[node])
		values["OUVIRA_TWILIO_URL"] = localURL(s.ports.SMS)
		values["TWILIO_ACCOUNT_SID"] = "ACouvira"
		values["TWILIO_AUTH_TOKEN"] = "local"
		values["TWILIO_PHONE_NUMBER"] = "+15550199"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(values, s.options.Env[""])
	maps.Copy(values, s.options.Env[name])
	return values
}

// SetEnv changes the environment that a program gets at its next start; an
// empty value takes a variable away.
func (s *Stack) SetEnv(part, name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.options.Env[part] == nil {
		s.options.Env[part] = map[string]string{}
	}
	s.options.Env[part][name] = value
}

func pairs(values map[string]string) []string {
	out := environment()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if values[name] != "" {
			out = append(out, name+"="+values[name])
		}
	}
	return out
}

func (s *Stack) nodeNames() []string {
	var names []string
	for i := range s.ports.Data {
		names = append(names, DataNode(i))
	}
	return names
}

// run runs a program to its end.
func (s *Stack) run(ctx context.Context, env map[string]string, stdin, program string, arguments ...string) error {
	cmd := exec.CommandContext(ctx, s.binary(program), arguments...)
	cmd.Env = pairs(env)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(firstWords(arguments), " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// firstWords are the arguments up to the first option, whose values may be
// secrets.
func firstWords(arguments []string) []string {
	if i := slices.IndexFunc(arguments, func(a string) bool { return strings.HasPrefix(a, "-") }); i >= 0 {
		return arguments[:i]
	}
	return arguments
}

// makeKeys makes the keys of both planes once; data sealed with lost keys is
// lost too.
func (s *Stack) makeKeys(ctx context.Context) error {
	if !exists(s.controlKey()) {
		if err := s.run(ctx, nil, "", controlplaneProgram, "keys", "generate", "--control-key-file", s.controlKey()); err != nil {
			return err
		}
	}
	if !exists(s.dataKey()) || !exists(s.dataPublicKey()) {
		if err := s.run(ctx, nil, "", dataplaneProgram, "keys", "generate", "--data-key-file", s.dataKey(), "--public-key-file", s.dataPublicKey()); err != nil {
			return err
		}
	}
	for _, file := range []string{s.controlKey(), s.dataKey(), s.dataPublicKey()} {
		if err := os.Chmod(file, 0o600); err != nil {
			return fmt.Errorf("the key file %s was not made: %w", file, err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// migrate makes roles and database when missing and brings the schema up.
func (s *Stack) migrate(ctx context.Context) error {
	env := map[string]string{
		"OUVIRA_ENV":                  "local",
		"OUVIRA_CONTROL_DATABASE_URL": s.controlURL(controlRole, s.secrets.ControlPassword),
		"OUVIRA_NODE_DATABASE_URL":    s.controlURL(nodeRole, s.secrets.NodePassword),
	}
	return s.run(ctx, env, "", controlplaneProgram, "migrate", "--bootstrap-url", s.databases[PGControl].server.URL())
}

// startPrograms starts the planes; the nodes wait for nothing but the control
// database, so all start at once.
func (s *Stack) startPrograms(ctx context.Context) error {
	type planned struct {
		name, program, command string
		internal               int
	}
	plan := []planned{
		{Control, controlplaneProgram, "serve", s.ports.ControlInternal},
		{Worker, controlplaneProgram, "worker", s.ports.WorkerInternal},
	}
	for i, name := range s.nodeNames() {
		if err := os.MkdirAll(s.path(name), 0o700); err != nil {
			return unwritable(err)
		}
		plan = append(plan, planned{name, dataplaneProgram, "serve", s.ports.DataInternal[i]})
	}
	failures := make(chan error, len(plan))
	for _, p := range plan {
		started := &program{
			path: s.binary(p.program), arguments: []string{p.command},
			environment: func() []string { return pairs(s.env(p.name)) },
			log:         s.logPath(p.name),
			readyURL:    "http://" + loopback(p.internal) + "/readyz",
			readyIn:     s.options.ReadyTimeout,
		}
		if err := os.Remove(started.log); err != nil && !errors.Is(err, os.ErrNotExist) {
			return unwritable(err)
		}
		s.add(p.name, started)
		go func() { failures <- s.launch(ctx, p.name) }()
	}
	var all []error
	for range plan {
		all = append(all, <-failures)
	}
	return errors.Join(all...)
}

// serveOn runs a server of this process on a port until the stack is closed.
func (s *Stack) serveOn(port int, serve func(ctx context.Context, listener net.Listener) error) error {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return fmt.Errorf("port %d: %w", port, err)
	}
	s.serveListener(listener, serve)
	return nil
}

func (s *Stack) serveListener(listener net.Listener, serve func(ctx context.Context, listener net.Listener) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := serve(ctx, listener); err != nil && ctx.Err() == nil {
			s.say("the server on %s ended: %v", listener.Addr(), err)
		}
	}()
	s.listening = append(s.listening, func() {
		cancel()
		<-ended
	})
}
