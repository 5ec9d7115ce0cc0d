package pg

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"

	"github.com/ouvira/ouvira/shared/internal/stretch"
)

// verifierShape is what Postgres takes for a verifier. Anything else it takes
// for a plain password and hashes again.
var verifierShape = regexp.MustCompile(`^SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]+=*:[A-Za-z0-9+/]+=*$`)

// NewPassword makes a password of 256 random bits, in ASCII, which SASLprep
// leaves alone.
func NewPassword() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return base64.RawURLEncoding.EncodeToString(b)
}

// SCRAMVerifier computes what Postgres stores for an ASCII password (RFC 5802,
// RFC 7677), so that the password itself is in no statement and in no log.
func SCRAMVerifier(password string) (string, error) {
	return SCRAMVerifierOf(password, stretch.Current().SCRAMIterations)
}

// SCRAMVerifierOf is SCRAMVerifier with iterations of the caller's choice.
func SCRAMVerifierOf(password string, iterations int) (string, error) {
	for i := range len(password) {
		if password[i] < 0x21 || password[i] > 0x7e {
			return "", errors.New("a SCRAM password must be printable ASCII")
		}
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive the SCRAM key: %w", err)
	}
	stored := sha256.Sum256(hmacSHA256(salted, "Client Key"))
	server := hmacSHA256(salted, "Server Key")
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(server)), nil
}

// IsSCRAMVerifier tells whether Postgres will take s for a verifier.
func IsSCRAMVerifier(s string) bool { return verifierShape.MatchString(s) }

func hmacSHA256(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
