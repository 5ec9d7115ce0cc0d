package access

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Entry is a permission in the catalogue.
type Entry struct {
	ID          int64
	Code        Permission
	Module      string
	Description string
	IsSystem    bool // seeded: operations depend on it
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// NewEntry is what a permission is made of. Module is the part of the code
// before the dot; empty means that.
type NewEntry struct {
	Code        Permission
	Module      string
	Description string
}

type entrySnapshot struct {
	Code        Permission `json:"code" audit:"show"`
	Module      string     `json:"module" audit:"show"`
	Description string     `json:"description" audit:"show"`
}

var entries = audit.Of[entrySnapshot]("permission")

func (e Entry) snapshot() entrySnapshot { return entrySnapshot{e.Code, e.Module, e.Description} }

func entryOf(row dbsqlc.Permission) Entry {
	return Entry{row.ID, Permission(row.Code), row.Module, row.Description, row.IsSystem, row.CreatedAt, row.UpdatedAt}
}

func noEntry(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.NotFound("There is no such permission.")
	}
	return err
}

// Entries is a page of the catalogue, of one module unless that is nil, and how
// many there are in all.
func (s *Service) Entries(ctx context.Context, db pg.Querier, module *string, limit, offset int32) ([]Entry, int64, error) {
	count, err := s.queries.CountPermissions(ctx, db, module)
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListPermissions(ctx, db, dbsqlc.ListPermissionsParams{Module: module, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	all := make([]Entry, len(rows))
	for i, row := range rows {
		all[i] = entryOf(row)
	}
	return all, count, nil
}

// Entry is one permission of the catalogue.
func (s *Service) Entry(ctx context.Context, db pg.Querier, id int64) (Entry, error) {
	row, err := s.queries.GetPermission(ctx, db, id)
	return entryOf(row), noEntry(err)
}

// entryID finds a permission by its id (0: none) or its code ("": none); of
// both, they must name the same.
func (s *Service) entryID(ctx context.Context, db pg.Querier, id int64, code Permission) (int64, error) {
	var entry Entry
	var err error
	if id != 0 {
		entry, err = s.Entry(ctx, db, id)
	} else {
		var found int64
		found, err = s.queries.PermissionByCode(ctx, db, string(code))
		entry = Entry{ID: found, Code: code}
	}
	if errors.Is(err, pgx.ErrNoRows) || fault.Is(err, fault.KindNotFound) || err == nil && code != "" && entry.Code != code {
		const unknown = "There is no such permission."
		return 0, fault.Invalid(unknown).OnField("permission", "unknown", unknown)
	}
	return entry.ID, err
}

// AddEntry adds a permission. Owners hold it at once: nobody else could give it.
func (s *Service) AddEntry(ctx context.Context, tx pgx.Tx, by audit.Who, in NewEntry) (Entry, error) {
	if err := s.checkEntry(ctx, tx, &in); err != nil {
		return Entry{}, err
	}
	row, err := s.queries.CreatePermission(ctx, tx, dbsqlc.CreatePermissionParams{Code: string(in.Code), Module: in.Module, Description: in.Description})
	if err != nil {
		return Entry{}, err
	}
	added := entryOf(dbsqlc.Permission(row))
	return added, entries.Created(ctx, tx, by, nil, added.ID, added.snapshot())
}

// checkEntry refuses a module that is not the code's, and the platform's own
// modules: what it adds to them later must not meet what is there.
func (s *Service) checkEntry(ctx context.Context, db pg.Querier, in *NewEntry) error {
	module, _, _ := strings.Cut(string(in.Code), ".")
	if in.Module == "" {
		in.Module = module
	}
	if in.Module != module {
		const other = "The module is the part of the code before the dot."
		return fault.Invalid(other).OnField("module", "mismatch", other)
	}
	seeded, err := s.queries.ModuleIsSeeded(ctx, db, module)
	if err != nil {
		return err
	}
	if seeded {
		const reserved = "This module is the platform's. Choose another name for yours."
		return fault.Invalid(reserved).OnField("code", "reserved", reserved)
	}
	return nil
}

// ChangeEntry changes a permission; change gets it as it is and says what it
// becomes. Seeded ones stay as they are.
func (s *Service) ChangeEntry(ctx context.Context, tx pgx.Tx, by audit.Who, id int64, change func(Entry) (NewEntry, error)) (Entry, error) {
	before, err := s.lockEntry(ctx, tx, id)
	if err != nil {
		return Entry{}, err
	}
	in, err := change(before)
	if err != nil {
		return Entry{}, err
	}
	if err := s.checkEntry(ctx, tx, &in); err != nil {
		return Entry{}, err
	}
	row, err := s.queries.UpdatePermission(ctx, tx, dbsqlc.UpdatePermissionParams{
		ID: id, Code: string(in.Code), Module: in.Module, Description: in.Description,
	})
	if err != nil {
		return Entry{}, err
	}
	after := entryOf(row)
	return after, entries.Updated(ctx, tx, by, nil, id, before.snapshot(), after.snapshot())
}

// DeleteEntry removes a permission from the catalogue and from every role.
func (s *Service) DeleteEntry(ctx context.Context, tx pgx.Tx, by audit.Who, id int64) error {
	entry, err := s.lockEntry(ctx, tx, id)
	if err != nil {
		return err
	}
	if err := s.queries.DeletePermission(ctx, tx, id); err != nil {
		return err
	}
	return entries.Deleted(ctx, tx, by, nil, id, entry.snapshot())
}

func (s *Service) lockEntry(ctx context.Context, tx pgx.Tx, id int64) (Entry, error) {
	row, err := s.queries.LockPermission(ctx, tx, id)
	if err != nil {
		return Entry{}, noEntry(err)
	}
	if row.IsSystem {
		return Entry{}, fault.Conflict("This permission is the platform's: it is neither changed nor deleted.").Code("system_permission")
	}
	return entryOf(row), nil
}
