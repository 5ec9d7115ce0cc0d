package httpapi_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// record adds a record to the activity log, as superuser.
func record(t *testing.T, tenant tenanttest.Tenant, company any, user int64, action, at string) {
	t.Helper()
	exec(t, tenant, `INSERT INTO ledger.activity_logs (user_id, user_display, company_id, entity_type, entity_id, action, new_values, created_at, date)
		VALUES ($1, 'Someone', $2, 'thing', 7, $3, '{"a": 1}', $4::timestamptz, to_char($4::timestamptz AT TIME ZONE 'UTC', 'YYYYMMDD')::integer)`, user, company, action, at)
}

// member registers a user and makes them a member of a company with a role.
func (n *node) member(t *testing.T, tenant tenanttest.Tenant, email, role string, company int64) (access string, id int64) {
	t.Helper()
	a := n.ask(t, http.MethodPost, hostOf(tenant), "/account/register", object{"full_name": email, "email": email, "password": goodPassword})
	expect(t, "register "+email, a, 201)
	id = a.number("user", "id")
	exec(t, tenant, `WITH m AS (INSERT INTO public.user_companies (user_id, company_id) VALUES ($1, $2) RETURNING id)
		INSERT INTO public.user_company_roles (user_company_id, role_id) SELECT m.id, r.id FROM m, public.roles r WHERE r.role = $3 AND r.company_id IS NULL`, id, company, role)
	return a.text("tokens", "access"), id
}

func actions(a answer) string {
	results, _ := a.at("results").([]any)
	var all []string
	for _, r := range results {
		one, _ := r.(map[string]any)
		action, _ := one["action"].(string)
		all = append(all, action)
	}
	return strings.Join(all, " ")
}

func TestActivityLogsAreSeenByThoseWhoMay(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	child := n.ask(t, http.MethodPost, host, "/company", object{"name": "Works", "parent_company": n.A.CompanyID}, bearer(owner)).number("id")
	gone := n.ask(t, http.MethodPost, host, "/company", object{"name": "Gone"}, bearer(owner)).number("id")
	exec(t, n.A, "UPDATE public.companies SET deleted_at = now(), status = 'deleted' WHERE id = $1", gone)
	manager, managerID := n.member(t, n.A, "m@example.com", "manager", child)
	employee, _ := n.member(t, n.A, "e@example.com", "employee", n.A.CompanyID)
	exec(t, n.A, "TRUNCATE ledger.activity_logs")
	record(t, n.A, n.A.CompanyID, n.A.OwnerID, "HOME", "2026-01-01T10:00:00Z")
	record(t, n.A, child, managerID, "CHILD", "2026-01-02T10:00:00Z")
	record(t, n.A, nil, n.A.OwnerID, "NOWHERE", "2026-01-03T10:00:00Z")
	record(t, n.A, gone, n.A.OwnerID, "GONE", "2026-01-04T10:00:00Z")
	record(t, n.B, n.B.CompanyID, n.B.OwnerID, "FOREIGN", "2026-01-05T10:00:00Z")

	for _, look := range []struct{ who, token, query, want string }{
		{"owner", owner, "?to=2026-02-01", "GONE NOWHERE CHILD HOME"},
		{"owner of one company", owner, "?to=2026-02-01&company=" + itoa(child), "CHILD"},
		{"owner of a deleted one", owner, "?to=2026-02-01&company=" + itoa(gone), "GONE"},
		{"by user", owner, "?to=2026-02-01&user=" + itoa(managerID), "CHILD"},
		{"by action", owner, "?action=NOWHERE", "NOWHERE"},
		{"by another entity", owner, "?entity=thing&entity_id=8", ""},
		{"by entity", owner, "?entity=thing&entity_id=7&from=2026-01-03", "GONE NOWHERE"},
		{"by day", owner, "?from=2026-01-02&to=2026-01-03", "NOWHERE CHILD"},
		{"by moment", owner, "?from=2026-01-02T10:00:00Z&to=2026-01-03T10:00:00Z", "CHILD"},
		{"manager of the child", manager, "?to=2026-02-01", "CHILD"},
		{"employee", employee, "?to=2026-02-01", ""},
	} {
		a := n.ask(t, http.MethodGet, host, "/audit/activity-logs"+look.query, nil, bearer(look.token))
		expect(t, look.who, a, 200)
		if actions(a) != look.want {
			t.Errorf("%s%s sees %q, want %q", look.who, look.query, actions(a), look.want)
		}
	}
	expect(t, "manager of the child at home", n.ask(t, http.MethodGet, host, "/audit/activity-logs?company="+itoa(n.A.CompanyID), nil, bearer(manager)), 404)
	expect(t, "manager of the child, deleted company", n.ask(t, http.MethodGet, host, "/audit/activity-logs?company="+itoa(gone), nil, bearer(manager)), 404)
	expect(t, "employee at home", n.ask(t, http.MethodGet, host, "/audit/activity-logs?company="+itoa(n.A.CompanyID), nil, bearer(employee)), 403, "permission_denied")
	expect(t, "no such company", n.ask(t, http.MethodGet, host, "/audit/activity-logs?company=999999", nil, bearer(owner)), 404)

	mine := n.ask(t, http.MethodGet, host, "/audit/activity-logs/my", nil, bearer(manager))
	expect(t, "one's own", mine, 200)
	if actions(mine) != "READ CHILD" {
		t.Errorf("the manager's own: %s", actions(mine))
	}
	whole := n.ask(t, http.MethodGet, host, "/audit/activity-logs?action=CHILD", nil, bearer(owner))
	for _, field := range []string{
		`"user":` + itoa(managerID), `"user_display":"Someone"`, `"company":` + itoa(child), `"date":20260102`, `"entity_type":"thing"`, `"entity_id":7`,
		`"old_values":null`, `"new_values":{"a":1}`, `"ip_address":null`, `"created_at":"2026-01-02T10:00:00Z"`,
	} {
		if !strings.Contains(whole.raw, field) {
			t.Errorf("a record lacks %s: %s", field, whole.raw)
		}
	}
}

func TestReadingTheAuditIsRecordedOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	for path, entity := range map[string]string{
		"/audit/activity-logs?company=" + itoa(n.A.CompanyID): "activity_log",
		"/audit/security-logs":                                "security_log",
		"/audit/trends?by=week":                               "activity_log",
		"/audit/activity-logs/my?cursor=&":                    "",
	} {
		exec(t, n.A, "TRUNCATE ledger.activity_logs")
		expect(t, path, n.ask(t, http.MethodGet, hostOf(n.A), path, nil, bearer(owner)), 200)
		got := value[string](t, n.A, "SELECT COALESCE(string_agg(entity_type || ' ' || action || ' ' || user_id, ','), '') FROM ledger.activity_logs")
		want := ""
		if entity != "" {
			want = entity + " READ " + itoa(n.A.OwnerID)
		}
		if got != want {
			t.Errorf("%s is recorded as %q, want %q", path, got, want)
		}
	}
	exec(t, n.A, "TRUNCATE ledger.activity_logs")
	expect(t, "a refused look", n.ask(t, http.MethodGet, hostOf(n.A), "/audit/activity-logs?company=999", nil, bearer(owner)), 404)
	if value[int64](t, n.A, "SELECT count(*) FROM ledger.activity_logs") != 0 {
		t.Error("what was not seen is recorded as seen")
	}
}

