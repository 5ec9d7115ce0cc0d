package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/testdb"
)

// field reads a field of a document that a command has shown.
func field(t *testing.T, document, name string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(document), &fields); err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	text, _ := fields[name].(string)
	return text
}

// Every command is shown as a person sees it, in every format, with the errors that
// people meet, against a control plane with a tenant server.
func TestGolden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := newTerminal(t)
	leaves := m.helps("")
	m.golden("help")
	m.documented(leaves)
	m.env["OUVIRA_URL"] = w.url
	m.session()
	m.servers(w)
	m.plans()
	m.keys(w)
	m.tenants(w)
	m.backups(w)
	m.operations(w)
	m.domains(w)
	m.people(w)
	m.webhooks()
	m.signups(w)
	m.money(w)
	m.complete(w)
	m.ending(w)
	// Straight on the control database, and after that was lost: the end-to-end tests.
	outside := []string{"operator create", "tenant adopt"}
	fallible := []string{"doctor", "version", "logout", "operation list", "server list", "plan list", "pool list", "tenant list", "webhook list", "operator list", "apikey list", "backup rules", "signup list", "key list", "2fa enable"}
	for _, leaf := range leaves {
		if !m.worked[leaf] && !slices.Contains(outside, leaf) && !strings.HasPrefix(leaf, "2fa ") && leaf != "support enter" {
			t.Errorf("%q is not shown doing its work", leaf)
		}
		if !m.failed[leaf] && !slices.Contains(fallible, leaf) && !slices.Contains(outside, leaf) {
			t.Errorf("%q is not shown with an error", leaf)
		}
	}
}

func (m *terminal) session() {
	m.run("tenant list")
	m.run("login")
	m.typing("wrong password of hers\n", "login --email ada@ouvira.example --password-stdin")
	m.typing(password+"\n", "login --email ada@ouvira.example --password-stdin")
	m.run("version")
	m.run("fly")
	m.run("tenant fly")
	m.run("tenant list -o xml")
	m.run("tenant list --fast")
	m.run("tenant show")
	m.run("tenant list --url not-an-address")
	m.env["OUVIRA_TOKEN"] = "not a token"
	m.run("tenant list")
	delete(m.env, "OUVIRA_TOKEN")
	m.golden("session")
}

func (m *terminal) servers(w *world) {
	s := fleettest.TenantServer(m.t, testdb.System)
	m.run("server list")
	m.run("doctor")
	m.run("server add a")
	m.typing("", "server add a --postgres-url -")
	m.typing("postgres://x@127.0.0.1:1/postgres\n", "server add a --postgres-url - --tls-mode disable")
	m.typing(s.ProvisionerURL+"\n", "server add a --postgres-url - --databases 20 --connections 40 --region here")
	m.typing(s.ProvisionerURL+"\n", "server add a --postgres-url -")
	m.formats("server list")
	m.formats("server show a")
	m.run("server show z")
	m.run("server set a")
	m.run("server set a --address nowhere")
	m.run("server set a --status sleeping")
	m.run("server set a --databases 30")
	m.run("server prepare a --postgres-url postgres://x@127.0.0.1:1/postgres")
	m.run("server drain z")
	m.run("server drain a")
	m.run("server drain a")
	m.run("server activate a")
	m.run("server activate z")
	m.formats("pool list")
	m.run("pool resize a many")
	m.run("pool resize z 1")
	m.formats("pool resize a 0")
	m.run("server remove z")
	m.run("server remove a")
	m.run("server set a --status offline")
	m.run("server remove a")
	w.exec(m.t, "DELETE FROM control.operations") // the drain
	m.run("server remove a")
	m.run("server list")
	m.typing(s.ProvisionerURL+"\n", "server add a --postgres-url - --databases 30 --connections 40 --region here")
	m.golden("server")
}

