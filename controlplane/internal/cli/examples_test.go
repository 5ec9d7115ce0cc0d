package cli_test

import (
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// subcommands are the names below "Available Commands:" of a help.
func subcommands(help string) (names []string) {
	_, list, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.SplitSeq(list, "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "help" && fields[0] != "completion" {
			names = append(names, fields[0])
		}
	}
	return names
}

var quoted = regexp.MustCompile(`"[^"]*"|\S+`)

// The help of each command that takes an argument or needs a flag has an example, and the
// example is a command line that is understood.
func TestHelpHasExamplesThatWork(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, http.StatusTeapot) })
	var visit func(path []string) (commands int)
	visit = func(path []string) (commands int) {
		_, help, _ := p.run(t, "", append(path, "--help")...)
		below := subcommands(help)
		for _, name := range below {
			commands += visit(append(slices.Clip(path), name))
		}
		if len(below) > 0 || len(path) == 0 {
			return commands
		}
		_, example, found := strings.Cut(help, "Examples:\n  ouvira ")
		usage := help[strings.Index(help, "Usage:\n  ")+len("Usage:\n  "):]
		usage, _, _ = strings.Cut(usage, "\n")
		if !found {
			if len(strings.Fields(strings.TrimSuffix(usage, " [flags]"))) > len(path)+1 {
				t.Errorf("no example of %s", usage)
			}
			return 1
		}
		example, _, _ = strings.Cut(example, "\n")
		var words []string
		for _, word := range quoted.FindAllString(example, -1) {
			words = append(words, strings.Trim(word, `"`))
		}
		if strings.Join(words[:len(path)], " ") != strings.Join(path, " ") {
			t.Errorf("the example of %v is of another command: %s", path, example)
		}
		for i, word := range words {
			if word == "acme.tar" && i > 0 && words[i-1] == "-f" {
				words[i] = filepath.Join(t.TempDir(), word)
			}
		}
		code, _, errOut := p.run(t, "a secret\n", words...)
		switch {
		case strings.Contains(errOut, "What is wrong."): // it was understood, and asked
		case strings.Contains(errOut, "--password-stdin"), strings.Contains(errOut, "OUVIRA_CONTROL_DATABASE_URL"), strings.Contains(errOut, "no such file"): // what no example can bring
		default:
			t.Errorf("ouvira %s: exit %d: %s", example, code, errOut)
		}
		if code == cli.ExitOK {
			t.Errorf("ouvira %s: done, though everything is refused", example)
		}
		return 1
	}
	if n := visit(nil); n < 60 {
		t.Errorf("only %d commands were found", n)
	}
}
