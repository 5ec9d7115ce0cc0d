// Package page is how lists of the control plane are cut: by a cursor that
// says after which row to go on (keyset), so that a page costs the same
// wherever it is and rows that come and go do not shift it.
package page

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/fault"
)

// Limits of a page.
const (
	DefaultLimit = 20
	MaxLimit     = 100
)

// Cursor is the last row of a page: its value of the sorted column, and its id
// to tell equal ones apart. Clients treat it as opaque.
type Cursor struct {
	Sort  string `json:"s"`
	Value string `json:"v"`
	ID    string `json:"i"`
}

// String is the wire form.
func (c Cursor) String() string {
	raw, _ := json.Marshal(c) // three strings
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Parse reads the wire form; "" is the beginning (nil). A cursor of a list
// that was sorted in another way is refused.
func Parse(s, sort string) (*Cursor, error) {
	if s == "" {
		return nil, nil
	}
	refused := fault.Invalid("The cursor is not one of this list. Begin again without it.").
		OnField("cursor", "cursor", "This is not a cursor of this list.")
	if len(s) > 1024 {
		return nil, refused
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, refused
	}
	var c Cursor
	if json.Unmarshal(raw, &c) != nil || c.Sort != sort || uuid.Validate(c.ID) != nil || strings.ContainsRune(c.Value, 0) {
		return nil, refused
	}
	return &c, nil
}
