package e2e

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/testdb"
)

// output runs one of the planes' binaries to its end, which must be good.
func output(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	code, stdout, stderr := end(t, env, program, args...)
	if code != 0 {
		t.Fatalf("%s %v ends with %d: %s", program, args, code, stderr)
	}
	return stdout
}

// end runs a binary to its end.
func end(t *testing.T, env []string, program string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err := command.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, out.String(), errs.String()
	case errors.As(err, &exit):
		return exit.ExitCode(), out.String(), errs.String()
	default:
		t.Fatal(err)
		return 0, "", ""
	}
}

// A process that cannot work says why, in a sentence without the password, and
// ends with 1.
func TestAProcessThatCannotWorkSaysSo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	output(t, nil, "controlplane", "keys", "generate", "--control-key-file", dir+"/control.json")
	output(t, nil, "dataplane", "keys", "generate", "--data-key-file", dir+"/data.json", "--public-key-file", dir+"/data.pub.json")
	keys := map[string][]string{
		"controlplane": {"OUVIRA_CONTROL_KEY_FILE=" + dir + "/control.json", "OUVIRA_DATA_PUBLIC_KEY_FILE=" + dir + "/data.pub.json", "OUVIRA_BASE_DOMAIN=localhost"},
		"dataplane":    {"OUVIRA_DATA_KEY_FILE=" + dir + "/data.json", "OUVIRA_BASE_DOMAIN=localhost"},
	}
	server, err := url.Parse(testdb.Server(t, testdb.System).URL())
	must(t, err)
	stranger := "postgres://someone:hunter2hunter2@" + server.Host + "/postgres"
	listen := []string{"OUVIRA_LISTEN=127.0.0.1:0", "OUVIRA_INTERNAL_LISTEN=127.0.0.1:0"}
	for name, c := range map[string]struct {
		program string
		env     []string
		want    string
	}{
		"control plane, wrong credentials": {"controlplane", append(listen, "OUVIRA_CONTROL_DATABASE_URL="+stranger), "check the credentials"},
		"data plane, wrong credentials":    {"dataplane", append(listen, "OUVIRA_NODE_DATABASE_URL="+stranger), "check the credentials"},
		"control plane, a misspelt name":   {"controlplane", []string{"OUVIRA_LISTN=127.0.0.1:0"}, "OUVIRA_LISTEN"},
		"data plane, a misspelt name":      {"dataplane", []string{"OUVIRA_BASE_DOMAN=localhost"}, "OUVIRA_BASE_DOMAIN"},
		"control plane, no settings":       {"controlplane", []string{"OUVIRA_BASE_DOMAIN=", "OUVIRA_CONTROL_KEY_FILE="}, "OUVIRA_CONTROL_DATABASE_URL"},
		"data plane, no settings":          {"dataplane", []string{"OUVIRA_BASE_DOMAIN=", "OUVIRA_DATA_KEY_FILE="}, "OUVIRA_NODE_DATABASE_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := end(t, append(keys[c.program], c.env...), c.program, "serve")
			if code != 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("ends with %d and says %q; want 1 and %q", code, stderr, c.want)
			}
			if strings.Contains(stdout+stderr, "hunter2") {
				t.Errorf("repeats the password: %s%s", stdout, stderr)
			}
		})
	}
}
