// Package tenanttest gives a test two tenants on one real Postgres, made as the
// control plane makes them: a database of its own for each, cloned from a
// migrated template, a login role that may connect to it alone, the marker,
// an owner and a company, a sealed signing key, and the route that leads there.
//
// Two tenants, because a test with one cannot see a leak.
//
// It is for tests only: it imports migrations, which the data plane must not.
package tenanttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// OwnerPassword is the password of every owner.
const OwnerPassword = "quiet-harbour-71-lanterns"

// Fixture is two tenants and what a node needs to serve them.
type Fixture struct {
	A, B Tenant

	Key         *seal.DataKey // opens credentials and signing keys
	KeyFile     string        // where it lies
	Public      *seal.PublicKey
	Server      *route.Server
	Table       *Table // both routes; stands in for the directory
	SuperuserDB string // URL of the superuser, database postgres
}

// Tenant is one of them.
type Tenant struct {
	ID          uuid.UUID
	Route       *route.Route
	OwnerID     int64
	OwnerEmail  string
	CompanyID   int64
	CompanyName string
	Kid         string
	SigningKey  *ecdsa.PrivateKey
	Password    string // of the login role
	AdminURL    string // superuser, in the tenant's database

	slug string
}

// New makes the fixture; it goes with the test.
func New(t testing.TB) *Fixture {
	t.Helper()
	f := newFixture(t, inDatabase(t, testdb.ServerURL(t), "postgres"))
	f.A = f.Tenant(t, "acme")
	f.B = f.Tenant(t, "globex")
	return f
}

// newFixture has keys and a server, and no tenants yet.
func newFixture(t testing.TB, superuserDB string) *Fixture {
	t.Helper()
	f := &Fixture{Table: NewTable("localhost"), SuperuserDB: superuserDB, Server: serverOf(t, superuserDB)}
	dir := t.TempDir()
	f.KeyFile = filepath.Join(dir, "data.key")
	public := filepath.Join(dir, "data.pub")
	must(t, seal.GenerateDataKey(f.KeyFile, public))
	var err error
	f.Key, err = seal.LoadDataKey(f.KeyFile)
	must(t, err)
	f.Public, err = seal.LoadPublicKey(public)
	must(t, err)
	return f
}

// serverOf describes the test server as a route does.
func serverOf(t testing.TB, address string) *route.Server {
	t.Helper()
	config, err := pgx.ParseConfig(address)
	must(t, err)
	return &route.Server{
		ID: uuid.New(), Version: 1, Name: "test", Host: config.Host, Port: config.Port,
		TLSMode: "disable", MaxConnections: 20, Status: "active",
	}
}

// Tenant makes one more tenant.
func (f *Fixture) Tenant(t testing.TB, slug string) Tenant {
	t.Helper()
	tenant := newTenant(t, slug)
	database := f.Database(t, tenant.ID, 1, tenant.Password, 10)
	f.routeTo(t, &tenant, database)
	arguments := f.seedArguments(t, &tenant)
	inside := testdb.Connect(t, WithRole(tenant.AdminURL, migrations.OwnerRole))
	must(t, seed(t.Context(), inside, &tenant, arguments))
	must(t, inside.Close(t.Context()))
	f.Table.Set(tenant.Route)
	return tenant
}

func newTenant(t testing.TB, slug string) Tenant {
	t.Helper()
	return Tenant{
		ID: newID(t), OwnerEmail: "owner@" + slug + ".example", CompanyName: slug + " Ltd",
		Kid: token(8), Password: pg.NewPassword(), slug: slug,
	}
}

// routeTo makes the route that leads to the tenant's database.
func (f *Fixture) routeTo(t testing.TB, tenant *Tenant, database string) {
	t.Helper()
	tenant.AdminURL = inDatabase(t, f.SuperuserDB, database)
	tenant.Route = &route.Route{
		TenantID: tenant.ID, Version: 1, Slug: tenant.slug, Status: route.StatusActive, Mode: route.ModeServe,
		TokenEpoch: 1, SchemaVersion: latest(t), Incarnation: 1, Server: f.Server, Database: database,
		Credential: f.Seal(t, tenant.ID, 1, tenant.Password), MaxConnections: 10, StatementTimeout: 30 * time.Second,
		Settings: route.Settings{Limits: map[string]int{}},
	}
	for _, l := range route.Limits() { // tests sign in more often than people do
		tenant.Route.Settings.Limits[l.Name] = route.MaxLimit
	}
}

