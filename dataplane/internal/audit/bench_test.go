package audit_test

import (
	"context"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// company is about as large as what is recorded most.
type company struct {
	Name        string  `json:"name" audit:"show"`
	Description string  `json:"description" audit:"show"`
	Address     string  `json:"address" audit:"show"`
	Status      string  `json:"status" audit:"show"`
	Parent      *int64  `json:"parent_company" audit:"show"`
	Logo        *string `json:"logo" audit:"hide"`
}

var companies = audit.Of[company]("bench_test_company")

// BenchmarkChangeWithAndWithoutRecord: what it costs to write down a change in
// its transaction, beside the bare change: the row is locked, read and changed,
// and committed to disk, by eight clients on rows of their own.
func BenchmarkChangeWithAndWithoutRecord(b *testing.B) {
	const clients = 8
	f := tenanttest.New(b)
	u, err := url.Parse(f.A.AdminURL)
	if err != nil {
		b.Fatal(err)
	}
	u.User = url.UserPassword(f.A.Route.Database, f.A.Password)
	db, err := pgxpool.New(b.Context(), u.String()+"&pool_max_conns="+strconv.Itoa(clients))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(db.Close)
	_, err = testdb.Connect(b, f.A.AdminURL).Exec(b.Context(),
		"INSERT INTO public.companies (name, create_by) SELECT 'Company ' || n, $1 FROM generate_series(1, $2) n", f.A.OwnerID, clients)
	if err != nil {
		b.Fatal(err)
	}
	who := audit.Who{UserID: &f.A.OwnerID, Display: "Jane Doe", RequestID: "S4NCDFYXOHVPUALPIGQBDV7JQZ"}
	change := func(worker int, recorded bool) {
		id := f.A.CompanyID + 1 + int64(worker)
		err := pg.InTx(b.Context(), db, func(tx pgx.Tx) error { return rename(b.Context(), tx, id, who, recorded) })
		if err != nil {
			b.Error(err)
		}
	}
	sidebyside.Throughput(b, clients, 9, 1500*time.Millisecond,
		func(worker int) { change(worker, true) },
		func(worker int) { change(worker, false) })
}

func rename(ctx context.Context, tx pgx.Tx, id int64, who audit.Who, recorded bool) error {
	var before company
	err := tx.QueryRow(ctx, "SELECT name, description, address, status, parent_company_id, logo FROM public.companies WHERE id = $1 FOR UPDATE", id).
		Scan(&before.Name, &before.Description, &before.Address, &before.Status, &before.Parent, &before.Logo)
	if err != nil {
		return err
	}
	after := before
	after.Name = "Renamed " + time.Now().Format(time.RFC3339Nano)
	if _, err := tx.Exec(ctx, "UPDATE public.companies SET name = $2, updated_at = now() WHERE id = $1", id, after.Name); err != nil || !recorded {
		return err
	}
	return companies.Updated(ctx, tx, who, &id, id, before, after)
}