func (m *terminal) plans() {
	m.run("plan create small --connections 5 --storage-mb 100 --users 10 --over-quota refuse --limit login_per_address=30")
	m.run("plan create small")
	m.run("plan create Big!")
	m.formats("plan list")
	m.formats("plan show small")
	m.run("plan show none")
	m.run("plan update small --limit nonsense")
	m.run("plan update small --statement-timeout 1 --over-quota shout --limit unheard_of=1")
	m.run("plan update small --name Small --retention-days 7 --lapse suspend --grace-days 3")
	m.run("plan delete standard")
	m.run("plan create short")
	m.run("plan delete short")
	m.formats("backup rules")
	m.run("backup rule small --every-hours 6 --keep 10")
	m.run("backup rule none")
	m.golden("plan")
}

const owner = ` --owner-email grace@acme.example --owner-name "Grace Hopper"`

func (m *terminal) tenants(w *world) {
	m.run("tenant create acme")
	m.run("tenant create Acme! --name Acme" + owner)
	stop := w.working(m.t)
	m.run("tenant create acme --name Acme" + owner + " --wait")
	stop()
	m.run("tenant create acme --name Acme" + owner)
	m.run("tenant create globex --name Globex" + owner + " --server z")
	m.run("tenant create globex --name Globex" + owner + " --plan small -o json")
	m.formats("tenant list --sort slug")
	m.run("tenant list -q acm --status active")
	m.run("tenant list --sort size")
	m.formats("tenant show acme")
	m.run("tenant show initech")
	m.run("tenant set acme")
	m.run("tenant set acme --plan none")
	m.run("tenant set acme --plan small")
	m.run("tenant suspend acme")
	m.run(`tenant suspend acme --reason "Unpaid since June."`)
	m.run(`tenant suspend acme --reason "Again."`)
	stop = w.working(m.t)
	m.waits(w, "tenant.fence")
	m.run("tenant resume acme")
	m.run("tenant resume acme")
	m.run("tenant sign-out-everyone acme")
	m.run("tenant sign-out-everyone initech")
	m.run("tenant retry acme")
	stop()
	w.exec(m.t, "UPDATE control.tenants SET status = 'failed', status_reason = 'No server has room.' WHERE slug = 'globex'")
	w.exec(m.t, "UPDATE control.operations SET status = 'failed' WHERE status = 'queued'")
	stop = w.working(m.t)
	m.run("tenant retry globex --wait")
	stop()
	m.run("tenant move acme --server a")
	m.run("tenant move acme --server z")
	m.run("tenant move acme")
	m.run("tenant adopt acme --server a")
	m.run("tenant adopt 01900000-0000-7000-8000-000000000000 --server a")
	m.run("tenant adopt 01900000-0000-7000-8000-000000000000")
	m.golden("tenant")
}

// waits for the end of all operations of a kind.
func (m *terminal) waits(w *world, kind string) {
	m.t.Helper()
	for fleettest.One[bool](m.t, w.Pool, "SELECT EXISTS (SELECT FROM control.operations WHERE kind = $1 AND status IN ('queued', 'running'))", kind) {
		if !pause.For(m.t.Context(), 20*time.Millisecond) {
			m.t.Fatal("the test has ended")
		}
	}
}

func (m *terminal) backups(w *world) {
	m.run("backup list acme")
	m.run("backup list initech")
	m.run("tenant backup acme")
	m.run("tenant backup acme")
	w.exec(m.t, "DELETE FROM control.operations WHERE kind = 'tenant.backup'")
	stop := w.working(m.t)
	id := field(m.t, m.run("tenant backup acme --wait -o json"), "id")
	m.formats("backup list acme")
	m.run("tenant restore acme")
	m.run("tenant restore acme --backup 01900000-0000-7000-8000-000000000000")
	m.run("tenant restore acme --backup " + id + " --as globex")
	m.run("tenant restore acme --backup " + id + " --wait")
	m.run("tenant clone acme")
	m.run("tenant clone acme globex")
	m.run("tenant clone acme acme-try --sandbox --wait")
	archive := filepath.Join(m.t.TempDir(), "acme.tar")
	m.run("tenant export acme -f " + archive)
	m.run("tenant export acme -f " + archive)
	m.run("tenant import nothing.tar --slug acme-again")
	m.run("tenant import " + archive)
	m.run("tenant import " + archive + " --slug acme-again --wait")
	stop()
	text := strings.ReplaceAll(m.paper.String(), archive, "acme.tar")
	m.paper.Reset()
	m.paper.WriteString(text)
	m.golden("backup")
}

