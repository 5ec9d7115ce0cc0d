package httpapi_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// office is a company's organization, as its owner changes it.
type office struct {
	*node

	tenant tenanttest.Tenant
	token  string
}

func (o office) send(t *testing.T, method, path string, body any, edits ...edit) answer {
	t.Helper()
	return o.ask(t, method, hostOf(o.tenant), "/organization"+path, body, append(edits, bearer(o.token))...)
}

// made makes one and returns its id.
func (o office) made(t *testing.T, path string, body object) int64 {
	t.Helper()
	if body["company"] == nil {
		body["company"] = o.tenant.CompanyID
	}
	a := o.send(t, http.MethodPost, path, body)
	if a.status != http.StatusCreated {
		t.Fatalf("make one of %s: %d %s", path, a.status, a.raw)
	}
	return a.number("id")
}

func newOffice(t *testing.T) office {
	t.Helper()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	return office{n, n.A, token}
}

// refusesField checks that the answer refuses a field, and why.
func refusesField(t *testing.T, what string, a answer, field, code string) {
	t.Helper()
	if a.status != http.StatusUnprocessableEntity && a.status != http.StatusConflict ||
		!strings.Contains(a.raw, `"field":"`+field+`","code":"`+code+`"`) {
		t.Errorf("%s: got %d %s, want %s refused as %s", what, a.status, a.raw, field, code)
	}
}

func TestEachKindOfTheOrganization(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	department, title := o.made(t, "/departments", object{"name": "Sales"}), o.made(t, "/job-titles", object{"name": "Seller"})
	for path, own := range map[string]object{
		"/departments": {"parent_department": nil, "manager": o.tenant.OwnerID},
		"/job-titles":  {},
		"/locations":   {"address": "1 Harbour Street"},
		"/positions":   {"department": department, "job_title": title, "location": nil, "reports_to": nil, "user": o.tenant.OwnerID},
	} {
		body := object{"company": o.tenant.CompanyID, "name": "  North ", "code": "N", "description": "d"}
		maps.Copy(body, own)
		created := o.send(t, http.MethodPost, path, body)
		expect(t, "POST "+path, created, 201)
		if created.text("name") != "North" || created.at("is_active") != true || created.at("is_deleted") != false || created.at("deleted_at") != nil ||
			created.number("company") != o.tenant.CompanyID || created.text("created_at") == "" || created.header.Get("ETag") == "" {
			t.Errorf("POST %s answers %s", path, created.raw)
		}
		for field := range own {
			if _, there := created.body[field]; !there {
				t.Errorf("POST %s answers without %s", path, field)
			}
		}
		one := path + "/" + itoa(created.number("id"))
		if got := o.send(t, http.MethodGet, one, nil); got.raw != created.raw || got.header.Get("ETag") != created.header.Get("ETag") {
			t.Errorf("GET %s: %d %s", one, got.status, got.raw)
		}
		refusesField(t, "a code that is taken", o.send(t, http.MethodPost, path, func() object { body["code"] = "n"; return body }()), "code", "taken")

		patched := o.send(t, http.MethodPatch, one, object{"name": "South", "is_active": false}, header("If-Match", created.header.Get("ETag")))
		expect(t, "PATCH "+one, patched, 200)
		if patched.text("name") != "South" || patched.at("is_active") != false || patched.text("description") != "d" || patched.text("code") != "N" {
			t.Errorf("PATCH %s answers %s", one, patched.raw)
		}
		delete(body, "company")
		expect(t, "an ETag of before", o.send(t, http.MethodPut, one, body, header("If-Match", created.header.Get("ETag"))), 412)
		expect(t, "PUT without what is required", o.send(t, http.MethodPut, one, object{"description": "x"}), 422)
		body["name"], body["code"] = "West", ""
		replaced := o.send(t, http.MethodPut, one, body)
		expect(t, "PUT "+one, replaced, 200)
		if replaced.text("name") != "West" || replaced.text("code") != "" {
			t.Errorf("PUT %s answers %s", one, replaced.raw)
		}
		expect(t, "the company stays", o.send(t, http.MethodPatch, one, object{"company": 2}), 422)
		expect(t, "what is not one's own", o.send(t, http.MethodPatch, one, object{"deleted_at": nil}), 422)
		expect(t, "a name of spaces", o.send(t, http.MethodPatch, one, object{"name": " "}), 422)

		list := o.send(t, http.MethodGet, path+"?is_active=false&company="+itoa(o.tenant.CompanyID), nil)
		if list.number("count") != 1 || !strings.Contains(list.raw, "West") {
			t.Errorf("GET %s answers %s", path, list.raw)
		}
		expect(t, "DELETE with an ETag of before", o.send(t, http.MethodDelete, one, nil, header("If-Match", created.header.Get("ETag"))), 412)
		expect(t, "DELETE "+one, o.send(t, http.MethodDelete, one, nil), 204)
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			expect(t, method+" what is deleted", o.send(t, method, one, nil), 404)
		}
		expect(t, "PATCH what is deleted", o.send(t, http.MethodPatch, one, object{"name": "x"}), 404)
	}
	actions := value[string](t, o.tenant, `SELECT string_agg(action || ' ' || n, ', ' ORDER BY action) FROM (
		SELECT action, count(*) AS n FROM ledger.activity_logs WHERE entity_type IN ('department', 'job_title', 'location', 'position') AND company_id = $1 GROUP BY action) a`, o.tenant.CompanyID)
	if actions != "CREATE 6, DELETE 4, UPDATE 8" {
		t.Errorf("recorded are %s", actions)
	}
}

