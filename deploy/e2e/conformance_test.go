package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// row is one line of the contract as a client of the reference system uses it:
// what it sends, the status it gets, the fields it reads.
type row struct {
	operation string // "POST /company/{id}/invite", as the document names it
	as        string // who: a name whose token "<name>.token" was saved; "" is nobody
	path      string // where it differs from the operation's; {name} is what was saved
	body      object // {name} is what was saved; "{name}" alone keeps its type
	header    object // further headers
	status    int
	// fields that the answer must have: "id:int name:string logo:string?", with a
	// dotted path, [] for the first of a list, ? for null, "a|b" for a choice
	// among texts. Types: int, string, bool, time, object, list.
	fields string
	save   saved // name → dotted path in the answer, or "header <name>"
	// prepare saves what comes from elsewhere: a code in a mail or an SMS.
	prepare func(t *testing.T, w *world)
}

type (
	object = map[string]any
	saved  = map[string]string
)

// world is one pass through the table: a tenant, a spelling of the paths, and
// what the rows before have saved.
type world struct {
	stack  *stack.Stack
	slug   string
	number int
	prefix string // "/api" or nothing
	slash  bool   // each path ends in one
	calls  int
	saved  map[string]any
	since  time.Time
}

// The contract holds at both nodes, at two tenants, with and without the prefix
// and the slash; and each operation of the document has its row.
func TestTheContract(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	covered := map[string]bool{}
	for i, spelling := range []struct {
		prefix string
		slash  bool
	}{{"", false}, {"/api", false}, {"", true}, {"/api", true}} {
		tenant := s.Demo().Tenants[i%2]
		t.Run(fmt.Sprintf("%s%s slash %v", tenant.Slug, spelling.prefix, spelling.slash), func(t *testing.T) {
			w := &world{stack: s, slug: tenant.Slug, number: i, prefix: spelling.prefix, slash: spelling.slash, since: time.Now(), saved: map[string]any{
				"owner.email": tenant.OwnerEmail, "owner.password": tenant.OwnerPassword,
				"n": strconv.Itoa(i), "phone": fmt.Sprintf("+49152000000%d0", i), "phone2": fmt.Sprintf("+49152000000%d1", i), "phone3": fmt.Sprintf("+49152000000%d2", i),
			}}
			for _, r := range contract {
				covered[r.operation] = true
				w.run(t, r)
			}
		})
	}
	if t.Failed() {
		return
	}
	for _, operation := range operations(t, s) {
		if !covered[operation] {
			t.Errorf("the table has no row for %s", operation)
		}
		delete(covered, operation)
	}
	for operation := range covered {
		t.Errorf("the document does not know %s", operation)
	}
}