func (m *terminal) operations(w *world) {
	newest := func(condition string) string {
		return fleettest.One[string](m.t, w.Pool, "SELECT id::text FROM control.operations WHERE "+condition+" ORDER BY id DESC LIMIT 1")
	}
	m.run("tenant clone acme acme-copy -o json")
	id := newest("kind = 'tenant.clone'")
	m.run("operation list --limit 3")
	m.formats("operation list --status queued")
	m.formats("operation show " + id)
	m.run("operation show 01900000-0000-7000-8000-000000000000")
	m.run("operation watch 01900000-0000-7000-8000-000000000000")
	m.run("operation cancel 01900000-0000-7000-8000-000000000000")
	stop := w.working(m.t)
	m.run("operation cancel " + id + " --wait")
	m.run("operation cancel " + id)
	m.run("operation watch " + id)
	m.run("operation list --status cancelled --kind tenant.clone")
	m.run("operation list --status sleeping")
	m.run("operation list --unresolved")
	stop()
	m.run("operation watch " + newest("kind = 'tenant.clone' AND status = 'succeeded'"))
	m.golden("operation")
}

// keys are rotated, with nothing to do.
func (m *terminal) keys(w *world) {
	m.formats("key list")
	m.run("key rotate")
	m.run("key rotate both")
	stop := w.working(m.t)
	m.run("key rotate control --wait")
	stop()
	m.run("key rotate data")
	m.run("key rotate data")
	stop = w.working(m.t)
	for deadline := time.Now().Add(time.Minute); fleettest.One[int](m.t, w.Pool, "SELECT count(*) FROM control.operations WHERE finished_at IS NULL") > 0; {
		if !pause.For(m.t.Context(), 20*time.Millisecond) || time.Now().After(deadline) {
			m.t.Fatal("the rotation does not end")
		}
	}
	stop()
	m.golden("key")
}

func (m *terminal) domains(w *world) {
	m.run("domain add acme")
	m.run("domain add initech shop.acme.example")
	m.run(`domain add acme "not a name"`)
	shown := m.run("domain add acme shop.acme.example -o json")
	m.run("domain add acme shop.acme.example")
	m.run("domain verify acme shop.acme.example")
	m.run("domain check acme shop.acme.example")
	m.run("domain primary acme shop.acme.example")
	m.run("domain verify acme other.acme.example")
	var d struct {
		DNS struct{ Name, Value string } `json:"dns"`
	}
	if err := json.Unmarshal([]byte(shown), &d); err != nil {
		m.t.Fatal(err)
	}
	w.zone[d.DNS.Name] = d.DNS.Value
	m.run("domain verify acme shop.acme.example")
	m.run("domain check acme shop.acme.example -o json")
	m.run("domain primary acme shop.acme.example")
	m.formats("domain list acme")
	m.run("domain list initech")
	m.run("domain check acme other.acme.example")
	m.run("domain primary acme shop.acme.example --unset")
	m.run("domain remove acme other.acme.example")
	m.run("domain remove acme shop.acme.example")
	text := strings.ReplaceAll(m.paper.String(), d.DNS.Value, strings.Repeat("0", len(d.DNS.Value)))
	m.paper.Reset()
	m.paper.WriteString(text)
	m.golden("domain")
}

