package httpapi_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/testdb"
)

// TestSec08 sends every operation of the document that needs a permission, as
// somebody who owns another company, with a token of another tenant, and as a
// member of the company whose role grants nothing. All are refused, and nothing
// changes. The owner sends the same afterwards and is not refused: so it was
// the actor that was refused, and not the request.
//
// Operations are found in the document, requests are made of its examples, and
// what they speak of is made through the API where it can be. An operation for
// which that is not enough fails this test; say then in strangers what it
// needs.
func TestSec08EveryOperationForStrangers(t *testing.T) {
	t.Parallel()
	s := newStrangers(t)
	refused := 0
	for _, o := range s.operations {
		if o.permission == "" {
			continue
		}
		t.Run(o.id, func(t *testing.T) {
			s.t = t
			path, body, ok := s.request(o)
			if !ok {
				return
			}
			before := s.fingerprint()
			for who, token := range map[string]string{"the owner of another company": s.outsider, "a member without the permission": s.powerless} {
				a := s.n.ask(t, o.method, hostOf(s.n.A), path, body, bearer(token))
				if a.status != 403 && a.status != 404 && !s.showsNothing(o, a, who) {
					t.Errorf("%s: %s %s: %d %s", who, o.method, path, a.status, a.raw)
				}
			}
			expect(t, "a token of another tenant", s.n.ask(t, o.method, hostOf(s.n.A), path, body, bearer(s.foreign)), 401, "invalid_token")
			for table, rows := range s.fingerprint() {
				if before[table] != rows {
					t.Errorf("%s has changed", table)
				}
			}
			a := s.n.ask(t, o.method, hostOf(s.n.A), path, body, bearer(s.owner))
			if a.status == 401 || a.status == 403 || a.status == 404 || a.status == 400 || a.status >= 500 {
				t.Errorf("the owner: %s %s: %d %s", o.method, path, a.status, a.raw)
			}
			refused++
		})
	}
	if refused < 50 {
		t.Errorf("only %d operations were sent", refused)
	}
}

// TestSec08 an operation that wants a token wants one of the tenant, also where
// it needs no permission, and asks the tenant's database nothing before.
func TestSec08EveryOperationForAnotherTenantsToken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	foreign, _ := n.login(t, n.B)
	sent := 0
	for _, o := range operationsOf(t, n) {
		if o.open {
			continue
		}
		path := o.path
		for _, name := range o.pathParameters() {
			path = strings.ReplaceAll(path, "{"+name+"}", "1")
		}
		expect(t, o.id, n.ask(t, o.method, hostOf(n.A), path, o.example, bearer(foreign)), 401, "invalid_token")
		sent++
	}
	if asked := n.leases(n.A); asked != 0 || sent < 60 {
		t.Errorf("%d operations were sent, and the database was asked %d times", sent, asked)
	}
}

// TestSec31 every permission that an operation declares is in the catalogue of
// a tenant: none is a slip of the pen that nobody could ever hold.
func TestSec31DeclaredPermissionsAreInTheCatalogue(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, o := range operationsOf(t, n) {
		if o.permission != "" && !value[bool](t, n.A, "SELECT EXISTS (SELECT FROM public.permissions WHERE code = $1 AND is_system)", o.permission) {
			t.Errorf("%s needs %s, which is not in the catalogue", o.id, o.permission)
		}
	}
}

// described is an operation as the document tells it.
type described struct {
	id, method, path string
	permission       string // "" where it needs none
	open             bool
	query            []any // parameters
	example          map[string]any
	required         []string // fields of the body
}

