package totp

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
)

// Backup codes stand in for a second factor that is lost: ten of 80 random
// bits, each good once. Only digests are kept, under a key that is derived from
// the factor's sealed secret: a dump alone does not even allow to guess.
const (
	backupCodes     = 10
	backupCodeBytes = 10
	backupGroup     = 4 // letters between two dashes
)

// NewBackupCodes makes a set: what the user gets to see, once, and what is kept.
func NewBackupCodes(secret []byte) (codes []string, digests [][]byte, err error) {
	for range backupCodes {
		raw := make([]byte, backupCodeBytes)
		_, _ = rand.Read(raw) // never fails
		text := base32Upper.EncodeToString(raw)
		var groups []string
		for ; len(text) > 0; text = text[backupGroup:] {
			groups = append(groups, text[:backupGroup])
		}
		code := strings.Join(groups, "-")
		kept, err := BackupDigest(secret, code)
		if err != nil {
			return nil, nil, err
		}
		codes, digests = append(codes, code), append(digests, kept)
	}
	return codes, digests, nil
}

// BackupDigest is what is kept of the backup code that was typed.
func BackupDigest(secret []byte, typed string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "ouvira backup codes", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of the backup codes: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.ToUpper(plain(typed))))
	return mac.Sum(nil), nil
}