// Database makes a tenant's database and its login role of the same name,
// with the marker, and returns the name.
func (f *Fixture) Database(t testing.TB, tenant uuid.UUID, incarnation int, pw string, limit int) string {
	t.Helper()
	clone := testdb.New(t, template(t))
	cloned := strings.TrimPrefix(mustParse(t, clone).Path, "/")
	name := "ov_" + token(12)
	verifier, err := pg.SCRAMVerifier(pw)
	must(t, err)
	admin := testdb.Connect(t, f.SuperuserDB)
	grant := grantApp(t, admin)
	t.Cleanup(func() { forget(t, f.SuperuserDB, name) })
	execAll(
		t, admin,
		"ALTER DATABASE "+cloned+" ALLOW_CONNECTIONS false",
		"ALTER DATABASE "+cloned+" RENAME TO "+name,
		"ALTER DATABASE "+name+" OWNER TO "+migrations.OwnerRole,
		"REVOKE ALL ON DATABASE "+name+" FROM PUBLIC",
		"ALTER DATABASE "+name+" SET client_connection_check_interval = '1s'",
		"CREATE ROLE "+name+" LOGIN CONNECTION LIMIT "+strconv.Itoa(limit)+" PASSWORD '"+verifier+"'",
		fmt.Sprintf(grant, name),
		"ALTER DATABASE "+name+" ALLOW_CONNECTIONS true",
	)
	inside := testdb.Connect(t, WithRole(inDatabase(t, f.SuperuserDB, name), migrations.OwnerRole))
	must(t, mark(t.Context(), inside, tenant, incarnation))
	must(t, inside.Close(t.Context()))
	execAll(t, admin, "GRANT CONNECT ON DATABASE "+name+" TO "+name)
	must(t, admin.Close(t.Context()))
	return name
}

// Seal seals a role's password as the control plane does.
func (f *Fixture) Seal(t testing.TB, tenant uuid.UUID, incarnation int, pw string) []byte {
	t.Helper()
	sealed, err := f.Public.Seal([]byte(pw), route.CredentialContext(tenant, incarnation))
	must(t, err)
	return sealed
}

// grantApp is the statement that makes a role (%s) one of the application.
func grantApp(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	grant := "GRANT " + migrations.AppRole + " TO %s"
	if modern(t, conn) {
		grant += " WITH INHERIT TRUE, SET FALSE"
	}
	return grant
}

// mark says in the database whose it is.
func mark(ctx context.Context, inside *pgx.Conn, tenant uuid.UUID, incarnation int) error {
	_, err := inside.Exec(ctx, "INSERT INTO ouvira.marker (tenant_id, incarnation) VALUES ($1, $2)", tenant, incarnation)
	if err != nil {
		return fmt.Errorf("mark the database: %w", err)
	}
	return nil
}

// seedArguments makes the tenant's signing key, and what seed needs. The
// private key is PKCS #8, sealed to the data plane's public key.
func (f *Fixture) seedArguments(t testing.TB, tenant *Tenant) []any {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tenant.SigningKey = key
	jwk, err := publicJWK(tenant.Kid, &key.PublicKey)
	must(t, err)
	tenant.Route.Keys = []route.JWK{jwk}
	public, err := json.Marshal(jwk)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	sealed, err := f.Public.Seal(private, route.SigningKeyContext(tenant.ID, tenant.Kid))
	must(t, err)
	return []any{uuid.New(), "Owner of " + tenant.slug, tenant.OwnerEmail, ownerHash(t), tenant.CompanyName, tenant.Kid, public, sealed}
}

// seed calls the function that is the contract with the tenant's schema.
func seed(ctx context.Context, inside *pgx.Conn, tenant *Tenant, arguments []any) error {
	var answer []byte
	err := inside.QueryRow(ctx, "SELECT ouvira.seed_tenant($1, $2, $3, true, $4, NULL, NULL, $5, $6, $7, $8)", arguments...).Scan(&answer)
	if err != nil {
		return fmt.Errorf("seed the tenant: %w", err)
	}
	var ids struct {
		UserID    int64 `json:"user_id"`
		CompanyID int64 `json:"company_id"`
	}
	if err := json.Unmarshal(answer, &ids); err != nil {
		return fmt.Errorf("read what the seed says: %w", err)
	}
	tenant.OwnerID, tenant.CompanyID = ids.UserID, ids.CompanyID
	return nil
}

func publicJWK(kid string, key *ecdsa.PublicKey) (route.JWK, error) {
	point, err := key.Bytes() // 0x04, X, Y
	if err != nil {
		return route.JWK{}, fmt.Errorf("encode the public key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return route.JWK{
		Kid: kid, Kty: "EC", Crv: "P-256", Alg: "ES256", Use: "sig",
		X: b64(point[1:33]), Y: b64(point[33:]),
	}, nil
}

// ownerHash is computed once: hashing is slow on purpose.
var ownerHashOnce = sync.OnceValues(func() (string, error) {
	return password.Hash(context.Background(), OwnerPassword)
})

func ownerHash(t testing.TB) string {
	t.Helper()
	hash, err := ownerHashOnce()
	must(t, err)
	return hash
}

// WithRole makes the sessions of a superuser's URL start as the role.
func WithRole(address, role string) string {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + "role=" + url.QueryEscape(role)
}

func inDatabase(t testing.TB, address, name string) string {
	t.Helper()
	u := mustParse(t, address)
	u.Path = "/" + name
	return u.String()
}

func mustParse(t testing.TB, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	return u
}

func newID(t testing.TB) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	must(t, err)
	return id
}

func token(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
