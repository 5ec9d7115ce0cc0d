package httpapi

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/page"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/httpserver"
)

// importPath takes archives of any length.
const importPath = "/v1/imports"

// Backup of a tenant's database.
type Backup struct {
	ID              uuid.UUID  `json:"id" format:"uuid"`
	TenantID        uuid.UUID  `json:"tenant_id" format:"uuid"`
	OperationID     *uuid.UUID `json:"operation_id" doc:"Which took it; null: it was imported."`
	Reason          string     `json:"reason" example:"schedule" doc:"manual, schedule, delete, clone, export or import."`
	Status          string     `json:"status" enum:"running,complete,failed,removed"`
	Incarnation     int        `json:"incarnation" doc:"Which of the tenant's databases it is of."`
	SchemaVersion   int64      `json:"schema_version"`
	PostgresVersion int        `json:"postgres_version" example:"150018"`
	Size            int64      `json:"size" doc:"Bytes in the storage."`
	SHA256          string     `json:"sha256" doc:"Of the sealed file in the storage, in hex."`
	CreatedAt       time.Time  `json:"created_at"`
	FinishedAt      *time.Time `json:"finished_at"`
}

type listBackupsInput struct {
	TenantPath
	Paging
}

func (a *api) listBackups(ctx context.Context, in *listBackupsInput) (*body[List[Backup]], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	after, err := page.Parse(in.Cursor, newestFirst)
	if err != nil {
		return nil, err
	}
	before := uuid.Nil
	if after != nil {
		before = uuid.MustParse(after.ID) // page.Parse has looked
	}
	found, err := a.Backups.List(ctx, t.ID, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(found) > in.Limit {
		found = found[:in.Limit]
		next = page.Cursor{Sort: newestFirst, ID: found[in.Limit-1].ID.String()}.String()
	}
	items := make([]Backup, 0, len(found))
	for _, b := range found {
		items = append(items, Backup(b))
	}
	return listed(items, next), nil
}

type emptyInput struct {
	TenantPath

	Body *struct{} // may be absent
}

func (a *api) backupTenant(ctx context.Context, in *emptyInput) (*body[OperationOnly], error) {
	return a.startBackup(ctx, in.TenantPath, backup.KindTake)
}

func (a *api) exportTenant(ctx context.Context, in *emptyInput) (*body[OperationOnly], error) {
	return a.startBackup(ctx, in.TenantPath, backup.KindExport)
}

func (a *api) startBackup(ctx context.Context, in TenantPath, kind string) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in)
	if err != nil {
		return nil, err
	}
	id, err := a.Backups.Start(ctx, actorOf(ctx), t.ID, kind)
	return a.started(ctx, id, err)
}

func (a *api) started(ctx context.Context, id uuid.UUID, err error) (*body[OperationOnly], error) {
	if err != nil {
		return nil, err
	}
	o, err := a.Operations.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &body[OperationOnly]{OperationOnly{operationOf(o)}}, nil
}

// MaybeTenantAndOperation is the answer of what takes long and may make a tenant.
type MaybeTenantAndOperation struct {
	Tenant    *Tenant   `json:"tenant,omitempty" doc:"The new one, if one is made."`
	Operation Operation `json:"operation"`
}

type restoreInput struct {
	TenantPath

	Body struct {
		BackupID uuid.UUID `json:"backup_id" format:"uuid"`
		AsSlug   *string   `json:"as_slug,omitempty" doc:"Makes a new tenant of this slug and leaves this one alone; absent: in place."`
	}
}

func (a *api) restoreTenant(ctx context.Context, in *restoreInput) (*body[MaybeTenantAndOperation], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	if in.Body.AsSlug != nil { // one that is empty is refused like any bad slug: nobody meant to replace the database
		return a.copied(ctx)(a.Backups.RestoreAs(ctx, actorOf(ctx), t.ID, in.Body.BackupID, *in.Body.AsSlug))
	}
	id, err := a.Backups.Restore(ctx, actorOf(ctx), t.ID, in.Body.BackupID)
	answer, err := a.started(ctx, id, err)
	if err != nil {
		return nil, err
	}
	return &body[MaybeTenantAndOperation]{MaybeTenantAndOperation{Operation: answer.Body.Operation}}, nil
}

// copied answers with a new tenant and the operation that makes it.
func (a *api) copied(ctx context.Context) func(tenant.Tenant, uuid.UUID, error) (*body[MaybeTenantAndOperation], error) {
	return func(made tenant.Tenant, id uuid.UUID, err error) (*body[MaybeTenantAndOperation], error) {
		answer, err := a.started(ctx, id, err)
		if err != nil {
			return nil, err
		}
		t := tenantOf(made)
		return &body[MaybeTenantAndOperation]{MaybeTenantAndOperation{Tenant: &t, Operation: answer.Body.Operation}}, nil
	}
}

