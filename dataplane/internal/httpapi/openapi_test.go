package httpapi_test

import (
	"bytes"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
)

func TestTheCommittedDocumentIsTheCodes(t *testing.T) {
	t.Parallel()
	document, err := httpapi.Document()
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile("../../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(document, committed) {
		t.Error("dataplane/openapi.yaml is out of date: go run ./cmd/dataplane openapi > openapi.yaml (make generate does it)")
	}
}

// What is open to anyone is decided here a second time: an operation that is
// opened by mistake fails this test.
var openOperations = []string{
	"login", "refresh-token", "forgot-password", "reset-password", "register", "signing-keys", "enter-support",
	"signup", "verify-otp", "resend-otp", "resend-otp-alias", "finalize-signup", "finalize-signup-alias",
	"login-2fa-verify-code", "login-2fa-verify-backup",
}

func TestEveryOtherOperationWantsAToken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	document := n.ask(t, http.MethodGet, "any.example", "/openapi.json", nil)
	paths, _ := document.at("paths").(map[string]any)
	if len(paths) < 10 {
		t.Fatalf("only %d paths", len(paths))
	}
	for path, item := range paths {
		operations, _ := item.(map[string]any)
		for method, described := range operations {
			operation, _ := described.(map[string]any)
			id, _ := operation["operationId"].(string)
			_, declared := operation["security"]
			if open := slices.Contains(openOperations, id); declared != open {
				t.Errorf("%s: declared open %v, meant open %v", id, declared, open)
			} else if open {
				continue
			}
			a := n.ask(t, strings.ToUpper(method), hostOf(n.A), strings.ReplaceAll(path, "{id}", "1"), nil)
			expect(t, id+" without a token", a, http.StatusUnauthorized, "invalid_token")
		}
	}
	if n.leases(n.A) != 0 {
		t.Error("a request without a token reached the database")
	}
}

// Each operation shows what to send, what comes back and how it refuses.
func TestEveryOperationIsDescribed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	document := n.ask(t, http.MethodGet, "any.example", "/openapi.json", nil)
	paths, _ := document.at("paths").(map[string]any)
	for path, item := range paths {
		operations, _ := item.(map[string]any)
		for method, described := range operations {
			operation, _ := described.(map[string]any)
			what := strings.ToUpper(method) + " " + path
			if summary, _ := operation["summary"].(string); summary == "" {
				t.Errorf("%s has no summary", what)
			}
			if body, ok := operation["requestBody"].(map[string]any); ok && !exampled(body) {
				t.Errorf("%s: its body has no example", what)
			}
			responses, _ := operation["responses"].(map[string]any)
			refusals := 0
			for status, described := range responses {
				response, _ := described.(map[string]any)
				if status >= "400" {
					refusals++
				} else if _, hasBody := response["content"]; hasBody && !exampled(response) {
					t.Errorf("%s: its answer %s has no example", what, status)
				}
			}
			if refusals < 4 {
				t.Errorf("%s names %d refusals", what, refusals)
			}
		}
	}
}

func exampled(described map[string]any) bool {
	content, _ := described["content"].(map[string]any)
	for _, media := range content {
		media, _ := media.(map[string]any)
		if media["example"] == nil && media["examples"] == nil {
			return false
		}
	}
	return len(content) > 0
}