func (o described) pathParameters() []string {
	var names []string
	for part := range strings.SplitSeq(o.path, "/") {
		if name, found := strings.CutPrefix(part, "{"); found {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

func operationsOf(t *testing.T, n *node) []described {
	t.Helper()
	document := n.ask(t, http.MethodGet, "any.example", "/openapi.json", nil)
	paths, _ := document.at("paths").(map[string]any)
	var all []described
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		methods, _ := paths[path].(map[string]any)
		for _, method := range []string{"post", "put", "patch", "get", "delete"} { // what is deleted was put there before
			operation, found := methods[method].(map[string]any)
			if !found {
				continue
			}
			o := described{method: strings.ToUpper(method), path: path}
			o.id, _ = operation["operationId"].(string)
			o.permission, _ = operation["x-permission"].(string)
			_, o.open = operation["security"]
			o.query, _ = operation["parameters"].([]any)
			media := answer{body: operation}
			o.example, _ = media.at("requestBody", "content", "application/json", "example").(map[string]any)
			if ref := media.text("requestBody", "content", "application/json", "schema", "$ref"); ref != "" {
				schema, _ := document.at("components", "schemas", ref[strings.LastIndexByte(ref, '/')+1:], "required").([]any)
				o.required = texts(schema, "")
			}
			all = append(all, o)
		}
	}
	return all
}

// strangers makes the requests of TestSec08. What they speak of belongs to the
// first company of tenant A.
type strangers struct {
	t          *testing.T
	n          *node
	watcher    *pgx.Conn
	operations []described
	made       int // for names that are there once
	zone       int

	owner, outsider, powerless, foreign string // tokens
}

func newStrangers(t *testing.T) *strangers {
	t.Helper()
	s := &strangers{t: t, n: newNode(t)}
	s.watcher = testdb.Connect(t, s.n.A.AdminURL)
	t.Cleanup(func() { _ = s.watcher.Close(context.Background()) })
	s.operations = operationsOf(t, s.n)
	s.owner, _ = s.n.login(t, s.n.A)
	s.foreign, _ = s.n.login(t, s.n.B)
	outsider, powerless := s.n.person(t, s.n.A, "outsider"), s.n.person(t, s.n.A, "powerless")
	s.outsider, s.powerless = outsider.token, powerless.token
	hold(t, s.n.A, member(t, s.n.A, outsider.id, companyUnder(t, s.n.A, "Elsewhere", 0)), seeded(t, s.n.A, "owner"), "subtree")
	nothing := roleOf(t, s.n.A, s.n.A.CompanyID, "nothing")
	hold(t, s.n.A, member(t, s.n.A, powerless.id, s.n.A.CompanyID), nothing, "subtree")
	return s
}

// What a field or a parameter of a name means; each call makes a new one where
// it has to be new.
func (s *strangers) meaning(name, operation string) (any, bool) {
	tenant, company := s.n.A, s.n.A.CompanyID
	s.made++
	switch name {
	case "company", "company_id":
		return company, true
	case "parent_company", "reports_to", "parent", "manager":
		return nil, true
	case "user", "user_id":
		user := s.user()
		if operation != "create-user-company" {
			member(s.t, tenant, user, company)
		}
		return user, true
	case "timezone": // another one each time, so that there is something to change
		s.zone = (s.zone + 1) % 2
		return []string{"Europe/Berlin", "Asia/Tokyo"}[s.zone], true
	case "user_company":
		return member(s.t, tenant, s.user(), company), true
	case "role":
		return roleOf(s.t, tenant, company, fmt.Sprintf("role-%d", s.made), "company.read"), true
	case "permission":
		return value[int64](s.t, tenant, "SELECT id FROM public.permissions WHERE code = 'company.edit'"), true
	case "email":
		return fmt.Sprintf("new-%d@acme.example", s.made), true
	case "primary_mobile":
		return fmt.Sprintf("+49151%08d", s.made), true
	case "expires_at", "until":
		return time.Now().AddDate(0, 0, 1).UTC().Format(time.RFC3339), true
	case "permissions":
		return []string{"company.read"}, true
	}
	for _, o := range s.operations { // a collection of that name: "job_title" is made at …/job-titles
		if o.method == http.MethodPost && strings.HasSuffix(o.path, "/"+strings.ReplaceAll(name, "_", "-")+"s") {
			return s.create(o), true
		}
	}
	return nil, false
}

func (s *strangers) user() int64 {
	name := fmt.Sprintf("user-%d", s.made)
	return value[int64](s.t, s.n.A, "INSERT INTO public.users (username, full_name, email) VALUES ($1, $1, $1 || '@acme.example') RETURNING id", name)
}

// create makes a thing through the API, as the owner.
func (s *strangers) create(o described) int64 {
	s.t.Helper()
	path, body, _ := s.request(o)
	a := s.n.ask(s.t, o.method, hostOf(s.n.A), path, body, bearer(s.owner))
	if a.status != 201 {
		s.t.Fatalf("%s cannot be made for %s: %d %s", o.path, s.t.Name(), a.status, a.raw)
	}
	return a.number("id")
}

// request is one that the owner could send.
func (s *strangers) request(o described) (path string, body any, ok bool) {
	s.t.Helper()
	path = o.path
	for _, name := range o.pathParameters() {
		before, after, _ := strings.Cut(path, "{"+name+"}")
		id, known := s.pathValue(before, name, o.id)
		if !known {
			s.t.Errorf("what is {%s} of %s? Say it in strangers.pathValue", name, o.path)
			return "", nil, false
		}
		path = before + id + after
	}
	query := url.Values{}
	for _, p := range o.query {
		p, _ := p.(map[string]any)
		name, _ := p["name"].(string)
		required, _ := p["required"].(bool)
		switch {
		case p["in"] != "query":
		case name == "company":
			query.Set(name, itoa(s.n.A.CompanyID))
		case required:
			example := p["example"]
			if example == nil {
				example = answer{body: p}.at("schema", "example")
			}
			if list, _ := (answer{body: p}).at("schema", "examples").([]any); example == nil && len(list) > 0 {
				example = list[0]
			}
			query.Set(name, fmt.Sprint(example))
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	if o.example == nil {
		return path, nil, true
	}
	return path, s.body(o), true
}

// body is the example of the document with what is meant by its fields. Of
// others, references that need not be there are left out.
func (s *strangers) body(o described) map[string]any {
	s.t.Helper()
	body := map[string]any{}
	for field, example := range o.example {
		if field == "role" && !isNumber(example) || field == "name" || field == "code" || field == "title" {
			s.made++
			body[field] = fmt.Sprintf("%v%d", example, s.made)
			if field == "code" && strings.HasSuffix(o.id, "-of-role") {
				delete(body, field) // the permission is named by its id
			}
			continue
		}
		switch meant, known := s.meaning(field, o.id); {
		case field == "code":
		case known && meant == nil && !slices.Contains(o.required, field):
		case known:
			body[field] = meant
		case isNumber(example) && !slices.Contains(o.required, field):
		default:
			body[field] = example
		}
	}
	return body
}

func isNumber(v any) bool {
	_, number := v.(float64)
	return number
}

// pathValue is what stands for a parameter behind what is before it.
func (s *strangers) pathValue(before, name, operation string) (string, bool) {
	s.t.Helper()
	s.made++
	switch {
	case before == "/company/":
		return itoa(s.n.A.CompanyID), true
	case name == "user_id", before == "/account/users/":
		user := s.user()
		member(s.t, s.n.A, user, s.n.A.CompanyID)
		return itoa(user), true
	case strings.HasSuffix(before, "/roles/") && strings.HasSuffix(operation, "-of-role"):
		return itoa(roleOf(s.t, s.n.A, s.n.A.CompanyID, fmt.Sprintf("role-%d", s.made), "company.read")), true
	}
	for _, o := range s.operations { // what the collection makes
		if o.method == http.MethodPost && o.path+"/" == before {
			return itoa(s.create(o)), true
		}
	}
	return "", false
}

// Of the whole workspace: whoever may read it in some company reads it.
var ofTheWorkspace = []string{"list-permissions", "get-permission"}

// showsNothing accepts lists that are empty, and from the owner of another
// company what is nobody's in particular.
func (s *strangers) showsNothing(o described, a answer, who string) bool {
	if o.method != http.MethodGet || a.status != 200 {
		return false
	}
	if strings.HasPrefix(who, "the owner") && slices.Contains(ofTheWorkspace, o.id) {
		return true
	}
	results, isList := a.at("results").([]any)
	if isList && len(results) == 0 {
		return true
	}
	if strings.HasPrefix(who, "the owner") && o.id == "list-role-permissions" {
		// Of system-wide roles alone.
		for _, one := range results {
			role, _ := one.(map[string]any)
			id, _ := role["role"].(float64)
			if value[bool](s.t, s.n.A, "SELECT company_id IS NOT NULL FROM public.roles WHERE id = $1", int64(id)) {
				return false
			}
		}
		return true
	}
	return false
}

// fingerprint is what the tables of the tenant hold. Who is signed in and how
// often they asked is no change.
func (s *strangers) fingerprint() map[string]string {
	s.t.Helper()
	rows, err := s.watcher.Query(s.t.Context(), `SELECT format('%I.%I', schemaname, tablename), query_to_xml(
			format('SELECT count(*), COALESCE(sum(hashtext(r::text)::numeric), 0) FROM %I.%I r', schemaname, tablename), false, true, '')::text
		FROM pg_tables WHERE schemaname IN ('public', 'ledger') AND tablename <> ALL ($1)`, []string{"sessions", "refresh_tokens", "rate_limits"})
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]string{}
	for rows.Next() {
		var table, sum string
		if err := rows.Scan(&table, &sum); err != nil {
			s.t.Fatal(err)
		}
		found[table] = sum
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return found
}