func TestCursorsWalkTheWholeLog(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	exec(t, n.A, `INSERT INTO ledger.activity_logs (user_id, user_display, entity_type, action)
		SELECT $1, 'x', 'thing', 'N' || g FROM generate_series(1, 25) g`, n.A.OwnerID)
	var seen []string
	path := "/audit/activity-logs?entity=thing&page_size=10&cursor="
	for range 4 {
		a := n.ask(t, http.MethodGet, host, path, nil, bearer(owner))
		expect(t, path, a, 200)
		if a.number("count") != 25 || a.at("previous") != nil {
			t.Fatalf("%s answers %s", path, a.raw)
		}
		seen = append(seen, strings.Fields(actions(a))...)
		// What is written meanwhile moves nothing.
		exec(t, n.A, "INSERT INTO ledger.activity_logs (user_id, user_display, entity_type, action) VALUES (1, 'x', 'thing', 'LATE')")
		if a.at("next") == nil {
			break
		}
		next, err := url.Parse(a.text("next"))
		if err != nil || next.Host != host || next.Query().Get("entity") != "thing" || next.Query().Has("page") {
			t.Fatalf("the link to what follows: %s", a.text("next"))
		}
		path = next.RequestURI()
	}
	if len(seen) != 25 || seen[0] != "N25" || seen[24] != "N1" {
		t.Errorf("seen: %v", seen)
	}
	expect(t, "the same of the security log", n.ask(t, http.MethodGet, host, "/audit/security-logs?cursor=", nil, bearer(owner)), 200)
	for _, bad := range []string{"x", "MQ", "!", strings.Repeat("A", 100), base64.RawURLEncoding.EncodeToString([]byte{1, 1, 0}), "AQIC AA"} {
		a := n.ask(t, http.MethodGet, host, "/audit/activity-logs?cursor="+url.QueryEscape(bad), nil, bearer(owner))
		expect(t, "cursor "+bad, a, 422)
		if !strings.Contains(a.raw, `"field":"cursor"`) {
			t.Errorf("the refusal of a cursor names %s", a.raw)
		}
	}
	for query, field := range map[string]string{
		"from=yesterday": "from", "to=2026-13-01": "to", "from=2026-02-01&to=2026-01-01": "to", "from=0001-01-01": "from", "to=99999-01-01": "to", "user=x": "user", "entity_id=0": "entity_id",
	} {
		a := n.ask(t, http.MethodGet, host, "/audit/activity-logs?"+query, nil, bearer(owner))
		expect(t, query, a, 422)
		if !strings.Contains(a.raw, `"field":"`+field+`"`) {
			t.Errorf("%s: the refusal names %s", query, a.raw)
		}
	}
}

func TestSecurityLogs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	manager, _ := n.member(t, n.A, "m@example.com", "manager", n.A.CompanyID)
	a := n.ask(t, http.MethodGet, host, "/audit/security-logs?user="+itoa(n.A.OwnerID)+"&from=2026-01-01", nil, bearer(owner))
	expect(t, "security log", a, 200)
	results, _ := a.at("results").([]any)
	if len(results) == 0 {
		t.Fatalf("the login left nothing: %s", a.raw)
	}
	one, _ := results[0].(map[string]any)
	for _, field := range []string{"id", "user", "user_display", "date", "action", "metadata", "ip_address", "created_at"} {
		if _, there := one[field]; !there {
			t.Errorf("a record lacks %s", field)
		}
	}
	if date, _ := one["date"].(float64); int32(date) != value[int32](t, n.A, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')::integer") {
		t.Errorf("the date is %v", one["date"])
	}
	expect(t, "a manager", n.ask(t, http.MethodGet, host, "/audit/security-logs", nil, bearer(manager)), 403)
	b, _ := n.login(t, n.B)
	child := n.ask(t, http.MethodPost, hostOf(n.B), "/company", object{"name": "Works", "parent_company": n.B.CompanyID}, bearer(b)).number("id")
	admin, _ := n.member(t, n.B, "a@example.com", "admin", child)
	expect(t, "an admin elsewhere than at home", n.ask(t, http.MethodGet, hostOf(n.B), "/audit/security-logs", nil, bearer(admin)), 403)
}

