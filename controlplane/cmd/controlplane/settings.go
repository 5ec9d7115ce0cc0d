package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// settings of serve, worker and all; migrate reads the two database URLs.
type settings struct {
	config.Common
	turnstile.Settings
	tracing.Config

	Listen             string   `env:"OUVIRA_LISTEN" envDefault:":8080"`
	InternalListen     string   `env:"OUVIRA_INTERNAL_LISTEN" envDefault:"127.0.0.1:9080"`
	TrustedProxies     []string `env:"OUVIRA_TRUSTED_PROXIES"`
	ControlDatabaseURL string   `env:"OUVIRA_CONTROL_DATABASE_URL" secret:"url"`
	NodeDatabaseURL    string   `env:"OUVIRA_NODE_DATABASE_URL" secret:"url"`
	ControlKeyFile     string   `env:"OUVIRA_CONTROL_KEY_FILE"`
	DataPublicKeyFile  string   `env:"OUVIRA_DATA_PUBLIC_KEY_FILE"`
	NodeID             string   `env:"OUVIRA_NODE_ID"`
	ConnectionShare    float64  `env:"OUVIRA_CONNECTION_SHARE"`
	WorkerOperations   int      `env:"OUVIRA_WORKER_OPERATIONS" envDefault:"4"`
	InlineOperations   int      `env:"OUVIRA_INLINE_OPERATIONS" envDefault:"4"`
	WorkerLong         int      `env:"OUVIRA_WORKER_LONG_OPERATIONS" envDefault:"2"`

	BackupURL string `env:"OUVIRA_BACKUP_URL"`
	PGBin     string `env:"OUVIRA_PG_BIN"`

	BaseDomain    string   `env:"OUVIRA_BASE_DOMAIN" envDefault:"localhost"`
	PublicScheme  string   `env:"OUVIRA_PUBLIC_SCHEME" envDefault:"http"`
	PublicPort    string   `env:"OUVIRA_PUBLIC_PORT"`
	SignupOrigins []string `env:"OUVIRA_SIGNUP_ORIGINS"`
	// SignupApproval has operators decide about each sign-up; the other two are how
	// many an address and a network may start in an hour.
	SignupApproval   bool `env:"OUVIRA_SIGNUP_APPROVAL" envDefault:"false"`
	SignupPerAddress int  `env:"OUVIRA_SIGNUPS_PER_ADDRESS" envDefault:"20"`
	SignupPerNetwork int  `env:"OUVIRA_SIGNUPS_PER_NETWORK" envDefault:"100"`
	// ReservedDomains are hosts of the platform that no tenant may claim.
	ReservedDomains []string `env:"OUVIRA_RESERVED_DOMAINS"`
	DNSServers      []string `env:"OUVIRA_DNS_SERVERS"`
	ControlURL      string   `env:"OUVIRA_CONTROL_URL" envDefault:"http://localhost:8080"`

	WebhookPrivate bool `env:"OUVIRA_WEBHOOK_PRIVATE" envDefault:"false"`

	EmailHost     string `env:"EMAIL_HOST" envDefault:"localhost"`
	EmailPort     uint16 `env:"EMAIL_PORT" envDefault:"25"`
	EmailUser     string `env:"EMAIL_HOST_USER"`
	EmailPassword string `env:"EMAIL_HOST_PASSWORD" secret:"true"`
	EmailUseTLS   bool   `env:"EMAIL_USE_TLS" envDefault:"false"`
	DefaultFrom   string `env:"DEFAULT_FROM_EMAIL" envDefault:"Ouvira <no-reply@localhost>"`
}

// Validate says all that is wrong at once. What a command needs besides is
// checked by the command.
func (s *settings) Validate() error {
	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	base, err := route.NormalizeHost(s.BaseDomain)
	refuse(err != nil || strings.Contains(s.BaseDomain, ":"), "OUVIRA_BASE_DOMAIN: must be a host name such as example.com, without a port")
	s.BaseDomain = base
	refuse(s.PublicScheme != "http" && s.PublicScheme != "https", "OUVIRA_PUBLIC_SCHEME: must be http or https")
	if s.PublicPort != "" {
		port, err := strconv.ParseUint(s.PublicPort, 10, 16)
		refuse(err != nil || port == 0, "OUVIRA_PUBLIC_PORT: must be a port between 1 and 65535, or empty")
	}
	refuse(s.ConnectionShare < 0 || s.ConnectionShare > 1, "OUVIRA_CONNECTION_SHARE: must be more than 0 and at most 1")
	refuse(s.InlineOperations < 0 || s.InlineOperations > 100, "OUVIRA_INLINE_OPERATIONS: must be between 0 and 100")
	refuse(s.WorkerOperations < 1 || s.WorkerOperations > 100, "OUVIRA_WORKER_OPERATIONS: must be between 1 and 100")
	refuse(s.WorkerLong < 1 || s.WorkerLong > 100, "OUVIRA_WORKER_LONG_OPERATIONS: must be between 1 and 100")
	_, err = storage.Open(s.BackupURL)
	refuse(s.BackupURL != "" && err != nil, "OUVIRA_BACKUP_URL: %v", err)
	control, err := url.Parse(s.ControlURL)
	refuse(err != nil || control.Host == "" || (control.Scheme != "http" && control.Scheme != "https"), "OUVIRA_CONTROL_URL: must be like https://control.example.com")
	for i, origin := range s.SignupOrigins {
		s.SignupOrigins[i] = strings.TrimSpace(origin)
		refuse(!route.IsOrigin(s.SignupOrigins[i]), "OUVIRA_SIGNUP_ORIGINS: entry %d is not an origin such as https://www.example.com", i+1)
	}
	refuse(s.SignupPerAddress < 0, "OUVIRA_SIGNUPS_PER_ADDRESS: must not be negative; 0 sets no limit")
	refuse(s.SignupPerNetwork < 0, "OUVIRA_SIGNUPS_PER_NETWORK: must not be negative; 0 sets no limit")
	for i, name := range s.ReservedDomains {
		s.ReservedDomains[i], err = route.NormalizeHost(strings.TrimSpace(name))
		refuse(err != nil || strings.Contains(name, ":"), "OUVIRA_RESERVED_DOMAINS: entry %d is not a host name such as example.com", i+1)
	}
	_, err = domain.NewResolver(s.DNSServers)
	refuse(err != nil, "OUVIRA_DNS_SERVERS: %v", err)
	_, err = httpserver.ParseProxies(s.TrustedProxies)
	refuse(err != nil, "OUVIRA_TRUSTED_PROXIES: %v", err)
	_, err = telemetry.Level(s.LogLevel)
	refuse(err != nil, "OUVIRA_LOG_LEVEL: %v", err)
	errs = append(errs, s.WrongTurnstile(s.Env)...)
	errs = append(errs, s.WrongTracing(s.Env)...)
	if s.Env == config.Production {
		errs = append(errs, s.insecure()...)
	}
	return errors.Join(errs...)
}

