package signup

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/seal"
)

const codeDigits = 6

// deriveCode computes the code of a sign-up's serial. It is the same each time
// and stored nowhere: neither the database nor the job that mails it holds it.
func deriveCode(key *seal.ControlKey, id uuid.UUID, serial int32) (string, error) {
	raw, err := key.Derive(fmt.Appendf(nil, "signup-code/%s/%d", id, serial))
	if err != nil {
		return "", fmt.Errorf("derive the code: %w", err)
	}
	// 64 bits over a million: the bias is far below what five guesses could use.
	return fmt.Sprintf("%06d", binary.BigEndian.Uint64(raw)%1_000_000), nil
}

func isCode(s string) bool {
	if len(s) != codeDigits {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func sameCode(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