func (m *terminal) people(w *world) {
	m.run("operator invite grace@ouvira.example")
	m.run("operator invite grace@ouvira.example --role king")
	m.formats(`operator invite grace@ouvira.example --role operator --name "Grace Hopper"`)
	m.formats("operator list")
	m.formats("operator list --invited")
	m.run("operator role nobody@ouvira.example support")
	m.run("operator role ada@ouvira.example support")
	w.exec(m.t, `INSERT INTO control.operators (id, email, full_name, role, password_hash)
		SELECT gen_random_uuid(), 'alan@ouvira.example', 'Alan Turing', 'operator', password_hash FROM control.operators`)
	m.run("operator role alan@ouvira.example support")
	m.run("operator deactivate alan@ouvira.example")
	m.run("operator activate alan@ouvira.example")
	m.run("operator deactivate nobody@ouvira.example")
	m.run("operator activate nobody@ouvira.example")
	m.run("apikey create nightly")
	m.run("apikey create nightly --scope tenant.fly")
	m.run("operator uninvite eve@ouvira.example")
	m.run("operator uninvite grace@ouvira.example")
	m.run("operator reset-2fa eve@ouvira.example")
	m.run("operator reset-2fa alan@ouvira.example")
	m.run("audit list --limit 2")
	m.run("audit list --tenant no-such-tenant")
	key := m.run("apikey create nightly --scope tenant.read,tenant.backup -o json")
	m.formats("apikey list")
	m.run("apikey revoke 01900000-0000-7000-8000-000000000000")
	m.run("apikey revoke " + field(m.t, key, "id"))
	enrolled := m.run("2fa enable -o json")
	m.run("2fa confirm 000000")
	m.typing(password+"\n", "2fa disable --otp 000000 --password-stdin")
	m.run(`support enter acme`)
	m.run(`support enter acme --reason "Ticket 4711"`)
	m.run(`support enter acme --reason "Ticket 4711" --break-glass`)
	text := m.paper.String()
	secret := field(m.t, enrolled, "secret")
	text = strings.ReplaceAll(text, enrolled, "(shown once)\n")
	if strings.Contains(text, secret) {
		m.t.Error("the secret of the second factor is shown twice")
	}
	text = strings.ReplaceAll(text, field(m.t, key, "key"), "KEY")
	text = strings.ReplaceAll(text, field(m.t, key, "prefix"), "PREFIX")
	m.paper.Reset()
	m.paper.WriteString(text)
	m.golden("people")
}

func (m *terminal) webhooks() {
	m.run("webhook add https://hooks.example.com/x")
	m.run("webhook add http://10.0.0.1/x --event tenant.created")
	m.run("webhook add https://hooks.example.com/x --event tenant.flies")
	id := field(m.t, m.run("webhook add https://hooks.example.com/x --event tenant.created,tenant.deleted -o json"), "id")
	m.formats("webhook list")
	m.run("webhook test 01900000-0000-7000-8000-000000000000")
	sent := field(m.t, m.run("webhook test "+id+" -o json"), "id")
	m.formats("webhook deliveries " + id)
	m.run("webhook deliveries " + id + " --status lost")
	m.run("webhook redeliver " + sent)
	m.run("webhook redeliver 01900000-0000-7000-8000-000000000000")
	m.run("webhook disable " + id)
	m.run("webhook disable 01900000-0000-7000-8000-000000000000")
	m.run("webhook activate " + id)
	m.run("webhook activate 01900000-0000-7000-8000-000000000000")
	m.run("webhook remove 01900000-0000-7000-8000-000000000000")
	m.run("webhook remove " + id)
	m.golden("webhook")
}

func (m *terminal) signups(w *world) {
	for i, slug := range []string{"initech", "hooli"} {
		w.exec(m.t, `INSERT INTO control.signups (id, company_name, slug, full_name, email, status, password_hash, expires_at)
			VALUES ($2, initcap($1), $1, 'Bill Lumbergh', $1 || '@initech.example', 'pending_approval', 'x', now() + interval '1 day')`,
			slug, fmt.Sprintf("01a00000-0000-7000-8000-%012d", i))
	}
	id := func(slug string) string {
		return fleettest.One[string](m.t, w.Pool, "SELECT id::text FROM control.signups WHERE slug = $1", slug)
	}
	m.formats("signup list")
	m.run("signup list --status lost")
	m.run("signup approve " + id("initech"))
	m.run("signup approve " + id("initech"))
	m.run("signup reject " + id("hooli"))
	m.run(`signup reject ` + id("hooli") + ` --reason "We know this name."`)
	m.run("signup list --status rejected")
	m.golden("signup")
}

