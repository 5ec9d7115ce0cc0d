package walls

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document lists tests as the proofs of what it promises.
type document struct {
	file string
	// must be listed: those whose names begin like this.
	must *regexp.Regexp
}

var documents = []document{
	{"security.md", regexp.MustCompile(`^(?:Test|Fuzz)Sec\d`)},
	{"reliability.md", regexp.MustCompile(`^Test(?:Rel\d|Adversarial\d|Model[A-Z])`)},
}

var (
	anyTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	proof   = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)` \\(([^)]+)\\)")
)

// Every test that proves a numbered promise is listed in its document, and
// everything listed there exists.
func TestTheDocumentsListTheirProofs(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	existing := tests(t, root)
	for _, d := range documents {
		text, err := os.ReadFile(filepath.Join(root, "docs", d.file))
		if err != nil {
			t.Fatal(err)
		}
		listed := map[string]bool{}
		for _, match := range proof.FindAllStringSubmatch(string(text), -1) {
			listed[match[2]+" "+match[1]] = true
		}
		for _, name := range existing {
			_, test, _ := strings.Cut(name, " ")
			if d.must.MatchString(test) && !listed[name] {
				t.Errorf("docs/%s does not list %s", d.file, name)
			}
		}
		for name := range listed {
			if !slices.Contains(existing, name) {
				t.Errorf("docs/%s lists %s, which does not exist", d.file, name)
			}
		}
	}
}

// tests are all tests of the modules, as "folder name".
func tests(t *testing.T, root string) (found []string) {
	t.Helper()
	for _, module := range modules {
		err := filepath.WalkDir(filepath.Join(root, module), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			folder, err := filepath.Rel(root, filepath.Dir(path))
			for _, match := range anyTest.FindAllStringSubmatch(string(source), -1) {
				found = append(found, filepath.ToSlash(folder)+" "+match[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
