package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/testdb"
)

// forgery is a token that is good but for what a case changes.
type forgery struct {
	method jwt.SigningMethod
	header map[string]any
	claims jwt.MapClaims
	key    any
}

func (n *node) forge(t *testing.T, access string, change func(f *forgery)) string {
	t.Helper()
	f := forgery{method: jwt.SigningMethodES256, header: map[string]any{"kid": n.A.Kid, "typ": "JWT"}, key: n.A.SigningKey, claims: jwt.MapClaims{}}
	if _, _, err := jwt.NewParser().ParseUnverified(access, f.claims); err != nil {
		t.Fatal(err)
	}
	change(&f)
	token := jwt.NewWithClaims(f.method, f.claims)
	maps.Copy(token.Header, f.header)
	signed, err := token.SignedString(f.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// refusals asks with each forged token, and checks that none reached the
// database.
func (n *node) refusals(t *testing.T, cases map[string]func(f *forgery)) {
	t.Helper()
	access, _ := n.login(t, n.A)
	expect(t, "the forger's hand is steady", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(n.forge(t, access, func(*forgery) {}))), 200)
	asked := n.leases(n.A)
	for name, change := range cases {
		expect(t, name, n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(n.forge(t, access, change))), 401, "invalid_token")
	}
	if n.leases(n.A) != asked {
		t.Errorf("a forged token reached the database")
	}
}

func TestSec11ForgedSignatures(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := n.A.SigningKey.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n.refusals(t, map[string]func(f *forgery){
		"alg none":                    func(f *forgery) { f.method, f.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType },
		"HS256 with the public key":   func(f *forgery) { f.method, f.key = jwt.SigningMethodHS256, public },
		"HS256 with its X":            func(f *forgery) { f.method, f.key = jwt.SigningMethodHS256, []byte(n.A.Route.Keys[0].X) },
		"ES384":                       func(f *forgery) { f.method, f.key = jwt.SigningMethodES384, p384 },
		"a stranger's key":            func(f *forgery) { f.key = stranger },
		"B's key under A's kid":       func(f *forgery) { f.key = n.B.SigningKey },
		"B's key under B's kid":       func(f *forgery) { f.key = n.B.SigningKey; f.header["kid"] = n.B.Kid },
		"unknown kid":                 func(f *forgery) { f.header["kid"] = "unknown" },
		"empty kid":                   func(f *forgery) { f.header["kid"] = "" },
		"kid that is no string":       func(f *forgery) { f.header["kid"] = 7 },
		"jku with a stranger's key":   func(f *forgery) { f.key = stranger; f.header["jku"] = "https://evil.example/jwks.json" },
		"kid that is an address":      func(f *forgery) { f.key = stranger; f.header["kid"] = "https://evil.example/key" },
		"jwk with the stranger's key": func(f *forgery) { f.key = stranger; f.header["jwk"] = map[string]any{"kty": "EC"} },
	})
	for _, token := range []string{"", "x", "..", "a.b.c", "Bearer", "\x00", strings.Repeat("a", 5000)} {
		expect(t, fmt.Sprintf("%.10q", token), n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(token)), 401)
	}
	expect(t, "no token", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil), 401)
	expect(t, "another scheme", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, header("Authorization", "Basic YTpi")), 401)
}

func TestSec12Claims(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	cases := map[string]func(f *forgery){
		"foreign aud":        func(f *forgery) { f.claims["aud"] = n.B.ID.String() },
		"aud empty":          func(f *forgery) { f.claims["aud"] = "" },
		"aud a list of none": func(f *forgery) { f.claims["aud"] = []string{} },
		"foreign iss":        func(f *forgery) { f.claims["iss"] = "https://globex.localhost" },
		"iss by http":        func(f *forgery) { f.claims["iss"] = "http://acme.localhost" },
		"typ refresh":        func(f *forgery) { f.claims["typ"] = "refresh" },
		"exp in the past":    func(f *forgery) { f.claims["exp"] = time.Now().Add(-time.Minute).Unix() },
		"exp no number":      func(f *forgery) { f.claims["exp"] = "tomorrow" },
		"iat in the future":  func(f *forgery) { f.claims["nbf"] = time.Now().Add(time.Hour).Unix() },
		"older epoch":        func(f *forgery) { f.claims["gen"] = 0 },
		"newer epoch":        func(f *forgery) { f.claims["gen"] = 2 },
		"sub no number":      func(f *forgery) { f.claims["sub"] = "1 OR 1=1" },
		"sid no session":     func(f *forgery) { f.claims["sid"] = "x" },
	}
	for _, claim := range []string{"aud", "iss", "typ", "exp", "gen", "sub", "sid"} {
		cases["without "+claim] = func(f *forgery) { delete(f.claims, claim) }
	}
	n.refusals(t, cases)

	access, _ := n.login(t, n.A)
	foreign := n.forge(t, access, func(f *forgery) { f.claims["sub"] = "2" })
	expect(t, "a session of somebody else", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(foreign)), 401)
	unknown := n.forge(t, access, func(f *forgery) { f.claims["sid"] = uuid.NewString() })
	expect(t, "a session that never was", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(unknown)), 401)
}