func TestTheOrganizationRefersWithinItsCompany(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	elsewhere := companyUnder(t, o.tenant, "North", o.tenant.CompanyID)
	foreign := map[string]int64{
		"departments": o.made(t, "/departments", object{"company": elsewhere, "name": "Theirs"}),
		"job-titles":  o.made(t, "/job-titles", object{"company": elsewhere, "name": "Theirs"}),
		"locations":   o.made(t, "/locations", object{"company": elsewhere, "name": "Theirs"}),
	}
	foreign["positions"] = o.made(t, "/positions", object{"company": elsewhere, "name": "Theirs", "department": foreign["departments"], "job_title": foreign["job-titles"]})
	stranger := o.person(t, o.tenant, "stranger")
	department, title := o.made(t, "/departments", object{"name": "Sales"}), o.made(t, "/job-titles", object{"name": "Seller"})
	position := o.made(t, "/positions", object{"name": "Seller North", "department": department, "job_title": title})
	gone := o.made(t, "/departments", object{"name": "Gone"})
	expect(t, "delete", o.send(t, http.MethodDelete, "/departments/"+itoa(gone), nil), 204)

	for _, c := range []struct {
		path, field string
		value       int64
	}{
		{"/departments/" + itoa(department), "parent_department", foreign["departments"]},
		{"/departments/" + itoa(department), "parent_department", gone},
		{"/departments/" + itoa(department), "parent_department", 999_999},
		{"/departments/" + itoa(department), "manager", stranger.id},
		{"/departments/" + itoa(department), "manager", 999_999},
		{"/positions/" + itoa(position), "department", foreign["departments"]},
		{"/positions/" + itoa(position), "department", gone},
		{"/positions/" + itoa(position), "job_title", foreign["job-titles"]},
		{"/positions/" + itoa(position), "location", foreign["locations"]},
		{"/positions/" + itoa(position), "reports_to", foreign["positions"]},
		{"/positions/" + itoa(position), "user", stranger.id},
	} {
		refusesField(t, c.path, o.send(t, http.MethodPatch, c.path, object{c.field: c.value}), c.field, "unknown")
	}
	if a := o.send(t, http.MethodPatch, "/positions/"+itoa(position), object{"department": nil}); a.number("department") != department {
		t.Errorf("a position without a department: %s", a.raw)
	}

	// The database holds to it too.
	conn := testdb.Connect(t, o.tenant.AdminURL)
	for _, statement := range []string{
		"UPDATE public.departments SET parent_id = $1 WHERE id = $2",
		"UPDATE public.positions SET department_id = $1 WHERE department_id = $2",
	} {
		if _, err := conn.Exec(t.Context(), statement, foreign["departments"], department); pg.Code(err) != "23503" {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if _, err := conn.Exec(t.Context(), "UPDATE public.departments SET manager_id = $1 WHERE id = $2", stranger.id, department); pg.Code(err) != "23503" {
		t.Errorf("a stranger as manager: %v", err)
	}

	// Who leaves the company leaves the post, and nothing else.
	member(t, o.tenant, stranger.id, o.tenant.CompanyID)
	expect(t, "a member", o.send(t, http.MethodPatch, "/departments/"+itoa(department), object{"manager": stranger.id}), 200)
	exec(t, o.tenant, "UPDATE public.user_companies SET is_active = false WHERE user_id = $1", stranger.id)
	expect(t, "renamed under one who is away", o.send(t, http.MethodPatch, "/departments/"+itoa(department), object{"name": "Selling"}), 200)
	exec(t, o.tenant, "DELETE FROM public.user_companies WHERE user_id = $1", stranger.id)
	if a := o.send(t, http.MethodGet, "/departments/"+itoa(department), nil); a.status != 200 || a.at("manager") != nil {
		t.Errorf("after the manager has left: %s", a.raw)
	}
}

func TestNothingIsAboveItself(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	top := o.made(t, "/departments", object{"name": "Top"})
	middle := o.made(t, "/departments", object{"name": "Middle", "parent_department": top})
	low := o.made(t, "/departments", object{"name": "Low", "parent_department": middle})
	for _, below := range []int64{top, middle, low} {
		refusesField(t, "a cycle", o.send(t, http.MethodPatch, "/departments/"+itoa(top), object{"parent_department": below}), "parent_department", "cycle")
	}
	title := o.made(t, "/job-titles", object{"name": "Seller"})
	chief := o.made(t, "/positions", object{"name": "Chief", "department": top, "job_title": title})
	clerk := o.made(t, "/positions", object{"name": "Clerk", "department": low, "job_title": title, "reports_to": chief})
	for _, below := range []int64{chief, clerk} {
		refusesField(t, "a cycle", o.send(t, http.MethodPatch, "/positions/"+itoa(chief), object{"reports_to": below}), "reports_to", "cycle")
	}
	expect(t, "a move that is none", o.send(t, http.MethodPatch, "/departments/"+itoa(low), object{"parent_department": top}), 200)
}

func TestSec30TwoDepartmentsDoNotBecomeEachOthersParent(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	a, b := o.made(t, "/departments", object{"name": "A"}), o.made(t, "/departments", object{"name": "B"})
	// One who does not lock first, as the API does: the database alone decides.
	first, second := testdb.Connect(t, o.tenant.AdminURL), testdb.Connect(t, o.tenant.AdminURL)
	const move = "UPDATE public.departments SET parent_id = $1 WHERE id = $2"
	tx, err := first.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), move, b, a); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		_, err := second.Exec(t.Context(), move, a, b)
		refused <- err
	}()
	waitForLock(t, o.tenant, int64(second.PgConn().PID()))
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; pg.Constraint(err) != "departments_no_cycle_check" {
		t.Errorf("the second: %v", err)
	}
}

