// Package backup takes backups of tenants' databases, and makes databases of them
// again: in place of the tenant's own, as a new tenant, as a clone or a sandbox, or
// at another installation.
//
// A backup is one file of the storage: what pg_dump writes, sealed with age to the
// control key, with its manifest beside it. The row in control.backups counts: it is
// "complete" when the file was read back and is what was written.
//
//	database ── pg_dump ── age ── storage          restore, clone, import:
//	                                │                 archive ─→ [place] ─→ role ─→ database
//	                                └── verified ──→  ─→ load ─→ migrate ─→ renew ─→ activate
//	                                                                          └─ in place: fence ─→ flip
//
// Invariants:
//   - nothing is kept in memory as a whole, and nothing is stored unsealed;
//   - each attempt to take a backup writes under a name of its own, which nobody can
//     guess; the names of a tenant are in the order of time;
//   - an archive is read from end to end, and its checksum and seal are proven,
//     before anything is made or changed for its sake;
//   - what was made from an archive has a credential and signing keys of its own, and
//     neither sessions nor codes of its origin count in it;
//   - a database that is replaced is fenced before the other one serves, and kept for
//     a while.
package backup

import (
	"log/slog"
	"os"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// The operations that this package runs.
const (
	KindTake    = "tenant.backup"
	KindExport  = "tenant.export"
	KindRestore = "tenant.restore" // in place
	KindCopy    = "tenant.restore_as"
	KindClone   = "tenant.clone"
	KindImport  = "tenant.import"
)

// Why a backup was taken. Other rooms have reasons of their own.
const (
	ReasonManual   = "manual"
	ReasonSchedule = "schedule"
	ReasonClone    = "clone"
	ReasonExport   = "export"
	ReasonImport   = "import"
)

// keepReplaced is how long a database that a restore has replaced is kept.
const keepReplaced = 24 * time.Hour

// Options of NewService.
type Options struct {
	Store   storage.Store // nil: there are no backups
	Tenants *tenant.Service
	Log     *slog.Logger
	// Getenv finds the programs of Postgres; default os.Getenv.
	Getenv func(string) string
}

// Service takes and restores backups. It may be used by several goroutines.
type Service struct {
	db         pg.DB
	operations *operation.Store
	servers    *server.Service
	data       *seal.PublicKey
	control    *seal.ControlKey
	tenants    *tenant.Service
	store      storage.Store
	log        *slog.Logger
	getenv     func(string) string
}

// NewService makes the room.
func NewService(db pg.DB, operations *operation.Store, servers *server.Service, data *seal.PublicKey, control *seal.ControlKey, o Options) *Service {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		db: db, operations: operations, servers: servers, data: data, control: control,
		tenants: o.Tenants, store: o.Store, log: o.Log, getenv: o.Getenv,
	}
}

// Handlers are what runs the operations of this room, by their kind.
func (s *Service) Handlers() map[string]operation.Handler {
	return map[string]operation.Handler{
		KindTake: taking{s}, KindExport: taking{s}, KindRestore: replacing{s},
		KindCopy: copying{s}, KindClone: copying{s}, KindImport: copying{s},
	}
}

// on refuses what wants a storage where there is none.
func (s *Service) on() error {
	if s.store == nil {
		return fault.Unavailable("There is nowhere to put backups, or to take them from. Set OUVIRA_BACKUP_URL where the control plane and its workers run.").
			Code("backups_off")
	}
	return nil
}

// longStep bounds the steps that read or write a whole database.
const longStep = 12 * time.Hour

func timeout(step string) time.Duration {
	switch step {
	case StepDump, StepArchive, StepLoad, StepMigrate:
		return longStep
	}
	return 0
}
