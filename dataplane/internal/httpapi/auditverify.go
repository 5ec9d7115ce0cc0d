package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
)

// Audit is what the API needs to prove, and to have sealed, what it records.
type Audit interface {
	// Kept are the heads of a tenant's audit that are kept outside of its
	// database, the latest first.
	Kept(ctx context.Context, tenant uuid.UUID) ([]audit.Head, error)
	// Served notes that a request may have left records of the tenant.
	Served(tenant uuid.UUID)
}

const (
	// verifiedRows is how many rows one request verifies, about: one that asks
	// for more has to ask again.
	verifiedRows = 250_000
	keptTimeout  = 5 * time.Second
)

// AuditReport says what verifying the audit has found.
type AuditReport struct {
	Valid         bool           `json:"valid" doc:"Nothing was found in what was looked at."`
	Complete      bool           `json:"complete" doc:"All there is from the asked batch on was looked at; otherwise ask again from next."`
	Next          *int64         `json:"next" doc:"The batch to go on from." example:"131"`
	Batches       int64          `json:"batches" doc:"Seals that were looked at." example:"130"`
	Rows          int64          `json:"rows" doc:"Sealed records that were looked at." example:"250112"`
	Unsealed      int64          `json:"unsealed" doc:"Records that are too new to be sealed: nothing is proven of them yet." example:"12"`
	UnsealedSince *time.Time     `json:"unsealed_since" doc:"When the oldest of these was written."`
	Head          string         `json:"head" doc:"SHA-256 of the last seal that was looked at, in hex; empty when there is none." example:"9f2feb0f1ef425b292f2f94bd1d5b1e5d6e7e0c9b3b7b6f2b7f0c1a2d3e4f506"`
	HeadBatch     int64          `json:"head_batch" example:"130"`
	KeptHead      string         `json:"kept_head" doc:"The latest head that is kept outside of the workspace's database; empty when none is yet." example:"9f2feb0f1ef425b292f2f94bd1d5b1e5d6e7e0c9b3b7b6f2b7f0c1a2d3e4f506"`
	KeptBatch     int64          `json:"kept_batch" example:"130"`
	KeptAt        *time.Time     `json:"kept_at"`
	CheckedAt     time.Time      `json:"checked_at"`
	Events        []AuditEvent   `json:"events" doc:"What has happened to the database, as signed in the chain."`
	Problems      []AuditProblem `json:"problems"`
}

// AuditEvent is something that has happened to the database.
type AuditEvent struct {
	Batch    int64           `json:"batch" example:"87"`
	Detail   json.RawMessage `json:"detail" doc:"event is RESTORE or COPY; left_batch is the last batch that a restore has left behind." example:"{\"event\":\"RESTORE\",\"left_batch\":86,\"detail\":\"backup of yesterday\"}"`
	SealedAt time.Time       `json:"sealed_at"`
}

// AuditProblem is one thing that is not as it was sealed.
type AuditProblem struct {
	Batch int64  `json:"batch" doc:"0: it is in no batch." example:"12"`
	Log   string `json:"log" doc:"activity or security; empty: the seals themselves." example:"activity"`
	RowID *int64 `json:"row_id" doc:"The record, where one can be named." example:"48211"`
	What  string `json:"what" example:"The row was changed."`
}

type verifyAuditInput struct {
	From int64 `query:"from" minimum:"1" default:"1" doc:"The batch to begin with. A look that begins later relies on those before."`
}

type verifyAuditOutput struct{ Body AuditReport }

func (s *server) verifyAudit(ctx context.Context, c *caller, in *verifyAuditInput) (*verifyAuditOutput, error) {
	if err := c.tenant.Do(ctx, func(db identity.Conn) error { return c.requireHome(ctx, db) }); err != nil {
		return nil, err
	}
	// The heads first: what is sealed meanwhile only makes the chain longer.
	kept, err := s.keptHeads(ctx, c.tenant.Route.TenantID)
	if err != nil {
		return nil, err
	}
	var report *audit.Report
	err = c.tenant.Do(ctx, func(db identity.Conn) error {
		report, err = audit.Verify(ctx, db, audit.Against{Kept: kept, Keys: c.tenant.Route.Keys, From: in.From, MaxRows: verifiedRows})
		if err != nil {
			return err
		}
		return activityLogs.Did(ctx, db, c.who(), nil, nil, "VERIFY", map[string]any{
			"from": in.From, "batches": report.Batches, "rows": report.Rows, "problems": len(report.Problems),
		})
	})
	if err != nil {
		return nil, err
	}
	return &verifyAuditOutput{auditReportOf(report)}, nil
}

func (s *server) keptHeads(ctx context.Context, tenant uuid.UUID) ([]audit.Head, error) {
	if s.Audit == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, keptTimeout)
	defer cancel()
	kept, err := s.Audit.Kept(ctx, tenant)
	if err != nil {
		return nil, fault.Unavailable("What the audit is verified against cannot be read just now. Try again.").
			Code("audit_heads_unavailable").RetryAfter(keptTimeout).Because(err)
	}
	return kept, nil
}

func auditReportOf(r *audit.Report) AuditReport {
	out := AuditReport{
		Valid: r.Valid(), Complete: r.Next == 0, Batches: r.Batches, Rows: r.Rows, Unsealed: r.Unsealed, UnsealedSince: utc(r.UnsealedSince),
		Head: hex.EncodeToString(r.Head), HeadBatch: r.HeadBatch, CheckedAt: r.CheckedAt,
		Events: make([]AuditEvent, len(r.Events)), Problems: make([]AuditProblem, len(r.Problems)),
	}
	if r.Next != 0 {
		out.Next = &r.Next
	}
	if r.Kept != nil {
		out.KeptHead, out.KeptBatch, out.KeptAt = hex.EncodeToString(r.Kept.Hash), r.Kept.Batch, utc(&r.Kept.StoredAt)
	}
	for i, e := range r.Events {
		out.Events[i] = AuditEvent{Batch: e.Batch, Detail: e.Detail, SealedAt: e.SealedAt.UTC()}
	}
	for i, p := range r.Problems {
		out.Problems[i] = AuditProblem{Batch: p.Batch, Log: p.Log, RowID: p.RowID, What: p.What}
	}
	return out
}
