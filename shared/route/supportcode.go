package route

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/google/uuid"
)

// A support code is "ous_", the tenant's id and 256 random bits:
// "ous_<26 characters>_<52>", in base32 without padding, lower case. The control
// plane makes it and keeps its hash; a node redeems it, once.
const (
	supportPrefix      = "ous_"
	supportSecretBytes = 32
)

var supportEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewSupportCode makes a code for a tenant, and the hash under which
// control.create_support_code keeps it.
func NewSupportCode(tenant uuid.UUID) (code string, hash []byte) {
	secret := make([]byte, supportSecretBytes)
	_, _ = rand.Read(secret) // never fails
	code = supportPrefix + supportEncoding.EncodeToString(tenant[:]) + "_" + supportEncoding.EncodeToString(secret)
	sum := sha256.Sum256([]byte(code))
	return code, sum[:]
}

// SupportCodeHash is the hash under which a code is redeemed; false when the
// text cannot be a code of the tenant.
func SupportCodeHash(tenant uuid.UUID, code string) ([]byte, bool) {
	prefix := supportPrefix + supportEncoding.EncodeToString(tenant[:]) + "_"
	if len(code) != len(prefix)+supportEncoding.EncodedLen(supportSecretBytes) || !strings.HasPrefix(code, prefix) {
		return nil, false
	}
	sum := sha256.Sum256([]byte(code))
	return sum[:], true
}
