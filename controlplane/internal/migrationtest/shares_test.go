package migrationtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

// member is a process as the control database sees it: what it keeps to, what
// is open, and what it could use.
type member struct {
	instance    string
	sequence    int64
	share       float64
	limit, open map[uuid.UUID]int
	wanted      map[uuid.UUID]int
}

func newMember() *member {
	return &member{
		instance: instanceName(), share: 1,
		limit: map[uuid.UUID]int{}, open: map[uuid.UUID]int{}, wanted: map[uuid.UUID]int{},
	}
}

func instanceName() string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	var b strings.Builder
	for range 10 {
		b.WriteByte(letters[rand.IntN(len(letters))])
	}
	return b.String()
}

type shareAnswer struct {
	Nodes   int `json:"nodes"`
	Members int `json:"members"`
	Shares  []struct {
		Server uuid.UUID `json:"server"`
		Limit  int       `json:"limit"`
	} `json:"shares"`
}

const leaseShares = "SELECT node.lease_shares($1, 'm-' || $1, 'node', $2, $3::float8::numeric, 1, 1, 2, 0, $4)"

func (m *member) reports(t testing.TB) []byte {
	t.Helper()
	all := []map[string]any{}
	servers := map[uuid.UUID]bool{}
	for _, of := range []map[uuid.UUID]int{m.limit, m.open, m.wanted} {
		for id := range of {
			servers[id] = true
		}
	}
	for id := range servers {
		all = append(all, map[string]any{"server": id, "limit": m.limit[id], "open": m.open[id], "wanted": m.wanted[id]})
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// report makes one report. The answer is the caller's to apply, or to lose.
func (m *member) report(ctx context.Context, t testing.TB, conn *pgx.Conn) (shareAnswer, error) {
	t.Helper()
	m.sequence++
	var a shareAnswer
	err := conn.QueryRow(ctx, leaseShares, m.instance, m.sequence, m.share, m.reports(t)).Scan(&a)
	return a, err
}

func (m *member) apply(a shareAnswer) {
	clear(m.limit)
	for _, s := range a.Shares {
		m.limit[s.Server] = s.Limit
	}
}

// settle reports and applies for all, in turn, so often that nothing changes any
// more.
func settle(t testing.TB, conn *pgx.Conn, all ...*member) shareAnswer {
	t.Helper()
	var last shareAnswer
	for range 4 {
		for _, m := range all {
			a, err := m.report(t.Context(), t, conn)
			if err != nil {
				t.Fatal(err)
			}
			m.apply(a)
			last = a
		}
	}
	return last
}

// budget makes a server of a budget.
func budgetServer(t testing.TB, admin *pgx.Conn, name string, budget int) uuid.UUID {
	t.Helper()
	id := uuid.New()
	_, err := admin.Exec(t.Context(), `INSERT INTO control.servers (id, name, host, port, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
		VALUES ($1, $2, '127.0.0.1', 5432, 100, $3, $4, 150000, '')`, id, name, budget, rand.Int64())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func margin(budget int) int {
	switch {
	case budget < 4:
		return 0
	case budget < 20:
		return 1
	}
	return max(2, (budget+19)/20)
}

// Members join, die, lose answers, keep connections longer than they may, and
// report in parallel: what is granted never exceeds the budget less its margin,
// and neither does what they would hold if all of them used all.
func TestInvariant01GrantedSharesNeverExceedTheBudget(t *testing.T) {
	t.Parallel()
	address := control(t)
	admin := connect(t, address)
	budgets := map[uuid.UUID]int{}
	for i, n := range []int{3, 7, 20, 60} {
		budgets[budgetServer(t, admin, fmt.Sprintf("s%d", i), n)] = n
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var group sync.WaitGroup
	for worker := range 5 {
		conn := connect(t, as(t, address, migrations.NodeRole))
		random := rand.New(rand.NewPCG(seed, uint64(worker)))
		group.Go(func() {
			m := newMember()
			for range 250 {
				for id := range budgets {
					m.wanted[id] = random.IntN(2) * random.IntN(80)
					if limit := m.limit[id]; m.open[id] < limit {
						m.open[id] += random.IntN(limit - m.open[id] + 1)
					} else {
						m.open[id] -= random.IntN(m.open[id] - limit + 1) // slow to let go
					}
					m.open[id] -= random.IntN(m.open[id]/2 + 1)
				}
				a, err := m.report(t.Context(), t, conn)
				if err != nil {
					t.Errorf("%v", err)
					return
				}
				if random.IntN(4) > 0 { // else the answer is lost
					m.apply(a)
				}
				if random.IntN(40) == 0 { // it dies without a word, and is another
					m = newMember()
					m.share = 0.1 + random.Float64()*0.9
				}
				if random.IntN(40) == 0 { // or ends in order
					if _, err := conn.Exec(t.Context(), "SELECT node.release_shares($1)", m.instance); err != nil {
						t.Error(err)
					}
					m = newMember()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for samples := 0; ; samples++ {
		rows, err := admin.Query(t.Context(), "SELECT server_id, sum(granted)::int, sum(greatest(granted, open))::int FROM control.shares GROUP BY 1")
		if err != nil {
			t.Fatal(err)
		}
		var id uuid.UUID
		var granted, held int
		_, err = pgx.ForEachRow(rows, []any{&id, &granted, &held}, func() error {
			if most := budgets[id] - margin(budgets[id]); granted > most || held > most {
				return fmt.Errorf("granted %d, held %d of %d", granted, held, most)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("sample %d: %v", samples, err)
		}
		select {
		case <-done:
			if samples < 20 {
				t.Errorf("only %d samples", samples)
			}
			return
		default:
		}
	}
}

// Shares follow demand: who wants little gets it, the others share the rest
// evenly, and what nobody wants is divided as well.
func TestInvariant01SharesFollowDemand(t *testing.T) {
	t.Parallel()
	address := control(t)
	id := budgetServer(t, connect(t, address), "s", 42) // 39 to give
	conn := connect(t, as(t, address, migrations.NodeRole))
	a, b, c := newMember(), newMember(), newMember()
	want := func(what string, limits ...int) {
		t.Helper()
		if got := settle(t, conn, a, b, c); got.Members != 3 || got.Nodes != 3 {
			t.Errorf("%s: %d members, %d nodes", what, got.Members, got.Nodes)
		}
		// Who gets the odd one is decided by name.
		for i, m := range []*member{a, b, c} {
			if got := m.limit[id]; got != limits[i] && got != limits[i]+1 {
				t.Errorf("%s: %d, %d, %d; want %v", what, a.limit[id], b.limit[id], c.limit[id], limits)
			}
		}
	}
	want("nobody wants any", 13, 13, 13)
	a.wanted[id] = 100
	want("one wants all", 37, 1, 1)
	b.wanted[id], c.wanted[id] = 100, 4
	want("two want all", 17, 17, 4)
	a.wanted[id], b.wanted[id] = 0, 0
	a.open[id] = 10 // idle
	want("idle ones are kept before the rest is shared", 18, 9, 12)
	c.wanted[id] = 100
	want("they are asked for when they are needed", 1, 1, 28)
	a.open[id] = 0
	want("and given when they are closed", 1, 1, 37)
	c.share = 0.25 // of 42
	want("nobody gets more than its most", 14, 14, 10)
}

// A share goes to another only when it is given up: a lower limit counts when
// its owner says that it keeps to it, and has closed what was over it.
func TestInvariant01AShareIsGivenUpByItsOwner(t *testing.T) {
	t.Parallel()
	address := control(t)
	admin := connect(t, address)
	id := budgetServer(t, admin, "s", 22) // 20 to give
	conn := connect(t, as(t, address, migrations.NodeRole))
	first, second := newMember(), newMember()
	settle(t, conn, first)
	if first.limit[id] != 20 {
		t.Fatalf("the only one has %d", first.limit[id])
	}
	first.wanted[id], second.wanted[id] = 100, 100
	step := func(m *member, want int) {
		t.Helper()
		a, err := m.report(t.Context(), t, conn)
		if err != nil {
			t.Fatal(err)
		}
		m.apply(a)
		if m.limit[id] != want {
			t.Errorf("got %d, want %d", m.limit[id], want)
		}
	}
	step(second, 0)
	first.open[id] = 20
	step(first, 10) // told to keep to 10
	step(second, 0) // which nobody knows yet that it does
	first.open[id] = 15
	step(first, 10) // it does, and 15 are open still
	step(second, 5)
	first.open[id] = 10
	step(first, 10)
	step(second, 10)
	// Nobody hears of the first any more: what it holds stays its own.
	if _, err := admin.Exec(t.Context(), "UPDATE control.instances SET last_seen_at = now() - interval '1 hour' WHERE id = $1", first.instance); err != nil {
		t.Fatal(err)
	}
	step(second, 10)
	step(first, 10)
	if _, err := admin.Exec(t.Context(), "UPDATE control.instances SET last_seen_at = now() - interval '1 hour', expelled_at = now() WHERE id = $1", first.instance); err != nil {
		t.Fatal(err)
	}
	step(second, 10)
	if _, err := first.report(t.Context(), t, conn); pg.Code(err) != "OV002" {
		t.Errorf("an expelled one: %v", err)
	}
	if _, err := admin.Exec(t.Context(), "DELETE FROM control.shares WHERE instance_id = $1", first.instance); err != nil {
		t.Fatal(err)
	}
	step(second, 20)
}

func TestInvariant01AReportThatWasOvertakenChangesNothing(t *testing.T) {
	t.Parallel()
	address := control(t)
	id := budgetServer(t, connect(t, address), "s", 22)
	conn := connect(t, as(t, address, migrations.NodeRole))
	m := newMember()
	settle(t, conn, m)
	late := *m
	late.limit, late.sequence = map[uuid.UUID]int{id: 1}, m.sequence-2
	_, err := late.report(t.Context(), t, conn)
	if pg.Code(err) != "OV003" {
		t.Errorf("a late report: %v", err)
	}
	other := newMember()
	a, err := other.report(t.Context(), t, conn)
	if err != nil || a.Shares[0].Limit != 0 {
		t.Errorf("another was given %v of what is granted: %v", a, err)
	}
	stranger := newMember()
	stranger.limit[id] = 3
	if _, err := stranger.report(t.Context(), t, conn); pg.Code(err) != "OV002" {
		t.Errorf("one that holds what nobody gave it: %v", err)
	}
}

// After a restore or a failover the control database may remember less than the
// instances hold: it gives nothing away until they have had time to say so.
func TestInvariant01AnotherHistoryGivesNothingAwayAtFirst(t *testing.T) {
	t.Parallel()
	address := control(t)
	admin := connect(t, address)
	id := budgetServer(t, admin, "s", 22)
	conn := connect(t, as(t, address, migrations.NodeRole))
	mustExec(t, admin, "UPDATE control.share_history SET timeline = timeline + 1")
	forgotten, other := newMember(), newMember()
	forgotten.limit[id] = 15
	settle(t, conn, other)
	if other.limit[id] != 0 {
		t.Errorf("%d were given away", other.limit[id])
	}
	settle(t, conn, forgotten, other)
	if forgotten.limit[id] == 0 || other.limit[id] != 0 {
		t.Errorf("%d and %d", forgotten.limit[id], other.limit[id])
	}
	mustExec(t, admin, "UPDATE control.share_history SET since = clock_timestamp() - interval '"+(16*time.Second).String()+"'")
	settle(t, conn, forgotten, other)
	if forgotten.limit[id] != 10 || other.limit[id] != 10 {
		t.Errorf("%d and %d afterwards", forgotten.limit[id], other.limit[id])
	}
}

// Processes with a fixed share live beside those that lease.
func TestInvariant01FixedSharesCount(t *testing.T) {
	t.Parallel()
	address := control(t)
	admin := connect(t, address)
	id := budgetServer(t, admin, "s", 22)
	conn := connect(t, as(t, address, migrations.NodeRole))
	mustExec(t, conn, "SELECT node.heartbeat('old', 'node', 0.4, 1, 2, 0)") // floor(22 × 0.4) = 8
	m := newMember()
	if a := settle(t, conn, m); m.limit[id] != 12 || a.Nodes != 2 {
		t.Errorf("beside a fixed share of 8 of 20: %d, %d nodes", m.limit[id], a.Nodes)
	}
	if _, err := conn.Exec(t.Context(), "SELECT node.heartbeat('older', 'node', 0.3, 1, 2, 0)"); pg.Code(err) != "OV001" {
		t.Errorf("a fixed share that there is no room for: %v", err)
	}
	mustExec(t, conn, "SELECT node.heartbeat('old', 'node', 0.4, 1, 2, 7)")
	mustExec(t, admin, "UPDATE control.members SET static_until = now() - interval '1 s' WHERE id = 'old'")
	settle(t, conn, m)
	if m.limit[id] != 20 {
		t.Errorf("after the last fixed share: %d", m.limit[id])
	}
}
