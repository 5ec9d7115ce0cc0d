package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// auditing seals the audits of the tenants that this node serves, and reads
// what is kept of them outside, over a small pool of the control database that
// others use as well.
type auditing struct {
	*audit.Worker
	*audit.ControlHeads

	control *pgxpool.Pool
}

// newAuditing wires it. The control database may be away: what is asked of it
// fails then, and is tried again.
func newAuditing(s settings, log *slog.Logger, registry *prometheus.Registry, routes *directory.Directory, pools *tenantpool.Pools, signer audit.Signer) (*auditing, error) {
	control, err := openControl(s, 4)
	if err != nil {
		return nil, err
	}
	heads := audit.NewControlHeads(control)
	worker, err := audit.NewWorker(audit.WorkerOptions{
		Routes: routes, Seal: audit.NewSealer(heads, signer).Seal, Every: s.AuditSealEvery, Log: log, Registerer: registry,
		Do: func(ctx context.Context, r *route.Route, work func(audit.Conn) error) error {
			lease, err := pools.Background(ctx, r)
			if err != nil {
				return err
			}
			defer lease.Release()
			return work(lease)
		},
	})
	if err != nil {
		control.Close()
		return nil, err
	}
	routes.Subscribe(func(e directory.Event) {
		if e.Old != nil && e.New != nil && e.Old.Incarnation != e.New.Incarnation {
			worker.Replaced(e.New.TenantID)
		}
	})
	return &auditing{worker, heads, control}, nil
}

// start seals until the returned function is called, which waits for what is
// under way.
func (a *auditing) start(ctx context.Context) (stop func()) {
	sealing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		a.Run(sealing)
		close(ended)
	}()
	return func() {
		cancel()
		<-ended
		a.control.Close()
	}
}

// sealedToo is a fleet whose tenants, when this node looks after them, are
// sealed as well: those of nodes that died, and those that nobody has asked for
// in an hour.
type sealedToo struct {
	outbox.Fleet

	served func(tenant uuid.UUID)
}

// ServedBefore implements outbox.Fleet.
func (f sealedToo) ServedBefore(ctx context.Context) ([]uuid.UUID, error) {
	return f.noted(f.Fleet.ServedBefore(ctx))
}

// Orphaned implements outbox.Fleet.
func (f sealedToo) Orphaned(ctx context.Context, most int) ([]uuid.UUID, error) {
	return f.noted(f.Fleet.Orphaned(ctx, most))
}

// Unswept implements outbox.Fleet.
func (f sealedToo) Unswept(ctx context.Context, most int) ([]uuid.UUID, error) {
	return f.noted(f.Fleet.Unswept(ctx, most))
}

func (f sealedToo) noted(tenants []uuid.UUID, err error) ([]uuid.UUID, error) {
	for _, tenant := range tenants {
		f.served(tenant)
	}
	return tenants, err
}

const verifyAuditUsage = `verify-audit proves a tenant's audit against heads from outside of its database:

  dataplane verify-audit [--dsn URL] [--head BATCH:HEX]... [--keys FILE]

  --dsn   the tenant's database, or a restored dump of it; without it the
          environment of libpq counts (PGHOST, PGDATABASE, PGUSER, PGPASSWORD …)
  --head  a head as GET /audit/verify and the control database show it
          (kept_batch:kept_head); may be given more than once. Without one it is
          only shown that the chain agrees with itself.
  --keys  the tenant's public keys as /.well-known/jwks.json gives them

It prints a report (JSON) and fails when something is not as it was sealed.`

// headFlags are the values of --head.
type headFlags []audit.Head

func (h *headFlags) String() string { return "" }

func (h *headFlags) Set(value string) error {
	number, sum, ok := strings.Cut(value, ":")
	batch, errBatch := strconv.ParseInt(number, 10, 64)
	hash, errHash := hex.DecodeString(sum)
	if !ok || errBatch != nil || batch < 1 || errHash != nil || len(hash) != 32 {
		return errors.New("write the number of the batch, a colon, and the head as 64 hexadecimal digits")
	}
	*h = append(*h, audit.Head{Batch: batch, Hash: hash})
	return nil
}

func verifyAudit(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("verify-audit", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	dsn := flags.String("dsn", "", "")
	keyFile := flags.String("keys", "", "")
	var against audit.Against
	flags.Var((*headFlags)(&against.Kept), "head", "")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errors.Join(err, errors.New(verifyAuditUsage))
	}
	if *keyFile != "" {
		raw, err := os.ReadFile(*keyFile)
		if err != nil {
			return fmt.Errorf("read the keys: %w", err)
		}
		var set struct {
			Keys []route.JWK `json:"keys"`
		}
		if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) == 0 {
			return fmt.Errorf("%s holds no keys: it must look like the answer of /.well-known/jwks.json", *keyFile)
		}
		against.Keys = set.Keys
	}
	report, err := verifyAuditAt(ctx, *dsn, against)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(auditReport(report)); err != nil {
		return err
	}
	if !report.Valid() {
		return fmt.Errorf("the audit is not as it was sealed: %d problems", len(report.Problems))
	}
	return nil
}

// verifyAuditAt reads one state of the database: all of it in one snapshot.
func verifyAuditAt(ctx context.Context, dsn string, against audit.Against) (*audit.Report, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("the address of the database is not valid: --dsn wants a postgres:// URL")
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pg.Explain(err), err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return audit.Verify(ctx, tx, against)
}

// auditReport is the report with the names that the API gives it.
func auditReport(r *audit.Report) map[string]any {
	problems := make([]map[string]any, len(r.Problems))
	for i, p := range r.Problems {
		problems[i] = map[string]any{"batch": p.Batch, "log": p.Log, "row_id": p.RowID, "what": p.What}
	}
	events := make([]map[string]any, len(r.Events))
	for i, e := range r.Events {
		events[i] = map[string]any{"batch": e.Batch, "detail": e.Detail, "sealed_at": e.SealedAt.UTC()}
	}
	return map[string]any{
		"valid": r.Valid(), "complete": r.Next == 0, "tenant": r.Tenant, "batches": r.Batches, "rows": r.Rows, "unsealed": r.Unsealed,
		"head": hex.EncodeToString(r.Head), "head_batch": r.HeadBatch, "against_head": r.Kept != nil, "checked_at": r.CheckedAt,
		"events": events, "problems": problems,
	}
}
