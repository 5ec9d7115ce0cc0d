package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/sms"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// maxTopTenants bounds the series that the metrics may have of tenants.
const maxTopTenants = 1000

// settings of serve.
type settings struct {
	config.Common
	turnstile.Settings
	tracing.Config

	BaseDomain      string   `env:"OUVIRA_BASE_DOMAIN" envDefault:"localhost"`
	PublicScheme    string   `env:"OUVIRA_PUBLIC_SCHEME" envDefault:"http"`
	PublicPort      string   `env:"OUVIRA_PUBLIC_PORT"`
	Listen          string   `env:"OUVIRA_LISTEN" envDefault:":8000"`
	InternalListen  string   `env:"OUVIRA_INTERNAL_LISTEN" envDefault:"127.0.0.1:9000"`
	TrustedProxies  []string `env:"OUVIRA_TRUSTED_PROXIES"`
	NodeDatabaseURL string   `env:"OUVIRA_NODE_DATABASE_URL" secret:"url"`
	NodeID          string   `env:"OUVIRA_NODE_ID"`
	ConnectionShare float64  `env:"OUVIRA_CONNECTION_SHARE" envDefault:"1"`
	DataKeyFile     string   `env:"OUVIRA_DATA_KEY_FILE"`
	SnapshotFile    string   `env:"OUVIRA_SNAPSHOT_FILE"`
	AuthCookies     bool     `env:"OUVIRA_AUTH_COOKIES"`
	CORSOrigins     []string `env:"CORS_ALLOWED_ORIGINS"`

	AuditSealEvery time.Duration `env:"OUVIRA_AUDIT_SEAL_EVERY" envDefault:"5m"`
	Linger         time.Duration `env:"OUVIRA_LINGER" envDefault:"0s"`
	SlowRequest    time.Duration `env:"OUVIRA_SLOW_REQUEST" envDefault:"1s"`
	TopTenants     int           `env:"OUVIRA_TOP_TENANTS" envDefault:"20"`

	EmailHost     string `env:"EMAIL_HOST" envDefault:"localhost"`
	EmailPort     uint16 `env:"EMAIL_PORT" envDefault:"25"`
	EmailUser     string `env:"EMAIL_HOST_USER"`
	EmailPassword string `env:"EMAIL_HOST_PASSWORD" secret:"true"`
	EmailUseTLS   bool   `env:"EMAIL_USE_TLS" envDefault:"false"`
	DefaultFrom   string `env:"DEFAULT_FROM_EMAIL" envDefault:"Ouvira <no-reply@localhost>"`

	TwilioURL    string `env:"OUVIRA_TWILIO_URL"`
	TwilioSID    string `env:"TWILIO_ACCOUNT_SID"`
	TwilioToken  string `env:"TWILIO_AUTH_TOKEN" secret:"true"`
	TwilioNumber string `env:"TWILIO_PHONE_NUMBER"`
}

// Validate completes the settings and says all that is wrong at once.
func (s *settings) Validate() error {
	var errs []error
	if s.NodeID == "" {
		s.NodeID = defaultNodeID(s.Listen)
	}
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if s.NodeDatabaseURL == "" {
		errs = append(errs, config.Missing("OUVIRA_NODE_DATABASE_URL"))
	}
	if s.DataKeyFile == "" {
		errs = append(errs, config.Missing("OUVIRA_DATA_KEY_FILE"))
	}
	_, err := route.NormalizeHost(s.BaseDomain)
	refuse(err != nil, "OUVIRA_BASE_DOMAIN: must be a host name such as example.com")
	refuse(s.PublicScheme != "http" && s.PublicScheme != "https", "OUVIRA_PUBLIC_SCHEME: must be http or https")
	if s.PublicPort != "" {
		port, err := strconv.ParseUint(s.PublicPort, 10, 16)
		refuse(err != nil || port == 0, "OUVIRA_PUBLIC_PORT: must be a port between 1 and 65535, or empty")
	}
	refuse(s.ConnectionShare <= 0 || s.ConnectionShare > 1, "OUVIRA_CONNECTION_SHARE: must be more than 0 and at most 1")
	refuse(s.AuditSealEvery < time.Second, "OUVIRA_AUDIT_SEAL_EVERY: must be a second (1s) or more")
	refuse(s.Linger < 0 || s.Linger > time.Minute, "OUVIRA_LINGER: must be between nothing (0s) and a minute (1m)")
	refuse(s.SlowRequest < 0, "OUVIRA_SLOW_REQUEST: must be a duration such as 1s, or 0")
	refuse(s.TopTenants < 0 || s.TopTenants > maxTopTenants, "OUVIRA_TOP_TENANTS: must be a whole number from 0 to %d", maxTopTenants)
	_, err = httpserver.ParseProxies(s.TrustedProxies)
	refuse(err != nil, "OUVIRA_TRUSTED_PROXIES: %v", err)
	_, err = mail.NewSMTP(s.mail())
	refuse(err != nil, "%v", err)
	if s.sms() != (sms.Config{URL: s.TwilioURL}) {
		_, err = sms.New(s.sms())
		refuse(err != nil, "%v", err)
	}
	_, err = telemetry.Level(s.LogLevel)
	refuse(err != nil, "OUVIRA_LOG_LEVEL: %v", err)
	for i, origin := range s.CORSOrigins {
		s.CORSOrigins[i] = strings.TrimSpace(origin)
		refuse(!route.IsOrigin(s.CORSOrigins[i]), "CORS_ALLOWED_ORIGINS: entry %d is not an origin such as https://app.example.com", i+1)
	}
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
	if s.PublicScheme != "https" {
		errs = append(errs, errors.New("OUVIRA_PUBLIC_SCHEME: production wants https"))
	}
	for _, origin := range s.CORSOrigins {
		if !strings.HasPrefix(origin, "https://") {
			errs = append(errs, errors.New("CORS_ALLOWED_ORIGINS: production wants https origins"))
		}
	}
	if !s.EmailUseTLS {
		errs = append(errs, errors.New("EMAIL_USE_TLS: production wants true"))
	}
	if s.TwilioURL != "" && !strings.HasPrefix(s.TwilioURL, "https://") {
		errs = append(errs, errors.New("OUVIRA_TWILIO_URL: production wants https"))
	}
	if u, err := url.Parse(s.NodeDatabaseURL); s.NodeDatabaseURL != "" && (err != nil || u.Query().Get("sslmode") != "verify-full") {
		errs = append(errs, errors.New("OUVIRA_NODE_DATABASE_URL: production wants sslmode=verify-full"))
	}
	return errs
}

func (s *settings) mail() mail.Config {
	return mail.Config{
		Host: s.EmailHost, Port: int(s.EmailPort), User: s.EmailUser, Password: s.EmailPassword,
		UseTLS: s.EmailUseTLS, From: s.DefaultFrom,
	}
}

func (s *settings) sms() sms.Config {
	return sms.Config{URL: s.TwilioURL, AccountSID: s.TwilioSID, AuthToken: s.TwilioToken, PhoneNumber: s.TwilioNumber}
}

// defaultNodeID is the machine and the port: stable across restarts, and two
// nodes on one machine differ.
func defaultNodeID(listen string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return host
	}
	return host + "-" + port
}
