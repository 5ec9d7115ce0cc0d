package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

// oneValue is a database that answers every query with one value.
type oneValue struct {
	value []byte
	asked int
}

func (o *oneValue) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, errors.New("not expected")
}

func (o *oneValue) Query(context.Context, string, ...any) (pgx.Rows, error) {
	return nil, errors.New("not expected")
}

func (o *oneValue) QueryRow(context.Context, string, ...any) pgx.Row {
	o.asked++
	return o
}

func (o *oneValue) Scan(into ...any) error {
	target, ok := into[0].(*[]byte)
	if !ok {
		return errors.New("not expected")
	}
	*target = o.value
	return nil
}

func keyPair(t *testing.T) (*seal.DataKey, *seal.PublicKey) {
	t.Helper()
	secret, public := filepath.Join(t.TempDir(), "data.key"), filepath.Join(t.TempDir(), "data.pub")
	if err := seal.GenerateDataKey(secret, public); err != nil {
		t.Fatal(err)
	}
	opener, err := seal.LoadDataKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.LoadPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return opener, sealer
}

func TestSec37SigningKeysOpenForTheirTenantAlone(t *testing.T) {
	t.Parallel()
	opener, sealer := keyPair(t)
	acme, key := newTenant(t, "acme")
	globex, _ := newTenant(t, "globex")
	globex.Keys = acme.Keys // a ciphertext that was copied with its kid
	der, err := x509.MarshalPKCS8PrivateKey(key.private)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal(der, route.SigningKeyContext(acme.TenantID, key.kid))
	if err != nil {
		t.Fatal(err)
	}
	keys, db := newSigningKeys(opener), &oneValue{value: sealed}
	for range 3 {
		got, err := keys.current(t.Context(), acme, new(dbsqlc.Queries), db)
		if err != nil || got.kid != key.kid || !got.private.Equal(key.private) {
			t.Fatalf("got %v, %v", got.kid, err)
		}
	}
	if db.asked != 1 {
		t.Errorf("the database was asked %d times", db.asked)
	}
	if _, err := keys.current(t.Context(), globex, new(dbsqlc.Queries), db); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("A's key opens at B: %v", err)
	}
	if _, err := keys.current(t.Context(), &route.Route{}, new(dbsqlc.Queries), db); err == nil {
		t.Error("a route without keys signs")
	}
}

func TestParsePrivateRefusesOtherKeys(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"P-384": p384, "RSA": rsaKey} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsePrivate(der); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := parsePrivate([]byte("nonsense")); err == nil {
		t.Error("nonsense is accepted")
	}
}
