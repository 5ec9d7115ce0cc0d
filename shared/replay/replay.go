// Package replay is what both planes share of requests that can be sent again
// without being done again: a client's key (Idempotency-Key), what is compared of
// the request, and the answer as it is remembered. Where keys are stored, and whose
// they are, is each plane's own.
package replay

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
)

// Lifetime of an answer.
const Lifetime = 24 * time.Hour

// maxKey bounds a key, in bytes.
const maxKey = 255

// Key is a client's key with the request that it came with, as both are stored:
// nobody can ask for the one again who has not sent it, and the other may hold a
// password, so it is an HMAC under the key, which is stored nowhere.
type Key struct {
	Hash, Request []byte
}

// NewKey refuses what is no key. scope parts keys of one text from each other, by
// whose they are; request is everything that makes another request of it.
func NewKey(scope, text string, request []byte) (Key, error) {
	if !wellFormed(text) {
		return Key{}, fault.Malformed("Idempotency-Key must be 1 to 255 printable ASCII characters, and be there once. Use a fresh UUID for each request.").
			Code("bad_idempotency_key")
	}
	hash := sha256.Sum256([]byte(scope + "\x00" + text))
	mac := hmac.New(sha256.New, []byte(scope+"\x00"+text))
	mac.Write(request)
	return Key{hash[:], mac.Sum(nil)}, nil
}

func wellFormed(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return text != "" && len(text) <= maxKey
}

// Row is what is stored under a key.
type Row struct {
	Request  []byte
	Answer   json.RawMessage
	Answered bool
}

// Known gives the answer of a key that was used before. Another request under the
// same key is a fault, and so is one whose end is not known.
func (k Key) Known(row Row) (json.RawMessage, error) {
	switch {
	case !hmac.Equal(row.Request, k.Request):
		return nil, fault.Invalid("This Idempotency-Key was used for another request. Use a fresh key for each request.").Code("idempotency_mismatch")
	case !row.Answered:
		return nil, Unfinished()
	}
	return row.Answer, nil
}

// Unfinished is said of a request whose end is not known.
func Unfinished() error {
	return fault.Conflict("A request with this Idempotency-Key is under way, or broke off. Look whether it has been done before you send it again with a fresh key.").
		Code("idempotency_unfinished").RetryAfter(time.Second)
}