func operations(t *testing.T, s *stack.Stack) []string {
	t.Helper()
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"` //nolint:tagliatelle // OpenAPI writes it so
		} `json:"paths"`
	}
	must(t, s.TenantAPI(0, "nobody").Want(t.Context(), http.StatusOK, http.MethodGet, "/openapi.json", nil, &document))
	var all []string
	for path, methods := range document.Paths {
		for method := range methods {
			all = append(all, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(all)
	return all
}

func (w *world) run(t *testing.T, r row) {
	t.Helper()
	if r.prepare != nil {
		r.prepare(t, w)
	}
	method, path, _ := strings.Cut(r.operation, " ")
	if r.path != "" {
		path = r.path
	}
	path = w.text(t, path)
	path, query, asked := strings.Cut(path, "?")
	path = w.prefix + path
	if w.slash {
		path += "/"
	}
	if asked {
		path += "?" + query
	}
	api := w.stack.TenantAPI(w.calls%2, w.slug)
	w.calls++
	if r.as != "" {
		api.Token = w.text(t, "{"+r.as+".token}")
	}
	for name, value := range r.header {
		if api.Header == nil {
			api.Header = http.Header{}
		}
		api.Header.Set(name, fmt.Sprint(w.fill(t, value)))
	}
	var body any
	if r.body != nil {
		body = w.fill(t, r.body)
	}
	what := fmt.Sprintf("%s %s as %q", method, path, r.as)
	answer, err := api.Call(t.Context(), method, path, body)
	must(t, err)
	if answer.Status != r.status {
		t.Errorf("%s: %s, want %d", what, answer, r.status)
		return
	}
	var got any
	if len(answer.Body) > 0 {
		if err := json.Unmarshal(answer.Body, &got); err != nil {
			t.Errorf("%s: the answer is no JSON: %s", what, answer)
			return
		}
	}
	fields := r.fields
	if answer.Status >= http.StatusBadRequest {
		fields += " title:string status:int detail:string code:string"
		if kind := answer.Header.Get("Content-Type"); kind != "application/problem+json" {
			t.Errorf("%s: refused as %s", what, kind)
		}
	}
	for field := range strings.FieldsSeq(fields) {
		if problem := w.check(t, got, field); problem != "" {
			t.Errorf("%s: %s in %s", what, problem, answer)
		}
	}
	for name, from := range r.save {
		v, ok := dig(got, from)
		if header, is := strings.CutPrefix(from, "header "); is {
			v, ok = answer.Header.Get(header), true
		}
		if !ok || v == nil || v == "" {
			t.Errorf("%s: nothing at %s in %s", what, from, answer)
		}
		w.saved[name] = v
	}
}

// list is the envelope of every list.
const list = " count:int next:string? previous:string? results:list "

// entity is what every entity carries.
const entity = " created_at:time updated_at:time "

func (w *world) check(t *testing.T, got any, field string) string {
	t.Helper()
	path, kind, _ := strings.Cut(field, ":")
	kind, nullable := strings.CutSuffix(kind, "?")
	v, ok := dig(got, path)
	if !ok {
		return "no " + path
	}
	if v == nil && nullable {
		return ""
	}
	if kind, want, exact := strings.Cut(kind, "="); exact {
		if want = w.text(t, want); fmt.Sprint(v) != want {
			return fmt.Sprintf("%s (%s) is %v, not %s,", path, kind, v, want)
		}
		return ""
	}
	good := false
	for kind := range strings.SplitSeq(kind, "|") {
		good = good || is(v, kind)
	}
	if !good {
		return fmt.Sprintf("%s is %v, no %s,", path, v, kind)
	}
	return ""
}

// is tells whether a value is of a type, or is that very text.
func is(v any, kind string) bool {
	text, isText := v.(string)
	switch kind {
	case "int":
		f, ok := v.(float64)
		return ok && f == float64(int64(f))
	case "string":
		return isText
	case "bool":
		_, ok := v.(bool)
		return ok
	case "object":
		_, ok := v.(map[string]any)
		return ok
	case "list":
		_, ok := v.([]any)
		return ok
	case "time":
		_, err := time.Parse(time.RFC3339, text)
		return err == nil
	}
	return isText && text == kind
}

// dig finds: "tokens.access", "results[].id".
func dig(v any, path string) (any, bool) {
	for key := range strings.SplitSeq(path, ".") {
		key, first := strings.CutSuffix(key, "[]")
		if key != "" {
			o, _ := v.(map[string]any)
			inner, ok := o[key]
			if !ok {
				return nil, false
			}
			v = inner
		}
		if first {
			l, _ := v.([]any)
			if len(l) == 0 {
				return nil, false
			}
			v = l[0]
		}
	}
	return v, true
}

var placeholder = regexp.MustCompile(`\{[a-z0-9_.]+\}`)

// text replaces what was saved.
func (w *world) text(t *testing.T, s string) string {
	t.Helper()
	return placeholder.ReplaceAllStringFunc(s, func(name string) string { return plain(w.get(t, name)) })
}

func plain(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatInt(int64(f), 10)
	}
	return fmt.Sprint(v)
}

func (w *world) get(t *testing.T, name string) any {
	t.Helper()
	v, ok := w.saved[strings.Trim(name, "{}")]
	if !ok {
		t.Fatalf("no row has saved %s; there are %v", name, slices.Sorted(maps.Keys(w.saved)))
	}
	return v
}

// fill replaces what was saved in a body.
func (w *world) fill(t *testing.T, v any) any {
	t.Helper()
	switch v := v.(type) {
	case string:
		if placeholder.FindString(v) == v && v != "" {
			return w.get(t, v)
		}
		return w.text(t, v)
	case object:
		out := object{}
		for key, inner := range v {
			out[key] = w.fill(t, inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = w.fill(t, inner)
		}
		return out
	}
	return v
}

// sms saves the code of the last message to a number as "code".
func sms(number string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		t.Helper()
		to := w.text(t, number)
		seen, _ := w.saved["sms of "+to].(string)
		eventually(t, 20*time.Second, func() (bool, string) {
			for _, text := range w.stack.SMS().Texts() {
				if text.To == to && text.SID != seen {
					w.saved["sms of "+to] = text.SID
					w.saved["code"] = sixDigits.FindString(text.Body)
					return w.saved["code"] != "", "no code in " + text.Body
				}
				if text.To == to {
					break
				}
			}
			return false, "no SMS for " + to
		})
	}
}

var sixDigits = regexp.MustCompile(`\b[0-9]{6}\b`)

// mail saves what the pattern's first group finds in a new mail to the address.
func mail(address, name string, pattern *regexp.Regexp) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		t.Helper()
		to := w.text(t, address)
		eventually(t, 20*time.Second, func() (bool, string) {
			for _, message := range w.stack.Mail().Messages() {
				if len(message.To) == 0 || !strings.EqualFold(message.To[0].Address, to) {
					continue
				}
				if seen := "mail " + message.ID; w.saved[seen] == nil {
					if match := pattern.FindStringSubmatch(message.Text); match != nil {
						w.saved[seen], w.saved[name] = true, match[1]
						return true, ""
					}
				}
			}
			return false, "no such mail to " + to
		})
	}
}
