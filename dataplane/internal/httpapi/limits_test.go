package httpapi_test

import (
	"crypto/sha256"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// byDefault takes back what the fixture raises.
func byDefault(f *tenanttest.Fixture, changed map[string]int) {
	for _, tenant := range []*tenanttest.Tenant{&f.A, &f.B} {
		tenant.Route = f.Table.Change(tenant.ID, func(r *route.Route) { r.Settings.Limits = changed })
	}
}

// taken says that so many logins of the identifier have just been tried: a
// test that is slow must not be given some back.
func taken(t *testing.T, tenant tenanttest.Tenant, identifier string, count int) {
	t.Helper()
	key := sha256.Sum256([]byte(route.LimitLoginPerIdentifier.Name + "\x00" + identifier))
	exec(t, tenant, "UPDATE public.rate_limits SET full_at = now() + $2 * interval '12 s' WHERE key = $1", key[:], count)
}

func (n *node) tryLogin(t *testing.T, tenant tenanttest.Tenant, identifier string, edits ...edit) answer {
	t.Helper()
	return n.ask(t, http.MethodPost, hostOf(tenant), "/auth/login", object{"identifier": identifier, "password": "wrong"}, edits...)
}

func TestLoginsAreCountedOverAllNodes(t *testing.T) {
	t.Parallel()
	first := newNode(t)
	second := nodeOver(t, first.Fixture)
	byDefault(first.Fixture, nil)
	// The spellings of one identifier are one.
	for i, identifier := range []string{"ada@example.com", "ADA@example.com", " ada@example.com ", "Ada@Example.Com", "ada@example.com"} {
		n := []*node{first, second}[i%2]
		a := n.tryLogin(t, n.A, identifier)
		taken(t, n.A, "ada@example.com", i+1)
		expect(t, "within the limit", a, 401, "invalid_credentials")
		if a.header.Get("RateLimit-Limit") != "5" || a.header.Get("RateLimit-Remaining") != strconv.Itoa(4-i) || a.header.Get("RateLimit-Policy") != "5;w=60" {
			t.Errorf("attempt %d has the headers %v", i+1, a.header)
		}
	}
	for _, n := range []*node{first, second} {
		taken(t, n.A, "ada@example.com", 5)
		a := n.tryLogin(t, n.A, "ada@example.com")
		expect(t, "the sixth", a, 429, "rate_limited")
		if wait, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || wait < 1 || wait > 12 || a.header.Get("RateLimit-Remaining") != "0" {
			t.Errorf("the refusal has the headers %v", a.header)
		}
		expect(t, "another identifier", n.tryLogin(t, n.A, "bob@example.com"), 401)
		expect(t, "the same one at B", n.tryLogin(t, n.B, "ada@example.com"), 401)
	}
	// A fifth of the minute gives one back.
	taken(t, first.A, "ada@example.com", 4)
	expect(t, "one more", second.tryLogin(t, second.A, "ada@example.com"), 401)
	expect(t, "and no other", first.tryLogin(t, first.A, "ada@example.com"), 429)
}

func TestAttemptsAtOnceAreAllCounted(t *testing.T) {
	t.Parallel()
	first := newNode(t)
	nodes := []*node{first, nodeOver(t, first.Fixture)}
	byDefault(first.Fixture, nil)
	first.Table.Change(first.A.ID, func(r *route.Route) { r.MaxConnections = 4 }) // the role may have 10, and each node has a pool
	var compared atomic.Int64
	began := time.Now()
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for {
				switch a := nodes[i%2].tryLogin(t, first.A, "ada@example.com"); {
				case a.status == http.StatusUnauthorized:
					compared.Add(1)
				case a.status == http.StatusTooManyRequests && a.text("code") == "rate_limited":
				case a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests:
					continue // the pool is small: come again
				default:
					t.Errorf("%d %s", a.status, a.raw)
				}
				return
			}
		})
	}
	callers.Wait()
	// Who was counted and then found the pool full has used one up in vain.
	most := 5 + int64(time.Since(began)/(12*time.Second)) // a slow machine is given some back
	if n := compared.Load(); n < 1 || n > most {
		t.Errorf("%d passwords were compared, want %d", n, most)
	}
}

func TestAnAddressIsLimitedBeforeItsVictims(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	byDefault(n.Fixture, map[string]int{route.LimitLoginPerAddress.Name: 3})
	for i := range 3 {
		expect(t, "within the limit", n.tryLogin(t, n.A, "user"+strconv.Itoa(i)), 401)
	}
	expect(t, "too many from one address", n.tryLogin(t, n.A, n.A.OwnerEmail), 429, "rate_limited")
	owner := n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login",
		object{"identifier": n.A.OwnerEmail, "password": tenanttest.OwnerPassword}, peer("198.51.100.8:40000"))
	expect(t, "the owner from elsewhere", owner, 200)
	if left := owner.header.Get("RateLimit-Remaining"); left != "2" { // 3 for the address
		t.Errorf("%s left, so the refused attempts have counted for the owner", left)
	}
	for i, address := range []string{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::ffff]:2", "[2001:db8:0:0:1::]:1"} {
		a := n.tryLogin(t, n.A, "someone"+strconv.Itoa(i), peer(address))
		if limited := a.status == 429; limited != (i == 3) {
			t.Errorf("%s, one of a network: %d", address, a.status)
		}
	}
	expect(t, "the next network", n.tryLogin(t, n.A, "someone", peer("[2001:db8:0:1::]:1")), 401)
}

