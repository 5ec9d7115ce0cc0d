package stack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ouvira/ouvira/deploy/catcher"
)

// Demo is demo.json: what a test of a running stack has to know.
type Demo struct {
	ControlURL string       `json:"control_url"`
	DataURLs   []string     `json:"data_urls"`
	MailURL    string       `json:"mail_url"`
	SMSURL     string       `json:"sms_url"`
	BaseDomain string       `json:"base_domain"`
	Operator   Operator     `json:"operator"`
	Tenants    []DemoTenant `json:"tenants"`
	Postgres   DemoPostgres `json:"postgres"`
	PIDs       DemoPIDs     `json:"pids"`
}

// DemoTenant is one of the demo tenants; Host carries no port.
type DemoTenant struct {
	Slug          string `json:"slug"`
	Host          string `json:"host"`
	OwnerEmail    string `json:"owner_email"`
	OwnerPassword string `json:"owner_password"`
}

// DemoPostgres are the servers with their superusers' addresses.
type DemoPostgres struct {
	Control    string       `json:"control"`
	ControlPID int          `json:"control_pid"`
	Servers    []DemoServer `json:"servers"`
}

// DemoServer is one tenant server.
type DemoServer struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	PID  int    `json:"pid"`
}

// DemoPIDs are the planes' processes; a part that does not run has 0.
type DemoPIDs struct {
	Control int   `json:"control"`
	Workers []int `json:"workers"`
	Data    []int `json:"data"`
}

func (s *Stack) demoPath() string { return filepath.Join(s.options.State, "demo.json") }

// Demo describes the stack as it is now.
func (s *Stack) Demo() Demo {
	d := Demo{
		ControlURL: localURL(s.ports.Control), MailURL: localURL(s.ports.Mail), SMSURL: localURL(s.ports.SMS),
		BaseDomain: baseDomain, Operator: s.secrets.Operator, Tenants: []DemoTenant{},
		Postgres: DemoPostgres{
			Control:    s.databases[PGControl].server.DatabaseURL(controlDatabase),
			ControlPID: s.PID(PGControl),
		},
		PIDs: DemoPIDs{Control: s.PID(Control), Workers: []int{s.PID(Worker)}},
	}
	for i, name := range s.nodeNames() {
		d.DataURLs = append(d.DataURLs, localURL(s.ports.Data[i]))
		d.PIDs.Data = append(d.PIDs.Data, s.PID(name))
	}
	for _, part := range []string{PGA, PGB} {
		server := s.databases[part].server
		d.Postgres.Servers = append(d.Postgres.Servers, DemoServer{
			Name: strings.TrimPrefix(part, "pg-"), URL: server.URL(), PID: server.PID(),
		})
	}
	if !s.options.NoTenants {
		for _, tenant := range s.secrets.Tenants {
			d.Tenants = append(d.Tenants, DemoTenant{
				Slug: tenant.Slug, Host: host(tenant.Slug), OwnerEmail: tenant.OwnerEmail, OwnerPassword: tenant.OwnerPassword,
			})
		}
	}
	return d
}

func (s *Stack) writeDemo() error {
	demo := s.Demo()
	s.mu.Lock()
	s.demo = &demo
	s.mu.Unlock()
	return writeJSON(s.demoPath(), demo)
}

// ReadDemo reads what a running stack wrote into its state folder.
func ReadDemo(state string) (Demo, error) {
	var demo Demo
	text, err := os.ReadFile(filepath.Join(state, "demo.json"))
	if err != nil {
		return demo, fmt.Errorf("no stack is ready on %s: %w", state, err)
	}
	if err := json.Unmarshal(text, &demo); err != nil {
		return demo, fmt.Errorf("%s: %w", filepath.Join(state, "demo.json"), err)
	}
	return demo, nil
}

// PID of a part, 0 when it does not run or is unknown.
func (s *Stack) PID(name string) int {
	p, err := s.part(name)
	if err != nil {
		return 0
	}
	return p.pid()
}

// Ports of the stack.
func (s *Stack) Ports() Ports { return s.ports }

// PostgresURL is the superuser's address of one of the Postgres servers.
func (s *Stack) PostgresURL(name string) string { return s.databases[name].server.URL() }

// LogFile is where a part writes.
func (s *Stack) LogFile(name string) string {
	p, err := s.part(name)
	if err != nil {
		return ""
	}
	return p.logFile()
}

// InternalURL is where a program serves /healthz, /readyz and /metrics.
func (s *Stack) InternalURL(name string) string {
	p, err := s.part(name)
	if err != nil {
		return ""
	}
	if program, ok := p.(*program); ok {
		return strings.TrimSuffix(program.readyURL, "/readyz")
	}
	return ""
}

// Env is the environment that a program gets at its next start, without what it
// inherits.
func (s *Stack) Env(name string) map[string]string { return s.env(name) }

// Mail is the stack's mail catcher, SMS its catcher of texts.
func (s *Stack) Mail() *catcher.Mail { return s.mail }

// SMS see Mail.
func (s *Stack) SMS() *catcher.SMS { return s.sms }

// DNS is the name server of the customers' domains.
func (s *Stack) DNS() *catcher.DNS { return s.dns }

// State is the folder of the stack.
func (s *Stack) State() string { return s.options.State }

func recipient(to []catcher.Address) string {
	if len(to) == 0 {
		return ""
	}
	return to[0].Address
}