// insecure names what production does not accept.
func (s *settings) insecure() []error {
	var errs []error
	refuse := func(wrong bool, text string) {
		if wrong {
			errs = append(errs, errors.New(text))
		}
	}
	refuse(s.PublicScheme != "https", "OUVIRA_PUBLIC_SCHEME: production wants https")
	refuse(!strings.HasPrefix(s.ControlURL, "https://"), "OUVIRA_CONTROL_URL: production wants https")
	refuse(s.WebhookPrivate, "OUVIRA_WEBHOOK_PRIVATE: production sends nothing to private addresses")
	refuse(!s.EmailUseTLS, "EMAIL_USE_TLS: production wants true")
	for name, address := range map[string]string{
		"OUVIRA_CONTROL_DATABASE_URL": s.ControlDatabaseURL, "OUVIRA_NODE_DATABASE_URL": s.NodeDatabaseURL,
	} {
		u, err := url.Parse(address)
		refuse(address != "" && (err != nil || u.Query().Get("sslmode") != "verify-full"), name+": production wants sslmode=verify-full")
	}
	if s.TurnstileSecretKey != "" && len(s.SignupOrigins) == 0 {
		errs = append(errs, errors.New("OUVIRA_SIGNUP_ORIGINS: name the sign-up pages whose Turnstile tokens count, or unset TURNSTILE_SECRET_KEY"))
	}
	for _, origin := range s.SignupOrigins {
		refuse(!strings.HasPrefix(origin, "https://"), "OUVIRA_SIGNUP_ORIGINS: production wants https origins")
	}
	return errs
}

// needed says what serve, worker and all cannot do without.
func (s *settings) needed() error {
	var errs []error
	for name, value := range map[string]string{
		"OUVIRA_CONTROL_DATABASE_URL": s.ControlDatabaseURL,
		"OUVIRA_CONTROL_KEY_FILE":     s.ControlKeyFile,
		"OUVIRA_DATA_PUBLIC_KEY_FILE": s.DataPublicKeyFile,
	} {
		if value == "" {
			errs = append(errs, config.Missing(name))
		}
	}
	return errors.Join(errs...)
}

// backupStore is where backups go; nil: nowhere.
func (s *settings) backupStore() storage.Store {
	if s.BackupURL == "" {
		return nil
	}
	store, _ := storage.Open(s.BackupURL) // checked by Validate
	return store
}

// getenv is how the programs of Postgres are looked for.
func (s *settings) getenv(name string) string {
	if name == "OUVIRA_PG_BIN" {
		return s.PGBin
	}
	return os.Getenv(name)
}

func (s *settings) addresses() tenant.Addresses {
	return tenant.Addresses{BaseDomain: s.BaseDomain, Scheme: s.PublicScheme, Port: s.PublicPort}
}

func (s *settings) mail() mail.Config {
	return mail.Config{
		Host: s.EmailHost, Port: int(s.EmailPort), User: s.EmailUser, Password: s.EmailPassword,
		UseTLS: s.EmailUseTLS, From: s.DefaultFrom,
	}
}

// secureCookies: on a developer's own machine there is no https, and a browser
// would drop a secure cookie.
func (s *settings) secureCookies() bool {
	return s.Env == config.Production || s.PublicScheme == "https"
}

// The most of every server's connection budget, where none is set.
const (
	serveShare  = 0.02 // adds servers, looks at them, makes tenants of sign-ups
	workerShare = 0.1
)

// member is how this process is known among those that hold connections to
// tenant servers.
func (s *settings) member(command string) (id string, share float64) {
	id, share = s.NodeID, s.ConnectionShare
	if id == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		id = "control-" + command + "@" + host
	}
	if share == 0 {
		share = workerShare
		if command == commandServe {
			share = serveShare
		}
	}
	return id, share
}
