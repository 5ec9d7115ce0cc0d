// Package totp knows authenticator apps, and the codes that stand in for a lost
// one. It keeps no state: which codes have been used is the caller's to know.
package totp

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"
)

// What every app understands (RFC 6238 with SHA-1, six digits, 30 seconds).
const (
	period    = 30 * time.Second
	secretLen = 20 // bytes, as RFC 4226 recommends
)

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewSecret makes a secret.
func NewSecret() []byte {
	secret := make([]byte, secretLen)
	_, _ = rand.Read(secret) // never fails
	return secret
}

// Text is a secret as people type it into an app.
func Text(secret []byte) string { return base32Upper.EncodeToString(secret) }

// URL is what an app reads from a QR code.
func URL(secret []byte, issuer, account string) (string, error) {
	key, err := totp.Generate(totp.GenerateOpts{
		Issuer: issuer, AccountName: account, Secret: secret,
		Period: uint(period.Seconds()), Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1,
	})
	if err != nil {
		return "", fmt.Errorf("make the address of an authenticator's secret: %w", err)
	}
	return key.URL(), nil
}

// Step finds the time step whose code was typed: the present one, or one beside
// it, for clocks that differ and people who type slowly. A code counts once when
// the caller moves the last step that it has accepted by compare-and-set.
func Step(secret []byte, typed string, now time.Time) (step int64, ok bool, err error) {
	typed = plain(typed)
	current := now.Unix() / int64(period.Seconds())
	for _, candidate := range []int64{current, current - 1, current + 1} {
		code, err := hotp.GenerateCodeCustom(Text(secret), uint64(candidate), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err != nil {
			return 0, false, fmt.Errorf("compute the code of an authenticator: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(code), []byte(typed)) == 1 {
			return candidate, true, nil
		}
	}
	return 0, false, nil
}

// plain is what was typed without the spaces and dashes that make it readable.
func plain(typed string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' {
			return -1
		}
		return r
	}, typed)
}
