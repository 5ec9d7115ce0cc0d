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
	raw, err := key.Derive(codeContext(id, serial))
	if err != nil {
		return "", fmt.Errorf("derive the code: %w", err)
	}
	return codeOf(raw), nil
}

// isRight compares with the code that any key of the file derives: one that was mailed
// before the keys were rotated is as good.
func isRight(key *seal.ControlKey, id uuid.UUID, serial int32, code string) (bool, error) {
	derived, err := key.Derivations(codeContext(id, serial))
	if err != nil {
		return false, fmt.Errorf("derive the code: %w", err)
	}
	right := false
	for _, raw := range derived {
		right = sameCode(code, codeOf(raw)) || right
	}
	return right, nil
}

func codeContext(id uuid.UUID, serial int32) []byte {
	return fmt.Appendf(nil, "signup-code/%s/%d", id, serial)
}

// codeOf takes 64 bits over a million: the bias is far below what five guesses could use.
func codeOf(derived []byte) string {
	return fmt.Sprintf("%06d", binary.BigEndian.Uint64(derived)%1_000_000)
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
