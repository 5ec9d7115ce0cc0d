package httpapi

import (
	"strconv"
	"strings"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
)

// IfMatch is embedded in the inputs of operations that change what has an
// ETag. Without the header there is no condition. It is exported for huma, which
// passes over embedded fields that are not.
type IfMatch struct {
	ETag string `header:"If-Match" doc:"The ETag under which you saw it; when it has changed since, nothing is done (412)."`
}

// ETagged is embedded in the answers that carry an ETag. (It is exported because
// huma passes over embedded structs that are not.)
type ETagged struct {
	ETag string `header:"ETag"` //nolint:tagliatelle // its name in HTTP
}

func etagged(updated time.Time) ETagged { return ETagged{etagOf(updated)} }

// etagOf is the ETag of what was last changed at that time.
func etagOf(updated time.Time) string {
	return `"` + strconv.FormatInt(updated.UnixMicro(), 36) + `"`
}

// check refuses when the condition does not hold. Call it with the row locked.
func (m IfMatch) check(updated time.Time) error {
	if m.ETag == "" {
		return nil
	}
	for candidate := range strings.SplitSeq(m.ETag, ",") {
		if candidate = strings.TrimSpace(candidate); candidate == "*" || candidate == etagOf(updated) {
			return nil
		}
	}
	return fault.Precondition("It has changed since you read it. Read it again, and repeat your change on what is there now.")
}
