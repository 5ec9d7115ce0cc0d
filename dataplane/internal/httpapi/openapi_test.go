package httpapi_test

import (
	"bytes"
	"os"
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
