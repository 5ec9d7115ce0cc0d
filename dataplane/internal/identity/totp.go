package identity

import (
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"
)

// Authenticator apps: what every one of them understands (RFC 6238 with SHA-1,
// six digits, 30 seconds).
const (
	totpPeriod    = 30 * time.Second
	totpSecretLen = 20 // bytes, as RFC 4226 recommends
)

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// totpURL is what an app reads from a QR code.
func totpURL(secret []byte, issuer, account string) (string, error) {
	key, err := totp.Generate(totp.GenerateOpts{
		Issuer: issuer, AccountName: account, Secret: secret,
		Period: uint(totpPeriod.Seconds()), Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1,
	})
	if err != nil {
		return "", fmt.Errorf("make the address of an authenticator's secret: %w", err)
	}
	return key.URL(), nil
}

// totpStep finds the time step whose code was typed: the present one, or one
// beside it, for clocks that differ and people who type slowly. The library
// keeps no state, so which steps have been used is the caller's to know.
func totpStep(secret []byte, typed string, now time.Time) (step int64, ok bool, err error) {
	current := now.Unix() / int64(totpPeriod.Seconds())
	for _, candidate := range []int64{current, current - 1, current + 1} {
		code, err := hotp.GenerateCodeCustom(base32Upper.EncodeToString(secret), uint64(candidate), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err != nil {
			return 0, false, fmt.Errorf("compute the code of an authenticator: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(code), []byte(typed)) == 1 {
			return candidate, true, nil
		}
	}
	return 0, false, nil
}
