package walls

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	securityTest  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)Sec\d\w*)\(`)
	securityProof = regexp.MustCompile("`((?:Test|Fuzz)Sec\\d\\w*)` \\(([^)]+)\\)")
)

// Every security test is listed in docs/security.md, and everything listed
// there exists.
func TestTheSecurityDocumentListsItsProofs(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, match := range securityProof.FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, match[2]+" "+match[1])
	}
	var existing []string
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
			for _, match := range securityTest.FindAllStringSubmatch(string(source), -1) {
				existing = append(existing, filepath.ToSlash(folder)+" "+match[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(listed)
	slices.Sort(existing)
	listed = slices.Compact(listed)
	for _, name := range existing {
		if !slices.Contains(listed, name) {
			t.Errorf("docs/security.md does not list %s", name)
		}
	}
	for _, name := range listed {
		if !slices.Contains(existing, name) {
			t.Errorf("docs/security.md lists %s, which does not exist", name)
		}
	}
}
