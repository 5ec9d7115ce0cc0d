package httpapi

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi/apidoc"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/limit"
	"github.com/ouvira/ouvira/shared/route"
)

// rule limits an operation, exactly over all nodes. Who is counted is a field
// of the body, or found by of.
type rule struct {
	limit route.Limit
	field string // of the body; "" for rules that look at no body
	of    func(ctx context.Context, s *server, sc *scope, value string) (key string, err error)
}

// limits are the operations that are limited exactly, by their ids. The rules
// are asked in order: an address that is refused uses nothing up of the
// account it aims at. All operations have a limit for each node besides
// (limitAll).
var limits = map[string][]rule{
	"login":                   {perAddress(route.LimitLoginPerAddress), perField(route.LimitLoginPerIdentifier, "identifier")},
	"login-2fa-verify-code":   {perAddress(route.LimitLoginPerAddress), perField(route.LimitSecondFactorPerLogin, "session_id")},
	"login-2fa-verify-backup": {perAddress(route.LimitLoginPerAddress), perField(route.LimitSecondFactorPerLogin, "session_id")},
	"register":                {perAddress(route.LimitLoginPerAddress)},
	"enter-support":           {perAddress(route.LimitLoginPerAddress)},
	"reset-password":          {perAddress(route.LimitLoginPerAddress)},
	"forgot-password":         {perAddress(route.LimitResetMailPerAddress), perField(route.LimitResetMailPerAccount, "identifier"), perField(route.LimitResetMailPerAccount, "email")},
	"signup":                  {perAddress(route.LimitOTPSendPerAddress), perField(route.LimitOTPSendPerNumber, "primary_mobile")},
	"resend-otp":              {perAddress(route.LimitOTPSendPerAddress), perField(route.LimitOTPSendPerNumber, "primary_mobile")},
	"verify-otp":              {perField(route.LimitOTPVerifyPerNumber, "primary_mobile")},
	"finalize-signup":         {perField(route.LimitFinalizePerNumber, "primary_mobile")},
	"refresh-token":           {perSession(route.LimitRefreshPerSession, "refresh")},
	"enable-2fa":              {perUser(route.LimitEnable2FAPerUser)},
	"change-password":         {perCaller(route.LimitLoginPerIdentifier, "change-password")},
	"verify-email":            {perCodeSent(route.LimitOTPSendPerNumber, "verify-email"), perCodeGiven(route.LimitOTPVerifyPerNumber, "verify-email")},
	"verify-phone":            {perCodeSent(route.LimitOTPSendPerNumber, "verify-phone"), perCodeGiven(route.LimitOTPVerifyPerNumber, "verify-phone")},
}

// aliasSuffix marks the id of an operation that is another one under a second
// path: they share their limits.
const aliasSuffix = "-alias"

func perAddress(l route.Limit) rule {
	return rule{limit: l, of: func(_ context.Context, _ *server, sc *scope, _ string) (string, error) {
		return network(sc.client.IP).String(), nil
	}}
}

// perField counts by a field of the body.
func perField(l route.Limit, field string) rule {
	return rule{limit: l, field: field, of: func(_ context.Context, _ *server, _ *scope, value string) (string, error) {
		return canonical(value), nil
	}}
}

// canonical is one spelling for all by which the same account could be meant:
// without regard to case and white space, and a phone number without what
// people write between its digits.
func canonical(value string) string {
	value = strings.ToLower(strings.Join(strings.Fields(value), ""))
	if strings.Trim(value, "+0123456789-()./") == "" {
		value = strings.NewReplacer("-", "", "(", "", ")", "", ".", "", "/", "").Replace(value)
	}
	return value
}

// perUser is for operations of people who are signed in.
func perUser(l route.Limit) rule {
	return rule{limit: l, of: func(_ context.Context, _ *server, sc *scope, _ string) (string, error) {
		if sc.verified.ByKey() {
			return "", nil
		}
		return strconv.FormatInt(sc.verified.UserID, 10), nil
	}}
}

// perCaller is perUser for a limit that is shared with operations that are not
// limited by user: what keeps them apart.
func perCaller(l route.Limit, what string) rule {
	r := perUser(l)
	return rule{limit: l, of: func(ctx context.Context, s *server, sc *scope, value string) (string, error) {
		user, err := r.of(ctx, s, sc, value)
		if user != "" {
			user = what + " of user " + user
		}
		return user, err
	}}
}

// perCodeSent limits how often somebody who is signed in has a code sent to
// themselves: calls without one.
func perCodeSent(l route.Limit, what string) rule {
	return perCallerWhere(l, what, func(code string) bool { return code == "" })
}

// perCodeGiven limits how often they guess at it.
func perCodeGiven(l route.Limit, what string) rule {
	return perCallerWhere(l, what, func(code string) bool { return code != "" })
}

func perCallerWhere(l route.Limit, what string, counts func(code string) bool) rule {
	r := perCaller(l, what)
	return rule{limit: l, field: "code", of: func(ctx context.Context, s *server, sc *scope, code string) (string, error) {
		if !counts(code) {
			return "", nil
		}
		return r.of(ctx, s, sc, code)
	}}
}

// perSession finds the session of a refresh token, which changes with each use.
func perSession(l route.Limit, field string) rule {
	return rule{limit: l, field: field, of: func(ctx context.Context, s *server, sc *scope, value string) (string, error) {
		token, err := sc.refreshToken(value)
		if err != nil {
			return "", err
		}
		return s.Identity.SessionOf(ctx, sc.tenant, token)
	}}
}