func (m *terminal) money(w *world) {
	pay := "tenant pay acme --amount 1200.00 --currency EUR --reference invoice-3 --period-end " + time.Now().AddDate(1, 0, 0).Format(time.DateOnly)
	m.run("tenant pay acme --amount 1200.00")
	m.run("tenant pay acme --amount much --currency EUR --period-end 2099-12-31 --reference invoice-2")
	m.formats(pay)
	m.formats("tenant payments acme")
	m.run("tenant payments nobody")
	w.exec(m.t, `INSERT INTO control.usage_hours (tenant_id, hour, database_bytes, connections, requests, errors, logins)
		SELECT id, '2026-06-01 10:00Z', 9437184, 3, 1234, 1, 17 FROM control.tenants WHERE slug = 'acme'`)
	m.formats("tenant usage acme --from 2026-06-01 --to 2026-06-02 --by hour")
	m.run("tenant usage acme --by minute")
	m.run("tenant usage nobody")
	m.golden("money")
}

func (m *terminal) complete(w *world) {
	for _, line := range []string{
		`__complete ""`, `__complete tenant ""`, `__complete tenant s`, `__complete tenant show ""`, `__complete tenant show acme-`, `__complete tenant show acme ""`,
		`__complete tenant move acme --server ""`, `__complete tenant move acme --""`, `__complete tenant list --status ""`, `__complete tenant list -o ""`, `__complete tenant create x --plan ""`,
		`__complete plan show ""`, `__complete plan create ""`, `__complete server drain ""`, `__complete operation list --status c`, `__complete domain list ""`,
		`__complete operator role ada@ouvira.example ""`, `__complete pool resize ""`, `__complete tenant import ""`,
	} {
		m.run(line)
	}
	first := fleettest.One[string](m.t, w.Pool, "SELECT id::text FROM control.operations ORDER BY id DESC LIMIT 1")
	if shown := m.run(`__complete operation watch ""`); !strings.Contains(shown, first+"\t") {
		m.t.Errorf("operations are not completed: %s", shown)
	}
	text, _, _ := strings.Cut(m.paper.String(), "$ ouvira __complete operation watch")
	m.paper.Reset()
	m.paper.WriteString(text)
	away := m.env["OUVIRA_URL"]
	m.env["OUVIRA_URL"] = "http://127.0.0.1:1"
	m.run(`__complete tenant show ""`)
	m.env["OUVIRA_URL"] = away
	m.golden("completion")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if script := m.run("completion " + shell); !strings.Contains(script, "__complete") {
			m.t.Errorf("%s: %s", shell, script)
		}
	}
	m.paper.Reset()
}

func (m *terminal) ending(w *world) {
	m.typing("something else\n", "tenant delete acme-again")
	m.run("tenant delete nobody --confirm nobody")
	m.run("tenant purge acme --confirm acme")
	m.run("tenant undelete acme")
	m.run("tenant rotate nobody")
	stop := w.working(m.t)
	m.run("tenant rotate acme-again --wait")
	m.run("tenant rotate acme-again --at-once")
	m.run("tenant rotate acme-again --signing-key --at-once --wait")
	m.run("tenant delete acme-again --confirm acme-again --wait")
	m.run("tenant delete acme-again --confirm acme-again")
	m.run("tenant undelete acme-again --wait")
	m.run("tenant delete acme-again --confirm acme-again --wait")
	m.run("tenant purge acme-again --confirm acme-again --wait")
	stop()
	m.run("doctor --url nowhere")
	shown := m.paper.Len()
	m.run("doctor") // what it finds is of the version of Postgres
	m.run("doctor --fix -o json")
	m.paper.Truncate(shown)
	m.run("logout")
	m.run("tenant list")
	s := fleettest.TenantServer(m.t, testdb.System)
	m.typing(password+"\n", "login --email ada@ouvira.example --password-stdin")
	m.typing(s.URL()+"\n", "server prepare a --postgres-url -")
	m.golden("ending")
}