func TestTrends(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	exec(t, n.A, "UPDATE public.company_settings SET fiscal_year_start_month = 4 WHERE company_id = $1", n.A.CompanyID)
	record(t, n.A, n.A.CompanyID, 1, "CREATE", "2026-03-31T23:59:59Z")
	record(t, n.A, n.A.CompanyID, 1, "CREATE", "2026-04-01T00:00:00Z")
	record(t, n.A, n.A.CompanyID, 1, "UPDATE", "2026-04-02T00:00:00Z")
	record(t, n.A, nil, 1, "DELETE", "2026-04-02T00:00:00Z")
	record(t, n.B, n.B.CompanyID, 1, "CREATE", "2026-04-02T00:00:00Z")
	company := "&company=" + itoa(n.A.CompanyID)
	for _, want := range []struct {
		query string
		count int64
		parts []string
	}{
		{"by=day&from=2026-03-31&to=2026-04-03" + company, 4, []string{`"period":"2026-04-01","start":"2026-04-01","end":"2026-04-01","actions":{"CREATE":1},"total":1`, `"period":"2026-04-03","start":"2026-04-03","end":"2026-04-03","actions":{},"total":0`}},
		{"by=week&from=2026-03-30&to=2026-04-05" + company, 1, []string{`"period":"2026-W14","start":"2026-03-30","end":"2026-04-05","actions":{"CREATE":2,"UPDATE":1},"total":3`}},
		{"by=month&from=2026-03-01&to=2026-04-30" + company, 2, []string{`"period":"2026-03","start":"2026-03-01","end":"2026-03-31","actions":{"CREATE":1},"total":1`}},
		{"by=quarter&from=2026-01-01&to=2026-06-30", 2, []string{`"period":"2026-Q2","start":"2026-04-01","end":"2026-06-30","actions":{"CREATE":1,"DELETE":1,"UPDATE":1},"total":3`}},
		{"by=fiscal_period&from=2026-03-01&to=2026-04-30" + company, 2, []string{`"period":"FY2026-P12"`, `"period":"FY2027-P01","start":"2026-04-01","end":"2026-04-30","actions":{"CREATE":1,"UPDATE":1},"total":2`}},
		{"by=fiscal_period&from=2026-03-01&to=2026-04-30", 2, []string{`"period":"FY2026-P03"`, `"period":"FY2026-P04"`}},
		{"by=month&from=2026-01-01&to=2026-12-31&page=2&page_size=3" + company, 12, []string{`"period":"2026-04","start":"2026-04-01","end":"2026-04-30","actions":{"CREATE":1,"UPDATE":1},"total":2`}},
		{"", 30, nil},
		{"by=week", 12, nil},
		{"by=fiscal_period" + company, 13, nil},
	} {
		a := n.ask(t, http.MethodGet, host, "/audit/trends?"+want.query, nil, bearer(owner))
		expect(t, want.query, a, 200)
		// The default spans begin in the middle of a period or not, by today's date.
		if got := a.number("count"); got != want.count && (want.parts != nil || got-want.count > 1 || want.count-got > 1) {
			t.Errorf("%s: %d periods, want %d", want.query, got, want.count)
		}
		for _, part := range want.parts {
			if !strings.Contains(a.raw, part) {
				t.Errorf("%s lacks %s:\n%s", want.query, part, a.raw)
			}
		}
	}
	expect(t, "by century", n.ask(t, http.MethodGet, host, "/audit/trends?by=century", nil, bearer(owner)), 422)
}

func TestTheCalendar(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	got := value[string](t, n.A, `SELECT concat_ws(' ', id, full_date, day, day_name, day_of_week, day_of_year, week_of_year, iso_week, month, month_name,
		quarter, year, is_weekend, fiscal_month, fiscal_quarter, fiscal_year) FROM public.date_dimension WHERE id = 20270103`)
	if want := "20270103 2027-01-03 3 Sunday 7 3 1 53 1 January 1 2027 t 1 1 2027"; got != want {
		t.Errorf("the calendar has %q, want %q", got, want)
	}
	if ahead := value[time.Time](t, n.A, "SELECT max(full_date) FROM public.date_dimension"); ahead.Before(time.Now().AddDate(5, 0, 0)) {
		t.Error("the calendar ends in less than five years: call ouvira.extend_calendar in a migration")
	}
	if bytes := value[int64](t, n.A, "SELECT pg_total_relation_size('public.date_dimension')"); bytes > 1_200_000 {
		t.Errorf("the calendar takes %d bytes in every tenant's database", bytes)
	}
}

// What is recorded of entities is decided field by field; a name that sounds
// like a secret is decided here a second time.
func TestSec39TheAuditShowsNoSecrets(t *testing.T) {
	t.Parallel()
	secret := regexp.MustCompile(`(?i)pass|secret|token|hash|key|otp|code|seed|salt|cookie|credential|digest|signature|private|sealed`)
	harmless := []string{
		"permission.code",                                                     // "module.action"
		"department.code", "job_title.code", "location.code", "position.code", // short names of theirs
	}
	shown := audit.Shown()
	if len(shown) < 20 {
		t.Errorf("only %d fields are recorded: %v", len(shown), shown)
	}
	for _, field := range shown {
		_, name, _ := strings.Cut(field, ".")
		if secret.MatchString(name) && !slices.Contains(harmless, field) {
			t.Errorf("the audit records the values of %s: hide it, or say here why it is no secret", field)
		}
	}
}

