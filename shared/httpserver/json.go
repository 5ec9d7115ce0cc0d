package httpserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ouvira/ouvira/shared/problem"
)

// MaxBody is the largest request body, in bytes.
const MaxBody = 1 << 20

// maxDepth is how deep a body may nest.
const maxDepth = 32

// StrictJSON is JSON for huma without what encoding/json lets pass: duplicate
// keys, nesting without bound, invalid UTF-8, NUL (which Postgres cannot
// store), and anything after the value.
var StrictJSON = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(data []byte, v any) error {
		if err := checkJSON(data); err != nil {
			return err
		}
		if err := json.Unmarshal(data, v); err != nil {
			return problem.WrongType
		}
		return nil
	},
}

// checkJSON reads all tokens; the decoder refuses duplicate keys and invalid
// UTF-8 by itself.
func checkJSON(data []byte) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	for {
		token, err := dec.ReadToken()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, jsontext.ErrDuplicateName):
			return problem.DuplicateKey
		case err != nil && strings.Contains(err.Error(), "UTF-8"):
			return problem.NotText
		case err != nil:
			return problem.NotJSON
		case dec.StackDepth() > maxDepth:
			return problem.TooDeep
		case token.Kind() == '"' && strings.ContainsRune(token.String(), 0):
			return problem.NotText
		case dec.StackDepth() == 0 && len(bytes.TrimSpace(data[dec.InputOffset():])) > 0:
			return problem.NotJSON
		}
	}
}