func TestSec12AnIssuerOrAudienceThatIsEmptyDoesNotStart(t *testing.T) {
	t.Parallel()
	for _, config := range [][2]string{{"", "example.com"}, {"https", ""}} {
		if _, err := identity.NewAccessTokens(config[0], config[1], ""); err == nil {
			t.Errorf("%v was accepted", config)
		}
	}
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	nameless := *n.A.Route
	nameless.TenantID = uuid.Nil
	access, _ := n.login(t, n.A)
	anyone := n.forge(t, access, func(f *forgery) { f.claims["aud"] = uuid.Nil.String() })
	if _, err := tokens.Verify(&nameless, anyone); err == nil {
		t.Error("a tenant without an id accepts tokens for nobody")
	}
}

func TestSec13RefreshTokenAsAccessToken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, refresh := n.login(t, n.A)
	expect(t, "refresh as access", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(refresh)), 401, "invalid_token")
	expect(t, "access as refresh", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{"refresh": access}), 422)
	expect(t, "nonsense as refresh", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{"refresh": "ovr_x"}), 401)
}

func TestSec14MegabyteOfDots(t *testing.T) {
	n := newNode(t) // not parallel: it measures the allocations of the process
	dots := strings.Repeat(".", 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		expect(t, "dots", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(dots)), 401)
	}
	runtime.ReadMemStats(&after)
	const perRequest = 3 << 20 // the header itself is copied once by the test
	if grown := (after.TotalAlloc - before.TotalAlloc) / 10; grown > perRequest {
		t.Errorf("%d bytes a request", grown)
	}
}

//nolint:paralleltest // it counts the hashes of the whole process
func TestSec19RefusedLoginsLookAlike(t *testing.T) {
	n := newNode(t)
	made := n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{"full_name": "D", "email": "disabled@example.com", "password": goodPassword})
	expect(t, "register", made, 201)
	exec(t, n.A, "UPDATE public.users SET is_active = false WHERE email = 'disabled@example.com'")
	login := func(identifier, password string) answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login", object{"identifier": identifier, "password": password},
			header("X-Request-Id", "the-same-each-time"))
	}
	unknown := login("nobody@example.com", goodPassword)
	expect(t, "unknown", unknown, 401, "invalid_credentials")
	for name, a := range map[string]answer{
		"wrong":                   login(n.A.OwnerEmail, "wrong password"),
		"disabled":                login("disabled@example.com", goodPassword),
		"disabled and wrong":      login("disabled@example.com", "wrong password"),
		"longer than any":         login(n.A.OwnerEmail, strings.Repeat("é", 1000)),
		"identifier of B's owner": login(n.B.OwnerEmail, tenanttest.OwnerPassword),
	} {
		if a.status != unknown.status || a.raw != unknown.raw {
			t.Errorf("%s differs from unknown: %d %s", name, a.status, a.raw)
		}
	}
	// Similar time without a clock: each costs one hash.
	for _, identifier := range []string{"nobody@example.com", "disabled@example.com", n.B.OwnerEmail} {
		before := password.Computed()
		login(identifier, "wrong password")
		if cost := password.Computed() - before; cost != 1 {
			t.Errorf("a refused login of %s costs %d hashes", identifier, cost)
		}
	}
}

func TestLockoutAfterFiveFailures(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	login := func(password string) answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login", object{"identifier": n.A.OwnerEmail, "password": password})
	}
	for range 4 {
		expect(t, "wrong", login("wrong password"), 401)
	}
	expect(t, "right after four failures", login(tenanttest.OwnerPassword), 200)
	for range 5 {
		expect(t, "wrong", login("wrong password"), 401)
	}
	expect(t, "right, but locked", login(tenanttest.OwnerPassword), 401, "invalid_credentials")
	left := value[time.Duration](t, n.A, "SELECT locked_until - now() FROM public.users WHERE id = $1", n.A.OwnerID)
	if left < 29*time.Minute || left > 30*time.Minute {
		t.Errorf("locked for %s", left)
	}
	exec(t, n.A, "UPDATE public.users SET locked_until = now()")
	expect(t, "after the lock", login(tenanttest.OwnerPassword), 200)
	n.login(t, n.B)
	if logged := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'login_failed' AND user_id = $1", n.A.OwnerID); logged != 10 {
		t.Errorf("%d failed logins in the security log, want 10", logged)
	}
}