// network is what an address is counted by: a customer of IPv6 has at least
// 64 bits to choose from.
func network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}

// limiter is what the exact limits ask before an operation with input I. An
// operation whose input has no such field keeps the server from starting.
func limiter[I any](s *server, id string) func(context.Context, *I) error {
	type bound struct {
		rule
		path []int // of the field
	}
	var rules []bound
	for _, r := range limits[strings.TrimSuffix(id, aliasSuffix)] {
		path, found := bodyField(reflect.TypeFor[I](), r.field)
		if !found {
			s.undeclared = append(s.undeclared, fmt.Errorf("operation %s is limited by the field %s, which is no text of its body", id, r.field))
		}
		rules = append(rules, bound{r, path})
	}
	return func(ctx context.Context, in *I) error {
		sc := scopeOf(ctx)
		for _, r := range rules {
			value := ""
			if r.path != nil {
				if field, err := reflect.ValueOf(in).Elem().FieldByIndexErr(r.path); err == nil { // a body that may be left out
					value = field.String()
				}
			}
			key, err := r.of(ctx, s, sc, value)
			if err != nil {
				return err
			}
			if key == "" {
				continue // of nobody: refused further on
			}
			var v limit.Verdict
			err = sc.tenant.Do(ctx, func(db identity.Conn) error {
				var err error
				v, err = limit.Take(ctx, db, sc.tenant.Route.Settings.Limit(r.limit), key)
				return err
			})
			if err != nil {
				return err
			}
			sc.tell(v)
			if err := v.Err(); err != nil {
				return err
			}
		}
		return nil
	}
}

// limitsOfNothing are limits of operations that there are not: an operation
// that was renamed must not lose its limits.
func limitsOfNothing(document *huma.OpenAPI) []error {
	there := map[string]bool{}
	for _, o := range apidoc.Operations(document) {
		there[o.OperationID] = true
	}
	var missing []error
	for id := range limits {
		if !there[id] {
			missing = append(missing, fmt.Errorf("there are limits for operation %s, and no such operation", id))
		}
	}
	return missing
}

// bodyField finds a text of the body by its name in JSON.
func bodyField(input reflect.Type, name string) ([]int, bool) {
	if name == "" {
		return nil, true
	}
	body, ok := input.FieldByName("Body")
	if ok && body.Type.Kind() == reflect.Pointer {
		body.Type = body.Type.Elem()
	}
	if !ok || body.Type.Kind() != reflect.Struct {
		return nil, false
	}
	for _, f := range reflect.VisibleFields(body.Type) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name && f.Type.Kind() == reflect.String {
			return append(append([]int{}, body.Index...), f.Index...), true
		}
	}
	return nil, false
}

// Each node remembers so many addresses, users and API keys, about 150 bytes each.
const rememberedClients = 100_000

// limitAll is what each node allows an address that is not signed in, or a
// user who is. It comes when the token has been checked.
func (s *server) limitAll(hctx huma.Context, next func(huma.Context)) {
	sc := scopeOf(hctx.Context())
	if err := s.count(sc); err != nil {
		s.refuse(hctx, err)
		return
	}
	next(hctx)
}

func (s *server) count(sc *scope) error {
	r := sc.tenant.Route
	signedIn := r.Settings.Limit(route.LimitSignedInPerUser)
	var v limit.Verdict
	switch key := sc.verified.KeyDigest(); {
	case sc.verified.UserID != 0:
		v = s.users.Take(r.TenantID, signedIn, sc.verified.UserID)
	case key != "" && s.keys.Knows(r.TenantID, signedIn, key):
		v = s.keys.Take(r.TenantID, signedIn, key)
	default:
		v = s.addresses.Take(r.TenantID, r.Settings.Limit(route.LimitAnonymousPerAddress), network(sc.client.IP))
	}
	sc.tell(v)
	return v.Err()
}

// believe counts an API key as somebody from now on: the database knows it.
// Before, it is but a text of the right shape, of which anyone can make many.
func (s *server) believe(sc *scope) {
	r := sc.tenant.Route
	signedIn := r.Settings.Limit(route.LimitSignedInPerUser)
	if key := sc.verified.KeyDigest(); key != "" && !s.keys.Knows(r.TenantID, signedIn, key) {
		s.keys.Take(r.TenantID, signedIn, key)
	}
}

// tell puts the limit that is nearest to its end into the headers of the
// answer: the fields of draft-ietf-httpapi-ratelimit-headers as they are
// deployed, three single ones and the policy.
func (sc *scope) tell(v limit.Verdict) {
	if sc.told.Limit.Count != 0 && sc.told.Allowed && sc.told.Remaining <= v.Remaining && v.Allowed {
		return
	}
	sc.told = v
	// All four are cut from one text: each answer carries them.
	var room [64]byte
	text := strconv.AppendInt(room[:0], int64(v.Limit.Count), 10)
	count := len(text)
	text = strconv.AppendInt(append(text, ";w="...), seconds(v.Limit.Per), 10)
	policy := len(text)
	text = strconv.AppendInt(text, int64(v.Remaining), 10)
	remaining := len(text)
	text = strconv.AppendInt(text, seconds(v.Reset), 10)
	all := string(text)
	values := [...]string{all[:count], all[policy:remaining], all[remaining:], all[:policy]}
	for i, name := range limitHeaders {
		sc.answer[name] = values[i : i+1 : i+1]
	}
}

// limitHeaders are the fields in the form that Go's headers have: each answer
// carries them, and any other spelling would be rewritten each time.
var limitHeaders = [...]string{"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset", "Ratelimit-Policy"}

// seconds, rounded up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