func TestWhatIsReferredToIsNotDeleted(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	top := o.made(t, "/departments", object{"name": "Top"})
	low := o.made(t, "/departments", object{"name": "Low", "parent_department": top})
	title, location := o.made(t, "/job-titles", object{"name": "Seller"}), o.made(t, "/locations", object{"name": "Hamburg"})
	chief := o.made(t, "/positions", object{"name": "Chief", "department": low, "job_title": title, "location": location})
	clerk := o.made(t, "/positions", object{"name": "Clerk", "department": low, "job_title": title, "reports_to": chief})
	for _, path := range []string{"/departments/" + itoa(top), "/departments/" + itoa(low), "/job-titles/" + itoa(title), "/locations/" + itoa(location), "/positions/" + itoa(chief)} {
		expect(t, "DELETE "+path, o.send(t, http.MethodDelete, path, nil), 409, "in_use")
	}
	for _, path := range []string{"/positions/" + itoa(clerk), "/positions/" + itoa(chief), "/locations/" + itoa(location), "/job-titles/" + itoa(title), "/departments/" + itoa(low), "/departments/" + itoa(top)} {
		expect(t, "DELETE "+path, o.send(t, http.MethodDelete, path, nil), 204)
	}
}

func TestWhoSeesAndChangesAnOrganization(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	north := companyUnder(t, o.tenant, "North", o.tenant.CompanyID)
	south := companyUnder(t, o.tenant, "South", o.tenant.CompanyID)
	inNorth, inSouth := o.made(t, "/departments", object{"company": north, "name": "Sales"}), o.made(t, "/departments", object{"company": south, "name": "Sales"})
	employee := o.person(t, o.tenant, "employee")
	hold(t, o.tenant, member(t, o.tenant, employee.id, north), seeded(t, o.tenant, "employee"), "subtree")
	theirs := office{o.node, o.tenant, employee.token}

	if list := theirs.send(t, http.MethodGet, "/departments", nil); list.number("count") != 1 || !strings.Contains(list.raw, `"company":`+itoa(north)) {
		t.Errorf("an employee of North lists %s", list.raw)
	}
	if list := o.send(t, http.MethodGet, "/departments", nil); list.number("count") != 2 {
		t.Errorf("the owner lists %s", list.raw)
	}
	expect(t, "one's own", theirs.send(t, http.MethodGet, "/departments/"+itoa(inNorth), nil), 200)
	expect(t, "another company's", theirs.send(t, http.MethodGet, "/departments/"+itoa(inSouth), nil), 404)
	expect(t, "a list of another company", theirs.send(t, http.MethodGet, "/departments?company="+itoa(south), nil), 404)
	expect(t, "a chart of another company", theirs.send(t, http.MethodGet, "/organization/chart?company="+itoa(south), nil), 404)
	expect(t, "make", theirs.send(t, http.MethodPost, "/departments", object{"company": north, "name": "x"}), 403, "permission_denied")
	expect(t, "make in another company", theirs.send(t, http.MethodPost, "/departments", object{"company": south, "name": "x"}), 404)
	expect(t, "change", theirs.send(t, http.MethodPatch, "/departments/"+itoa(inNorth), object{"name": "x"}), 403, "permission_denied")
	expect(t, "delete", theirs.send(t, http.MethodDelete, "/departments/"+itoa(inNorth), nil), 403, "permission_denied")
	expect(t, "change another company's", theirs.send(t, http.MethodPatch, "/departments/"+itoa(inSouth), object{"name": "x"}), 404)

	foreign, _ := o.login(t, o.B)
	atB := office{o.node, o.B, foreign}
	if list := atB.send(t, http.MethodGet, "/departments", nil); list.number("count") != 0 {
		t.Errorf("the owner of B lists %s", list.raw)
	}
	expect(t, "B's owner", atB.send(t, http.MethodGet, "/departments/"+itoa(inNorth), nil), 404)

	exec(t, o.tenant, "UPDATE public.companies SET status = 'deactivated' WHERE id = $1", north)
	expect(t, "read what is deactivated", o.send(t, http.MethodGet, "/departments/"+itoa(inNorth), nil), 200)
	expect(t, "change what is deactivated", o.send(t, http.MethodPatch, "/departments/"+itoa(inNorth), object{"name": "x"}), 409, "company_deactivated")
}