func TestSec23DjangoHashLogsInAndIsRehashed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	// What Django stores for "correct horse 42", with few iterations.
	const django = "pbkdf2_sha256$1000$seasalt123$14BdDpMLIsrpWWdFCWjORgCc0RMckztXw6oViKvr9V0="
	exec(t, n.A, "UPDATE public.users SET password_hash = $1", django)
	login := object{"identifier": n.A.OwnerEmail, "password": "correct horse 42"}
	expect(t, "login", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login", login), 200)
	hash := value[string](t, n.A, "SELECT password_hash FROM public.users WHERE id = $1", n.A.OwnerID)
	if ok, rehash, err := password.Verify(t.Context(), hash, "correct horse 42"); !ok || rehash || err != nil {
		t.Errorf("the new hash %.12s…: %v %v %v", hash, ok, rehash, err)
	}
	expect(t, "login again", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login", login), 200)
}

// A login that replaces an old hash compares, hashes and writes; what was
// changed in between stays changed.
func TestARehashBringsNoOldPasswordBack(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const django, pw = "pbkdf2_sha256$1000$seasalt123$14BdDpMLIsrpWWdFCWjORgCc0RMckztXw6oViKvr9V0=", "correct horse 42"
	newer := value[string](t, n.A, "SELECT password_hash FROM public.users WHERE id = $1", n.A.OwnerID)
	rehash, err := password.Hash(t.Context(), pw)
	if err != nil {
		t.Fatal(err)
	}
	// overtaken logs in, and is overtaken by who stores another hash.
	overtaken := func(hash string) answer {
		exec(t, n.A, "UPDATE public.users SET password_hash = $1", django)
		conn := testdb.Connect(t, n.A.AdminURL)
		defer conn.Close(t.Context())
		gate, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gate.Exec(t.Context(), "UPDATE public.users SET password_hash = $1", hash); err != nil {
			t.Fatal(err)
		}
		var late answer
		var caller sync.WaitGroup
		caller.Go(func() { late = n.loginAs(t, n.A, n.A.OwnerEmail, pw) })
		n.lineUp(t, n.A, 1)
		if err := gate.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		caller.Wait()
		return late
	}
	expect(t, "overtaken by another rehash", overtaken(rehash), 200)
	expect(t, "overtaken by another password", overtaken(newer), 401, "invalid_credentials")
	n.login(t, n.A) // with the newer password
}

func TestSec33NothingRefusedIsRepeated(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	const secret = "hunter2hunter2"
	for name, tc := range map[string]struct {
		path, body string
		status     int
	}{
		"duplicate key": {"/auth/login", `{"identifier":"a","identifier":"b","password":"hunter2hunter2"}`, 400},
		"malformed":     {"/auth/login", `{"identifier":"a","password":"hunter2hunter2`, 400},
		"deep":          {"/company", `{"name":` + strings.Repeat("[", 40) + `"hunter2hunter2"`, 400},
		"wrong type":    {"/auth/login", `{"identifier":"a","password":{"hunter2hunter2":1}}`, 422},
		"unknown field": {"/auth/login", `{"identifier":"a","password":"hunter2hunter2","admin":true}`, 422},
		"too long":      {"/auth/login", `{"identifier":"a","password":"` + strings.Repeat(secret, 100) + `"}`, 422},
		"oversize":      {"/company", `{"name":"` + strings.Repeat(secret, 80_000) + `"}`, 413},
		"weak password": {"/account/register", `{"full_name":"A","email":"a@example.com","password":"hunter2!"}`, 422},
		"no such field": {"/company", `{"name":"A","create_by":2}`, 422},
	} {
		a := n.ask(t, http.MethodPost, hostOf(n.A), tc.path, tc.body, bearer(access))
		expect(t, name, a, tc.status)
		if strings.Contains(a.raw, "hunter2") {
			t.Errorf("%s: the answer repeats the value: %.300s", name, a.raw)
		}
	}
	if strings.Contains(n.log.String(), "hunter2") {
		t.Error("a refused value is in the log")
	}
}

func TestSec40TokensAreStoredHashed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, first := n.login(t, n.A)
	second := n.refresh(t, first).text("refresh")
	if len(first)-len("ovr_")-22 < 43 { // 256 bits in base64url
		t.Errorf("the refresh token is short: %d characters", len(first))
	}
	notStored(t, n.A, access, first, second, first[26:], second[26:])
}

// notStored fails the test if one of the secrets is in the tenant's database
// as it is.
func notStored(t *testing.T, tenant tenanttest.Tenant, secrets ...string) {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	rows, err := conn.Query(t.Context(), "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'ouvira', 'ledger')")
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	if len(tables) < 10 {
		t.Fatalf("only %v", tables)
	}
	for _, table := range tables {
		for _, token := range secrets {
			found := value[bool](t, tenant, "SELECT EXISTS (SELECT FROM "+table+" r WHERE strpos(r::text, $1) > 0 OR strpos(r::text, encode($1::bytea, 'hex')) > 0)", token)
			if found {
				t.Errorf("a token is in %s as it is", table)
			}
		}
	}
}
