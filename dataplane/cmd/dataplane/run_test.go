package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/seal"
)

// try runs a command that ends by itself.
func try(t *testing.T, environ []string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := run(t.Context(), args, environ, &out)
	return out.String(), err
}

func TestEverySettingIsKnown(t *testing.T) {
	t.Parallel()
	for _, name := range append(config.Names[settings](), config.Names[probe]()...) {
		if !config.KnownName(name) {
			t.Errorf("%s is not in shared/config's list", name)
		}
	}
	table, err := try(t, nil, "config-table")
	if err != nil || strings.Contains(table, "| |  |") || !strings.Contains(table, "OUVIRA_DATA_KEY_FILE") {
		t.Errorf("config-table: %v\n%s", err, table)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	if out, err := try(t, nil, "version"); err != nil || !strings.HasPrefix(out, "dataplane ") {
		t.Errorf("version: %q, %v", out, err)
	}
	if out, err := try(t, nil, "help"); err != nil || !strings.Contains(out, "keys generate") {
		t.Errorf("help: %q, %v", out, err)
	}
	if out, err := try(t, nil, "openapi"); err != nil || !strings.Contains(out, "/auth/login:") {
		t.Errorf("openapi: %.80q, %v", out, err)
	}
	for _, args := range [][]string{{}, {"no-such-command"}, {"serve", "extra"}, {"keys"}, {"keys", "generate"}, {"keys", "generate", "--data-key-file", "x"}, {"keys", "generate", "--nonsense"}} {
		if _, err := try(t, nil, args...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if _, err := try(t, []string{"OUVIRA_INTERNAL_LISTEN=127.0.0.1:1"}, "healthcheck"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("healthcheck without a node: %v", err)
	}
}

func TestKeysGenerate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, public := filepath.Join(dir, "data.key"), filepath.Join(dir, "data.pub")
	generate := []string{"keys", "generate", "--data-key-file", secret, "--public-key-file", public}
	if _, err := try(t, nil, generate...); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadDataKey(secret); err != nil {
		t.Error(err)
	}
	if _, err := seal.LoadPublicKey(public); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", info.Mode(), err)
	}
	before, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := try(t, nil, generate...); err == nil {
		t.Error("an existing key was overwritten")
	}
	if _, err := try(t, nil, append(generate, "--if-missing")...); err != nil {
		t.Errorf("--if-missing: %v", err)
	}
	if after, err := os.ReadFile(secret); err != nil || string(after) != string(before) {
		t.Errorf("the key has changed (%v)", err)
	}
}

func TestSettingsThatCannotBeRight(t *testing.T) {
	t.Parallel()
	good := []string{"OUVIRA_NODE_DATABASE_URL=postgres://n:hunter2@db/o?sslmode=verify-full", "OUVIRA_DATA_KEY_FILE=/k"}
	if out, err := try(t, good, "--print-config"); err != nil || strings.Contains(out, "hunter2") || !strings.Contains(out, "OUVIRA_LISTEN=:8000\n") || !strings.Contains(out, "-8000\n") {
		t.Errorf("--print-config: %v\n%s", err, out)
	}
	for entry, want := range map[string]string{
		"OUVIRA_NODE_DATABASE_URL=":                    "OUVIRA_NODE_DATABASE_URL is not set",
		"OUVIRA_DATA_KEY_FILE=":                        "OUVIRA_DATA_KEY_FILE is not set",
		"OUVIRA_BASE_DOMAIN=a b":                       "OUVIRA_BASE_DOMAIN: must be a host name",
		"OUVIRA_PUBLIC_SCHEME=ftp":                     "must be http or https",
		"OUVIRA_PUBLIC_PORT=99999":                     "must be a port",
		"OUVIRA_CONNECTION_SHARE=1.5":                  "must be more than 0 and at most 1",
		"OUVIRA_LINGER=2m":                             "OUVIRA_LINGER: must be between",
		"OUVIRA_TRUSTED_PROXIES=10.0.0.0/8,x":          "OUVIRA_TRUSTED_PROXIES: entry 2",
		"OUVIRA_LOG_LEVEL=loud":                        "must be debug, info, warn or error",
		"OUVIRA_ENV=production":                        "production wants https",
		"OUVIRA_AUTH_COOKIES=perhaps":                  "OUVIRA_AUTH_COOKIES",
		"CORS_ALLOWED_ORIGINS=https://a.example, null": "CORS_ALLOWED_ORIGINS: entry 2",
		"CORS_ALLOWED_ORIGINS=*":                       "CORS_ALLOWED_ORIGINS: entry 1",
		"OUVIRA_TURNSTILE_URL=nowhere":                 "OUVIRA_TURNSTILE_URL: must be an address",
		"OUVIRA_NOD_ID=x":                              "Did you mean OUVIRA_NODE_ID?",
	} {
		if _, err := try(t, append(append([]string{}, good...), entry), "serve"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
	}
	plain := []string{"OUVIRA_ENV=production", "OUVIRA_PUBLIC_SCHEME=https", "CORS_ALLOWED_ORIGINS=http://a.example"}
	if _, err := try(t, append(append([]string{}, good...), plain...), "serve"); err == nil || !strings.Contains(err.Error(), "CORS_ALLOWED_ORIGINS: production wants https") {
		t.Errorf("a plain origin in production: %v", err)
	}
	bypass := []string{"OUVIRA_ENV=production", "OUVIRA_PUBLIC_SCHEME=https", "TURNSTILE_SECRET_KEY=1x0000000000000000000000000000000AA"}
	if _, err := try(t, append(append([]string{}, good...), bypass...), "serve"); err == nil || !strings.Contains(err.Error(), "TURNSTILE_SECRET_KEY: this is Cloudflare's key for tests") {
		t.Errorf("a key for tests in production: %v", err)
	}
	weak := []string{"OUVIRA_ENV=production", "OUVIRA_PUBLIC_SCHEME=https", "OUVIRA_DATA_KEY_FILE=/k", "OUVIRA_NODE_DATABASE_URL=postgres://n:hunter2@db/o?sslmode=require"}
	if _, err := try(t, weak, "serve"); err == nil || !strings.Contains(err.Error(), "production wants sslmode=verify-full") {
		t.Errorf("weak TLS in production: %v", err)
	}
	if _, err := try(t, good, "serve"); err == nil || !strings.Contains(err.Error(), "OUVIRA_DATA_KEY_FILE") {
		t.Errorf("a key file that is not there: %v", err)
	}
}