type cloneInput struct {
	TenantPath

	Body struct {
		Slug    string `json:"slug" example:"acme-sandbox" doc:"First part of the new tenant's address."`
		Sandbox bool   `json:"sandbox,omitempty" doc:"Its mail and SMS go nowhere."`
	}
}

func (a *api) cloneTenant(ctx context.Context, in *cloneInput) (*body[MaybeTenantAndOperation], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return a.copied(ctx)(a.Backups.Clone(ctx, actorOf(ctx), t.ID, in.Body.Slug, in.Body.Sandbox))
}

type downloadInput struct {
	ID        uuid.UUID `path:"id" format:"uuid"`
	Recipient string    `query:"recipient" maxLength:"4096" doc:"An age public key to seal the archive to." example:"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"`
}

// downloadBackup streams a portable archive. What goes wrong after the beginning ends
// the connection: an archive that came to its end is whole.
func (a *api) downloadBackup(ctx context.Context, in *downloadInput) (*huma.StreamResponse, error) {
	archive, err := a.Backups.Export(ctx, actorOf(ctx), in.ID, in.Recipient)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		r, w := humachi.Unwrap(hctx)
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{}) // nothing more is read; the deadline would end ctx
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", `attachment; filename="`+archive.Name+`"`)
		w.Header().Set("Cache-Control", "no-store")
		if err := archive.Write(r.Context(), patientWriter{w, control}); err != nil {
			a.options.Log.WarnContext(r.Context(), "an export broke off", "backup_id", in.ID, "error", err)
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

// transferPatience bounds one read or write of an archive, which as a whole may take
// hours.
const transferPatience = time.Minute

// answerPatience leaves an import the time to prove what it was sent.
const answerPatience = time.Hour

type patientWriter struct {
	io.Writer

	control *http.ResponseController
}

// Write implements io.Writer.
func (p patientWriter) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(transferPatience))
	return p.Writer.Write(b)
}

type patientReader struct {
	io.Reader

	control *http.ResponseController
}

// Read implements io.Reader.
func (p patientReader) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(transferPatience))
	_ = p.control.SetWriteDeadline(time.Now().Add(answerPatience)) // of the answer, after the last
	return p.Reader.Read(b)
}

type importInput struct {
	Slug string `query:"slug" required:"true" maxLength:"63" doc:"First part of the new tenant's address."`
	Name string `query:"name" maxLength:"200" doc:"As it was where the archive comes from, if absent."`
	Plan string `query:"plan" maxLength:"100" doc:"Code of the plan; the standard one if absent."`

	archive io.Reader
}

// Resolve implements huma.Resolver: the body is read as it comes.
func (in *importInput) Resolve(hctx huma.Context) []error {
	r, w := humachi.Unwrap(hctx)
	in.archive = patientReader{r.Body, http.NewResponseController(w)}
	return nil
}

func (a *api) importTenant(ctx context.Context, in *importInput) (*body[MaybeTenantAndOperation], error) {
	made, id, err := a.Backups.Import(ctx, actorOf(ctx), backup.Imported{Slug: in.Slug, Name: in.Name, Plan: in.Plan}, in.archive)
	if err == nil {
		httpserver.Annotate(ctx, "tenant", made.ID.String())
	}
	return a.copied(ctx)(made, id, err)
}

// BackupRule says how often the tenants of a plan are backed up.
type BackupRule struct {
	Plan          string `json:"plan" doc:"Code."`
	IntervalHours int    `json:"interval_hours" doc:"0: none are taken by themselves."`
	Keep          int    `json:"keep" doc:"So many of a tenant at most."`
	KeepDays      int    `json:"keep_days" doc:"So long at most; the last one is kept for longer."`
}

func (a *api) listBackupRules(ctx context.Context, _ *struct{}) (*body[List[BackupRule]], error) {
	rules, err := a.Backups.Rules(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]BackupRule, 0, len(rules))
	for _, r := range rules {
		items = append(items, BackupRule(r))
	}
	return listed(items, ""), nil
}

type setBackupRuleInput struct {
	Plan string `path:"plan" maxLength:"100" doc:"Code."`
	Body struct {
		IntervalHours int `json:"interval_hours" example:"24"`
		Keep          int `json:"keep" example:"14"`
		KeepDays      int `json:"keep_days" example:"30"`
	}
}

func (a *api) setBackupRule(ctx context.Context, in *setBackupRuleInput) (*body[List[BackupRule]], error) {
	r := backup.Rule{Plan: in.Plan, IntervalHours: in.Body.IntervalHours, Keep: in.Body.Keep, KeepDays: in.Body.KeepDays}
	if err := a.Backups.SetRule(ctx, actorOf(ctx), r); err != nil {
		return nil, err
	}
	return a.listBackupRules(ctx, nil)
}
