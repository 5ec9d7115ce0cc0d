// Package password hashes and checks passwords.
//
// It promises: new hashes are argon2id in PHC form; no more hashes are computed
// at a time than there are cores, whoever asks, so that a storm of logins costs
// bounded memory (19 MiB for each core) and waits for itself; a stored hash
// whose parameters would cost more than the caps is refused before any work.
//
// Hashes of Django (pbkdf2_sha256$…) verify too, and are reported as due for a
// rehash.
package password

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/internal/stretch"
)

// The shape of a new hash; package stretch has its cost.
const (
	lanes     = 1
	saltBytes = 16
	keyBytes  = 32
)

// Caps for stored hashes: what a hash may ask of us, however it got there.
const (
	maxMemoryKiB  = 256 * 1024
	maxPasses     = 16
	maxLanes      = 16
	maxIterations = 2_000_000 // Django 6.0 uses 1.2 million
	maxHashBytes  = 512
)

// slots bounds how many hashes are computed at once in this process.
var slots = make(chan struct{}, runtime.GOMAXPROCS(0))

// computed counts the hashes of this process, see [Computed].
var computed atomic.Uint64

// Computed is how many hashes this process has computed, to make or to check a
// password: what logins cost.
func Computed() uint64 { return computed.Load() }

// errHash says that a stored hash is not one of ours.
var errHash = errors.New("the stored password hash is not in a known form")

// Dummy is a hash that no password matches and that costs what a real one
// costs: verify against it when there is no account, so that the answer takes
// as long as with one.
func Dummy() string { return encode(newest(), make([]byte, saltBytes), make([]byte, keyBytes)) }

// Hash gives the argon2id hash of a password in PHC form. It waits for its
// turn, as long as ctx allows.
func Hash(ctx context.Context, pw string) (string, error) {
	if len(pw) > MaxBytes {
		return "", tooLong()
	}
	release, err := acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails
	p := newest()
	return encode(p, salt, p.key(pw, salt, keyBytes)), nil
}

// Verify tells whether the password matches the stored hash, and whether the
// hash should be replaced by a new one (older parameters, or Django's). It
// waits for its turn, as long as ctx allows. The error is about the hash or
// the wait, never about the password.
func Verify(ctx context.Context, hash, pw string) (ok, rehash bool, err error) {
	if len(pw) > MaxBytes {
		return false, false, nil
	}
	check, rehash, err := parse(hash)
	if err != nil {
		return false, false, err
	}
	release, err := acquire(ctx)
	if err != nil {
		return false, false, err
	}
	defer release()
	ok, err = check(pw)
	return ok, ok && rehash, err
}

func acquire(ctx context.Context) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		computed.Add(1)
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fault.Unavailable("Too many sign-ins at once. Try again in a moment.").
			Code("busy").RetryAfter(time.Second).Because(ctx.Err())
	}
}

// parse reads a stored hash, and refuses what would cost too much.
func parse(hash string) (check func(pw string) (bool, error), rehash bool, err error) {
	switch {
	case len(hash) > maxHashBytes:
		return nil, false, errHash
	case strings.HasPrefix(hash, "$argon2id$"):
		return parseArgon2(hash)
	case strings.HasPrefix(hash, "pbkdf2_sha256$"):
		return parseDjango(hash)
	}
	return nil, false, errHash
}

type params struct {
	memory uint32
	passes uint32
	lanes  uint8
}

// newest are the parameters of a new hash.
func newest() params {
	cost := stretch.Current()
	return params{cost.MemoryKiB, cost.Passes, lanes}
}

func (p params) key(pw string, salt []byte, length uint32) []byte {
	return argon2.IDKey([]byte(pw), salt, p.passes, p.memory, p.lanes, length)
}

func encode(p params, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, p.memory, p.passes, p.lanes, b64.EncodeToString(salt), b64.EncodeToString(key))
}

func parseArgon2(hash string) (func(string) (bool, error), bool, error) {
	parts := strings.Split(hash, "$") // "", argon2id, v=19, m=…,t=…,p=…, salt, key
	if len(parts) != 6 || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, false, errHash
	}
	var p params
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); n != 3 || err != nil {
		return nil, false, errHash
	}
	if p.memory < 8 || p.memory > maxMemoryKiB || p.passes < 1 || p.passes > maxPasses || p.lanes < 1 || p.lanes > maxLanes {
		return nil, false, fmt.Errorf("%w: its cost is out of bounds", errHash)
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	key, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2); err != nil || len(salt) < 8 || len(key) < 16 {
		return nil, false, errHash
	}
	check := func(pw string) (bool, error) {
		return subtle.ConstantTimeCompare(p.key(pw, salt, uint32(len(key))), key) == 1, nil
	}
	return check, p != newest() || len(key) != keyBytes, nil
}

// parseDjango reads pbkdf2_sha256$iterations$salt$key.
func parseDjango(hash string) (func(string) (bool, error), bool, error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 4 {
		return nil, false, errHash
	}
	iterations, err := strconv.Atoi(parts[1])
	if err != nil || iterations < 1 || parts[2] == "" {
		return nil, false, errHash
	}
	if iterations > maxIterations {
		return nil, false, fmt.Errorf("%w: its cost is out of bounds", errHash)
	}
	key, err := base64.StdEncoding.DecodeString(parts[3])
	if err != nil || len(key) != sha256.Size {
		return nil, false, errHash
	}
	check := func(pw string) (bool, error) {
		got, err := pbkdf2.Key(sha256.New, pw, []byte(parts[2]), iterations, len(key))
		if err != nil {
			return false, fmt.Errorf("verify a Django hash: %w", err)
		}
		return subtle.ConstantTimeCompare(got, key) == 1, nil
	}
	return check, true, nil
}
