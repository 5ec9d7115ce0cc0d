package replay

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// The headers. A replay is marked by HeaderReplayed; secrets are shown once, and the
// replay has them empty and named in HeaderOmitted.
const (
	HeaderKey      = "Idempotency-Key"
	HeaderReplayed = "Idempotency-Replayed"
	HeaderOmitted  = "Idempotency-Omitted"
)

// Document describes the header where it has an effect.
func Document(o *huma.Operation) {
	if o.Method != http.MethodPost {
		return
	}
	o.Parameters = append(o.Parameters, &huma.Param{
		Name: HeaderKey, In: "header",
		Description: "A fresh UUID makes it safe to send the request again: within 24 hours the same request is answered as it was, " +
			"with " + HeaderReplayed + ": true, and not done twice; secrets are shown the first time only. Another request under the same key is refused (422).",
		Schema: &huma.Schema{Type: huma.TypeString, MinLength: new(1), MaxLength: new(255)},
	})
}