// The application's role adds to the ledger, column by column, and does
// nothing else to any table there is.
func TestSec41TheLedgerIsAppendOnly(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	conn := testdb.Connect(t, appURL(t, n.A))
	rows, err := conn.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind IN ('r', 'p')")
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
	if len(tables) < 3 {
		t.Fatalf("the ledger has %v", tables)
	}
	denied := []string{
		"INSERT INTO ledger.activity_logs (id, user_display, entity_type, action) OVERRIDING SYSTEM VALUE VALUES (1, 'x', 'x', 'x')",
		"INSERT INTO ledger.security_logs (id, user_display, action) OVERRIDING SYSTEM VALUE VALUES (1, 'x', 'x')",
		"INSERT INTO ledger.activity_logs (user_display, entity_type, action, created_at) VALUES ('x', 'x', 'x', '2020-01-01')",
		"INSERT INTO ledger.activity_logs (user_display, entity_type, action, date) VALUES ('x', 'x', 'x', 20200101)",
		"SELECT nextval('ledger.activity_logs_id_seq')",
		"SELECT setval('ledger.security_logs_id_seq', 1)",
		"DELETE FROM public.date_dimension",
		"CREATE TABLE ledger.t ()",
	}
	for _, table := range tables {
		column := value[string](t, n.A, "SELECT attname FROM pg_attribute WHERE attrelid = ('ledger.' || $1)::regclass AND attnum = 2", table)
		denied = append(denied,
			"UPDATE ledger."+table+" SET "+column+" = "+column,
			"DELETE FROM ledger."+table,
			"TRUNCATE ledger."+table,
			"ALTER TABLE ledger."+table+" DISABLE TRIGGER ALL",
			"DROP TABLE ledger."+table,
			"SELECT "+column+" FROM ledger."+table+" FOR UPDATE",
		)
	}
	for _, statement := range denied {
		if _, err := conn.Exec(t.Context(), statement); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v; want permission denied", statement, err)
		}
	}
}

// appURL is the tenant's database for the login role of the tenant.
func appURL(t *testing.T, tenant tenanttest.Tenant) string {
	t.Helper()
	u, err := url.Parse(tenant.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(tenant.Route.Database, tenant.Password)
	return u.String()
}

// Who did it, and where, is still told when both are gone.
func TestSec43TheAuditOutlivesUserAndCompany(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	founder, id := n.member(t, n.A, "founder@example.com", "employee", n.A.CompanyID)
	company := n.ask(t, http.MethodPost, host, "/company", object{"name": "Short-lived"}, bearer(founder)).number("id")
	exec(t, n.A, `INSERT INTO ledger.activity_logs (user_id, user_display, company_id, entity_type, entity_id, action) VALUES ($1, 'Founder', $2, 'company', $2, 'NAMED')`, id, company)
	exec(t, n.A, "DELETE FROM public.companies WHERE id = $1", company)
	exec(t, n.A, "DELETE FROM public.users WHERE id = $1", id)
	a := n.ask(t, http.MethodGet, host, "/audit/activity-logs?action=NAMED", nil, bearer(owner))
	expect(t, "the audit afterwards", a, 200)
	if !strings.Contains(a.raw, `"user":`+itoa(id)+`,"user_display":"Founder","on_behalf":null,"company":`+itoa(company)) {
		t.Errorf("the record is %s", a.raw)
	}
	security := n.ask(t, http.MethodGet, host, "/audit/security-logs?user="+itoa(id), nil, bearer(owner))
	expect(t, "the security log afterwards", security, 200)
	if !strings.Contains(security.raw, `"user_display":"founder@example.com"`) {
		t.Errorf("the security log has %s", security.raw)
	}
}

func TestSec44ANewlineInAFieldIsOneAuditRecord(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	exec(t, n.A, `INSERT INTO ledger.activity_logs (user_id, user_display, entity_type, action, new_values)
		VALUES ($1, E'x\n{"id":1,"action":"FORGED"}', E'thing\r\n', 'LINES', '{"name": "a\n\"b\""}')`, n.A.OwnerID)
	a := n.ask(t, http.MethodGet, hostOf(n.A), "/audit/activity-logs?action=LINES", nil, bearer(owner))
	expect(t, "the log", a, 200)
	if a.number("count") != 1 || strings.Count(strings.TrimSpace(a.raw), "\n") != 0 || actions(a) != "LINES" {
		t.Errorf("the record is %s", a.raw)
	}
	if lines := strings.Count(n.log.String(), "\n"); lines != strings.Count(n.log.String(), `"level"`) {
		t.Errorf("the node's log has %d lines:\n%s", lines, n.log)
	}
}
