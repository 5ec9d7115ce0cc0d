package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { fleettest.Main(m) }

// terminal is where somebody types commands; what is shown there is written down.
type terminal struct {
	t      *testing.T
	home   string
	env    map[string]string
	paper  *bytes.Buffer
	worked map[string]bool // commands that have succeeded
	failed map[string]bool // commands that were refused
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	return &terminal{t: t, home: t.TempDir(), env: map[string]string{}, paper: &bytes.Buffer{}, worked: map[string]bool{}, failed: map[string]bool{}}
}

// run types a command line and gives what it shows on standard output.
func (m *terminal) run(line string) string { return m.typing("", line) }

// typing is run with something on standard input.
func (m *terminal) typing(in, line string) string {
	m.t.Helper()
	var out, errOut bytes.Buffer
	args := words(line)
	code := cli.Run(m.t.Context(), args, cli.Process{
		In: strings.NewReader(in), Out: &out, Err: &errOut,
		Getenv: func(name string) string { return m.env[name] }, ConfigDir: func() (string, error) { return m.home, nil },
	})
	fmt.Fprintf(m.paper, "$ ouvira %s\n%s", line, out.String())
	if errOut.Len() > 0 {
		for text := range strings.Lines(errOut.String()) {
			fmt.Fprintf(m.paper, "stderr: %s", text)
		}
	}
	if code != cli.ExitOK {
		fmt.Fprintf(m.paper, "exit %d\n", code)
	}
	m.paper.WriteByte('\n')
	seen := m.worked
	if code != cli.ExitOK {
		seen = m.failed
	}
	for n := range args { // the command is one of the beginnings
		seen[strings.Join(args[:n+1], " ")] = true
	}
	return out.String()
}

// formats shows the same in each format.
func (m *terminal) formats(line string) {
	m.t.Helper()
	m.run(line)
	for _, format := range []string{"wide", "json", "yaml"} {
		m.run(line + " -o " + format)
	}
}

// words takes a line apart at spaces that are not inside of quotes.
func words(line string) []string {
	var args []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			if n := len(args); n > 0 && strings.HasSuffix(args[n-1], "=") {
				args[n-1] += part
			} else {
				args = append(args, part)
			}
			continue
		}
		args = append(args, strings.Fields(part)...)
	}
	return args
}

// steady replaces what differs from run to run by something of the same width.
var steady = []struct {
	what *regexp.Regexp
	by   func(string) string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), constant("2026-01-02T03:04:05Z")},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\b`), constant("2026-01-02 03:04:05")},
	{regexp.MustCompile(`\b20[234]\d-\d\d-\d\d\b`), constant("2026-01-02")},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), constant("http://localhost:8080")},
	{regexp.MustCompile(`127\.0\.0\.1:\d{5}`), constant("127.0.0.1:54321")},
	{regexp.MustCompile(`(?m)("?port"?): \d+`), keeping(`("?port"?): \d+`, "$1: 54321")},
	{regexp.MustCompile(`("?postgres_version"?): \d+`), keeping(`("?postgres_version"?): \d+`, "$1: 150000")},
	{regexp.MustCompile(`(?m)\b1[5-9]\.\d{1,2}( |$)`), padded("15.0")},
	{regexp.MustCompile(`schema(_version)?"?: +\d+`), keeping(`\d+$`, "99")},
	{regexp.MustCompile(`serve +[1-9]\d? `), keeping(`\d+`, "99")},
	{regexp.MustCompile(`\d  \d\d +\d +[0-9a-f]{64}`), keeping(`  \d\d`, "  99")},
	{regexp.MustCompile(`\bov_[0-9a-f]{20}`), constant("ov_" + strings.Repeat("0", 20))},
	{regexp.MustCompile(`done in [0-9.]+m?s`), constant("done in 1s")},
	{regexp.MustCompile(`\b\d+(\.\d)? KiB`), padded("9.9 KiB")},
	{regexp.MustCompile(`("?size"?): \d{3,}`), keeping(`("?size"?): \d+`, "$1: 9999")},
	{regexp.MustCompile(`(?m)^KIND +KEY +STATE`), constant("KIND     KEY         STATE")},
	{regexp.MustCompile(`(?m)^(control|data) +\d+ +(seals|opens|missing)`), keeping(`( +)\d+ +`, "${1}1234567890  ")},
	{regexp.MustCompile(`(?m)"?\bid"?: \d+(,|$)`), keeping(`("?id"?): \d+`, "$1: 1234567890")},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), constant(strings.Repeat("0", 64))},
	{regexp.MustCompile(`whsec_[A-Za-z0-9+/=]+`), constant("whsec_SECRET")},
	{regexp.MustCompile(`\bous_[a-z0-9_]{12,}`), constant("ous_SECRET")},
}

func constant(text string) func(string) string { return func(string) string { return text } }

func padded(text string) func(string) string {
	return func(was string) string { return text + strings.Repeat(" ", max(0, len(was)-len(text))) }
}

func keeping(pattern, by string) func(string) string {
	expression := regexp.MustCompile(pattern)
	return func(was string) string { return expression.ReplaceAllString(was, by) }
}

var anyUUID = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)

func settle(text string) string {
	numbers := map[string]string{}
	text = anyUUID.ReplaceAllStringFunc(text, func(id string) string {
		if numbers[id] == "" {
			numbers[id] = fmt.Sprintf("01900000-0000-7000-8000-%012d", len(numbers)+1)
		}
		return numbers[id]
	})
	for _, s := range steady {
		text = s.what.ReplaceAllStringFunc(text, s.by)
	}
	return text
}

// golden compares what was shown with the file of that name, and begins anew.
func (m *terminal) golden(name string) {
	m.t.Helper()
	got := settle(m.paper.String())
	m.paper.Reset()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	wantLines, gotLines := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range min(len(wantLines), len(gotLines)) {
		if wantLines[i] != gotLines[i] {
			m.t.Errorf("%s, line %d:\n got %s\nwant %s\n(-update writes the files anew)", path, i+1, gotLines[i], wantLines[i])
			return
		}
	}
	m.t.Errorf("%s has %d lines, there are %d (-update writes the files anew)", path, len(wantLines), len(gotLines))
}

// subcommands are the names that a command's help lists.
func subcommands(help string) []string {
	_, list, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	var names []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			break
		}
		names = append(names, fields[0])
	}
	return names
}

// helps shows the help of a command and of all below it, and gives the commands that
// have none below them.
func (m *terminal) helps(command string) (leaves []string) {
	line := strings.TrimSpace(command + " --help")
	help := m.run(line)
	names := subcommands(help)
	if len(names) == 0 {
		return []string{command}
	}
	for _, name := range names {
		if name == "completion" || name == "help" { // cobra's own
			continue
		}
		leaves = append(leaves, m.helps(strings.TrimSpace(command+" "+name))...)
	}
	return leaves
}

// typed is a command in prose, which may be broken over two lines, or in a script.
var typed = regexp.MustCompile("(?m)(?:`|^|[(|] ?)ouvira\\s+((?:[a-z0-9-]+\\s+)*[a-z0-9-]+)")

// Every command that the documentation tells people to type is one that was seen to
// work here.
func (m *terminal) documented(leaves []string) {
	m.t.Helper()
	page, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, found := range typed.FindAllStringSubmatch(string(page), -1) {
		words := strings.Fields(found[1])
		known := false
		for n := range words {
			known = known || slices.Contains(leaves, strings.Join(words[:n+1], " "))
		}
		if !known {
			m.t.Errorf("docs/operations.md tells of %q, which is no command", "ouvira "+found[1])
		}
	}
}
