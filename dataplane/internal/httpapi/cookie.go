package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// With OUVIRA_AUTH_COOKIES, whoever signs in also gets their tokens as cookies,
// and may leave the Authorization header out afterwards.
//
// A browser sends cookies whoever made it ask. So what changes something and is
// authenticated by a cookie needs two proofs that a page of ours asked: what
// the browser says of the page's origin, and a token that only such a page can
// read (cookieCSRF) and send back (headerCSRF). The token is an HMAC under the
// access token: it counts for the session that it was given with.
const (
	cookieAccess  = "__Host-ouvira_access"
	cookieRefresh = "__Host-ouvira_refresh"
	cookieCSRF    = "__Host-ouvira_csrf" // scripts read it

	headerCSRF     = "X-CSRF-Token"
	headerAuthMode = "X-Auth-Mode"
	// authModeCookie leaves the tokens out of the body of the answer.
	authModeCookie = "cookie"
)

// cookies are those of a request.
type cookies struct {
	access, refresh string
	proof           string // headerCSRF
	foreign         error  // why the request is not from a page of ours, if it is not
	alone           bool   // the client wants no tokens in the body
}

var ownPages = http.NewCrossOriginProtection()

// cookiesOf is nil when the option is off: cookies are not looked at.
func (s *server) cookiesOf(r *http.Request, tenant *route.Route) *cookies {
	if !s.Cookies {
		return nil
	}
	c := &cookies{
		access: cookieOf(r, cookieAccess), refresh: cookieOf(r, cookieRefresh),
		proof: r.Header.Get(headerCSRF), alone: r.Header.Get(headerAuthMode) == authModeCookie,
	}
	if !s.mayRead(tenant, r.Header.Get("Origin")) {
		c.foreign = ownPages.Check(r) // safe methods are from anywhere
	}
	return c
}

// cookieOf is empty for a cookie that is there twice: somebody has put one in
// front of ours.
func cookieOf(r *http.Request, name string) string {
	found := r.CookiesNamed(name)
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

// proven refuses what changes something unless a page of ours asked.
func (c *cookies) proven() error {
	if c.foreign != nil {
		return fault.Forbidden("This request comes from a page of another origin.").Code("cross_origin").Because(c.foreign)
	}
	if c.access == "" || subtle.ConstantTimeCompare([]byte(c.proof), []byte(csrfOf(c.access))) != 1 {
		return fault.Forbidden("Who signs in with cookies must send the value of the cookie " + cookieCSRF + " in the header " + headerCSRF + ".").Code("csrf")
	}
	return nil
}

func csrfOf(access string) string {
	mac := hmac.New(sha256.New, []byte(access))
	mac.Write([]byte("ouvira csrf"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// give puts the tokens into cookies that live as long as the refresh token does
// without use; the access token in its cookie ends before.
func (c *cookies) give(answer http.Header, t identity.Tokens) (csrf string) {
	csrf = csrfOf(t.Access)
	c.set(answer, cookieAccess, t.Access, true, t.Idle)
	c.set(answer, cookieRefresh, t.Refresh, true, t.Idle)
	c.set(answer, cookieCSRF, csrf, false, t.Idle)
	return csrf
}

// take removes the cookies.
func (c *cookies) take(answer http.Header) {
	for _, name := range []string{cookieAccess, cookieRefresh, cookieCSRF} {
		c.set(answer, name, "", name != cookieCSRF, -time.Second)
	}
}

func (c *cookies) set(answer http.Header, name, value string, hidden bool, age time.Duration) {
	cookie := http.Cookie{ //nolint:gosec // the page reads the proof, and only that
		Name: name, Value: value, Path: "/", Secure: true, HttpOnly: hidden, SameSite: http.SameSiteLaxMode, MaxAge: int(age.Seconds()),
	}
	answer.Add("Set-Cookie", cookie.String())
}
