package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/config"
)

type settings struct {
	config.Common

	BaseDomain string        `env:"OUVIRA_BASE_DOMAIN" envDefault:"localhost"`
	Database   string        `env:"OUVIRA_NODE_DATABASE_URL" secret:"url"`
	Token      string        `env:"OUVIRA_TOKEN" secret:"true"`
	Share      float64       `env:"OUVIRA_CONNECTION_SHARE" envDefault:"0.4"`
	Cookies    bool          `env:"OUVIRA_AUTH_COOKIES"`
	Drain      time.Duration `env:"OUVIRA_PORT_BASE"`
	Proxies    []string      `env:"OUVIRA_TRUSTED_PROXIES"`
}

func (s *settings) Validate() error {
	if s.Env == config.Production && s.Database == "" {
		return config.Missing("OUVIRA_NODE_DATABASE_URL")
	}
	return nil
}

func TestLoad(t *testing.T) {
	t.Parallel()
	got, err := config.LoadFrom[settings]([]string{
		"PATH=/bin", "OUVIRA_URL=http://localhost:8080", "OUVIRA_AUTH_COOKIES=true", "OUVIRA_TRUSTED_PROXIES=10.0.0.0/8,192.0.2.1", "OUVIRA_ENV=production", "OUVIRA_ENV=",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Env != config.Local || got.BaseDomain != "localhost" || got.Share != 0.4 || !got.Cookies || len(got.Proxies) != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]string{
		"OUVIRA_BASEDOMAIN=hunter2":       "OUVIRA_BASEDOMAIN: there is no such setting. Did you mean OUVIRA_BASE_DOMAIN?",
		"OUVIRA_TRUSTED_PROXY=hunter2":    "Did you mean OUVIRA_TRUSTED_PROXIES?",
		"OUVIRA_ENV=hunter2":              "OUVIRA_ENV: must be local, staging or production",
		"OUVIRA_CONNECTION_SHARE=hunter2": "OUVIRA_CONNECTION_SHARE: must be a number",
		"OUVIRA_AUTH_COOKIES=hunter2":     "OUVIRA_AUTH_COOKIES: must be true or false",
		"OUVIRA_PORT_BASE=hunter2":        "OUVIRA_PORT_BASE: must be a duration",
		"OUVIRA_ENV=production":           "OUVIRA_NODE_DATABASE_URL is not set. The control database",
	} {
		_, err := config.LoadFrom[settings]([]string{entry})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats the value: %v", entry, err)
		}
	}
}

func TestLoadNamesAllThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := config.LoadFrom[settings]([]string{"OUVIRA_X=1", "OUVIRA_Y=1"})
	if err == nil || strings.Count(err.Error(), "no such setting") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestAlias(t *testing.T) {
	t.Parallel()
	got, err := config.LoadFrom[settings]([]string{"TENANT_BASE_DOMAIN=example.com"})
	if err != nil || got.BaseDomain != "example.com" {
		t.Errorf("got %q, %v", got.BaseDomain, err)
	}
	if _, err = config.LoadFrom[settings]([]string{"TENANT_BASE_DOMAIN=a.example", "OUVIRA_BASE_DOMAIN=b.example"}); err == nil {
		t.Error("two different values were accepted")
	}
}

func TestSec39PrintMasksSecrets(t *testing.T) {
	t.Parallel()
	for _, database := range []string{
		"postgres://node:hunter2@db.example:5432/control?sslmode=verify-full",
		"postgres://db.example/control?user=node&password=hunter2",
		"host=db.example password=hunter2",
	} {
		got, err := config.LoadFrom[settings]([]string{"OUVIRA_NODE_DATABASE_URL=" + database, "OUVIRA_TOKEN=hunter2", "OUVIRA_TRUSTED_PROXIES=10.0.0.0/8"})
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := config.Print(&out, got); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("a secret is shown: %s", out.String())
		}
		for _, line := range []string{"OUVIRA_ENV=local\n", "OUVIRA_TOKEN=********\n", "OUVIRA_TRUSTED_PROXIES=10.0.0.0/8\n", "OUVIRA_CONNECTION_SHARE=0.4\n"} {
			if !strings.Contains(out.String(), line) {
				t.Errorf("%q is not in %s", line, out.String())
			}
		}
	}
}

func TestTableAndNames(t *testing.T) {
	t.Parallel()
	table := config.Table[settings]()
	if !strings.Contains(table, "| `OUVIRA_BASE_DOMAIN` | `localhost` | Tenants answer at") || !strings.Contains(table, "Secret.") {
		t.Errorf("got %s", table)
	}
	for _, name := range config.Names[settings]() {
		if !config.KnownName(name) {
			t.Errorf("%s is not known", name)
		}
	}
}

func TestFailingValidateIsReturned(t *testing.T) {
	t.Parallel()
	_, err := config.LoadFrom[always]([]string{})
	if !errors.Is(err, errAlways) {
		t.Errorf("got %v", err)
	}
}

var errAlways = errors.New("always")

type always struct{}

func (*always) Validate() error { return errAlways }