func TestOrganizationChart(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	top := o.made(t, "/departments", object{"name": "Board", "manager": o.tenant.OwnerID})
	low := o.made(t, "/departments", object{"name": "Sales", "parent_department": top})
	title := o.made(t, "/job-titles", object{"name": "Seller"})
	place := o.made(t, "/locations", object{"name": "Hamburg"})
	chief := o.made(t, "/positions", object{"name": "Chief", "department": top, "job_title": title, "user": o.tenant.OwnerID})
	o.made(t, "/positions", object{"name": "Clerk", "department": low, "job_title": title, "location": place, "reports_to": chief})
	expect(t, "without a company", o.send(t, http.MethodGet, "/chart", nil), 422)
	chart := o.send(t, http.MethodGet, "/chart?company="+itoa(o.tenant.CompanyID), nil)
	expect(t, "chart", chart, 200)
	owner := `{"id":` + itoa(o.tenant.OwnerID) + `,"full_name":"Owner of acme"}`
	want := `{"company":` + itoa(o.tenant.CompanyID) + `,"departments":[{"id":` + itoa(top) + `,"name":"Board","code":"","is_active":true,"manager":` + owner +
		`,"positions":[{"id":` + itoa(chief) + `,"name":"Chief","code":"","is_active":true,"job_title":{"id":` + itoa(title) + `,"name":"Seller"},"location":null,"reports_to":null,"user":` + owner +
		`}],"departments":[{"id":` + itoa(low) + `,"name":"Sales","code":"","is_active":true,"manager":null,"positions":[{"id":` + itoa(chief+1) +
		`,"name":"Clerk","code":"","is_active":true,"job_title":{"id":` + itoa(title) + `,"name":"Seller"},"location":{"id":` + itoa(place) + `,"name":"Hamburg"},"reports_to":` + itoa(chief) + `,"user":null}],"departments":[]}]}]}`
	if strings.TrimSpace(chart.raw) != want {
		t.Errorf("got  %s\nwant %s", chart.raw, want)
	}
}