func TestRefreshesOfASessionAreLimited(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	byDefault(n.Fixture, map[string]int{route.LimitRefreshPerSession.Name: 2})
	_, token := n.login(t, n.A)
	_, other := n.login(t, n.A)
	for range 2 {
		a := n.refresh(t, token)
		expect(t, "refresh", a, 200)
		token = a.text("refresh")
	}
	expect(t, "a third time", n.refresh(t, token), 429, "rate_limited")
	expect(t, "another session", n.refresh(t, other), 200)
	exec(t, n.A, "DELETE FROM public.rate_limits")
	expect(t, "later", n.refresh(t, token), 200)
}

func TestEachNodeLimitsAddressesAndUsers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	byDefault(n.Fixture, map[string]int{route.LimitAnonymousPerAddress.Name: 3, route.LimitSignedInPerUser.Name: 4})
	const elsewhere = "203.0.113.9:1"
	jwks := func(tenant tenanttest.Tenant, edits ...edit) answer {
		return n.ask(t, http.MethodGet, hostOf(tenant), "/.well-known/jwks.json", nil, append(edits, peer(elsewhere))...)
	}
	me := func(edits ...edit) answer {
		return n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, append(edits, peer(elsewhere))...)
	}
	expect(t, "anonymous", jwks(n.A), 200)
	expect(t, "anonymous", jwks(n.A), 200)
	expect(t, "a bad token counts as anonymous", me(bearer("x")), 401)
	expect(t, "a bad token over the limit", me(bearer("x")), 429, "rate_limited")
	a := jwks(n.A)
	expect(t, "anonymous over the limit", a, 429, "rate_limited")
	if a.header.Get("Retry-After") == "" || a.header.Get("RateLimit-Limit") != "3" {
		t.Errorf("the refusal has the headers %v", a.header)
	}
	expect(t, "at B", jwks(n.B), 200)
	expect(t, "from another address", n.ask(t, http.MethodGet, hostOf(n.A), "/.well-known/jwks.json", nil), 200)
	for i := range 4 {
		a := me(bearer(access))
		expect(t, "signed in", a, 200)
		if a.header.Get("RateLimit-Remaining") != strconv.Itoa(3-i) {
			t.Errorf("signed in, with the headers %v", a.header)
		}
	}
	expect(t, "signed in over the limit", me(bearer(access)), 429, "rate_limited")
}

func TestALimitThatCannotBeAskedIsClosed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	exec(t, n.A, "DROP TABLE public.rate_limits")
	expect(t, "login", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login", object{"identifier": n.A.OwnerEmail, "password": tenanttest.OwnerPassword}), 503)
	if logins := value[int](t, n.A, "SELECT count(*) FROM public.sessions"); logins != 0 {
		t.Error("somebody was signed in")
	}
	n.login(t, n.B)
}

func TestRowsOfPastLimitsAreSwept(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	exec(t, n.A, "INSERT INTO public.rate_limits (key, full_at) SELECT sha256(g::text::bytea), now() - interval '1 s' FROM generate_series(1, 7) g")
	n.login(t, n.A)
	n.login(t, n.A)
	if rows := value[int](t, n.A, "SELECT count(*) FROM public.rate_limits WHERE key IN (SELECT sha256(g::text::bytea) FROM generate_series(1, 7) g)"); rows != 0 {
		t.Errorf("%d rows are left", rows)
	}
}

func TestAPIKeysAreCountedAsSomebodyOnceTheyAreKnown(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	key, _ := n.newKey(t, owner, object{"permissions": []string{"company.read"}})
	byDefault(n.Fixture, map[string]int{route.LimitAnonymousPerAddress.Name: 2, route.LimitSignedInPerUser.Name: 4})
	const elsewhere = "203.0.113.9:1"
	me := func(token string) answer {
		return n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(token), peer(elsewhere))
	}
	forged := key[:len(key)-4] + "aaaa"
	expect(t, "not known yet", me(key), 200)
	expect(t, "a forged one", me(forged), 401)
	asked := n.leases(n.A)
	expect(t, "one too many", me(forged), 429, "rate_limited")
	if n.leases(n.A) != asked {
		t.Error("the database was asked for a key over the limit")
	}
	for range 3 {
		expect(t, "known", me(key), 200)
	}
	expect(t, "known, too often", me(key), 429, "rate_limited")
}
