package organization

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Kind is one of the four: where its rows are, and what they mean to others. F
// are its fields.
type Kind[F any] struct {
	Defaults F // of a new one

	one       string // what people call one
	table     string
	recorded  audit.Entity[F]
	referrers []referrer
}

// referrer is a column by which live rows keep others from being deleted.
type referrer struct{ table, column, what string }

// Row of a kind.
type Row[F any] struct {
	ID, CompanyID        int64
	Fields               F
	CreatedAt, UpdatedAt time.Time
	DeletedAt            *time.Time
}

// Filter of a list.
type Filter struct {
	Companies []int64 // the list is of these
	IsActive  *bool
}

const ownColumns = "id, company_id, created_at, updated_at, deleted_at"

// columns of the fields, in their order.
func (k Kind[F]) columns() []string {
	t := reflect.TypeFor[F]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("db")
	}
	return names
}

// selected is what scan reads.
func (k Kind[F]) selected() string { return ownColumns + ", " + strings.Join(k.columns(), ", ") }

func (k Kind[F]) scan(row pgx.CollectableRow) (Row[F], error) {
	var r Row[F]
	targets := []any{&r.ID, &r.CompanyID, &r.CreatedAt, &r.UpdatedAt, &r.DeletedAt}
	fields := reflect.ValueOf(&r.Fields).Elem()
	for _, field := range fields.Fields() {
		targets = append(targets, field.Addr().Interface())
	}
	return r, row.Scan(targets...)
}

// values of the fields, in their order, after others.
func (k Kind[F]) values(f F, before ...any) []any {
	for _, field := range reflect.ValueOf(f).Fields() {
		before = append(before, field.Interface())
	}
	return before
}

// placeholders are "$<from>, …", one for each field.
func (k Kind[F]) placeholders(from int) string {
	marks := make([]string, len(k.columns()))
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", from+i)
	}
	return strings.Join(marks, ", ")
}

// List the rows in order of their names, with how many there are in all.
func (k Kind[F]) List(ctx context.Context, db pg.Querier, f Filter, limit, offset int32) ([]Row[F], int64, error) {
	from := " FROM public." + k.table + " WHERE deleted_at IS NULL AND company_id = ANY($1) AND ($2::boolean IS NULL OR is_active = $2)"
	var count int64
	if err := db.QueryRow(ctx, "SELECT count(*)"+from, f.Companies, f.IsActive).Scan(&count); err != nil {
		return nil, 0, fmt.Errorf("count the %s: %w", k.table, err)
	}
	rows, err := db.Query(ctx, "SELECT "+k.selected()+from+" ORDER BY lower(name), id LIMIT $3 OFFSET $4", f.Companies, f.IsActive, limit, offset)
	if err != nil {
		return nil, 0, fmt.Errorf("list the %s: %w", k.table, err)
	}
	found, err := pgx.CollectRows(rows, k.scan)
	if err != nil {
		return nil, 0, fmt.Errorf("list the %s: %w", k.table, err)
	}
	return found, count, nil
}

// Get one that is not deleted.
func (k Kind[F]) Get(ctx context.Context, db pg.Querier, id int64) (Row[F], error) {
	return k.single(ctx, db, "SELECT "+k.selected()+" FROM public."+k.table+" WHERE id = $1 AND deleted_at IS NULL", id)
}

// Lock one that is not deleted, and with it the organization of its company.
func (k Kind[F]) Lock(ctx context.Context, tx pgx.Tx, id, companyID int64) (Row[F], error) {
	if err := lockCompany(ctx, tx, companyID); err != nil {
		return Row[F]{}, err
	}
	return k.Get(ctx, tx, id)
}

// lockCompany lets the changes of one organization come one after the other:
// what one of them looks at, no other changes.
func lockCompany(ctx context.Context, tx pgx.Tx, id int64) error {
	if _, err := tx.Exec(ctx, "SELECT FROM public.companies WHERE id = $1 FOR NO KEY UPDATE", id); err != nil {
		return fmt.Errorf("lock the organization: %w", err)
	}
	return nil
}

func (k Kind[F]) single(ctx context.Context, db pg.Querier, sql string, args ...any) (Row[F], error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Row[F]{}, fmt.Errorf("read a %s: %w", k.one, err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, k.scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return Row[F]{}, fault.NotFound("There is no such " + k.one + ", or you may not see it.")
	}
	return row, k.refusal(err)
}

// Create one in a company.
func (k Kind[F]) Create(ctx context.Context, tx pgx.Tx, who audit.Who, companyID int64, f F) (Row[F], error) {
	if err := lockCompany(ctx, tx, companyID); err != nil {
		return Row[F]{}, err
	}
	var nothing F
	f, err := k.check(ctx, tx, companyID, nothing, f)
	if err != nil {
		return Row[F]{}, err
	}
	row, err := k.single(ctx, tx, "INSERT INTO public."+k.table+" (company_id, "+strings.Join(k.columns(), ", ")+
		") VALUES ($1, "+k.placeholders(2)+") RETURNING "+k.selected(), k.values(f, companyID)...)
	if err != nil {
		return Row[F]{}, err
	}
	return row, k.recorded.Created(ctx, tx, who, &companyID, row.ID, row.Fields)
}

// Update a row that Lock has locked.
func (k Kind[F]) Update(ctx context.Context, tx pgx.Tx, who audit.Who, before Row[F], f F) (Row[F], error) {
	f, err := k.check(ctx, tx, before.CompanyID, before.Fields, f)
	if err != nil {
		return Row[F]{}, err
	}
	row, err := k.single(ctx, tx, "UPDATE public."+k.table+" SET updated_at = now(), ("+strings.Join(k.columns(), ", ")+
		") = ROW("+k.placeholders(2)+") WHERE id = $1 RETURNING "+k.selected(), k.values(f, before.ID)...)
	if err != nil {
		return Row[F]{}, err
	}
	return row, k.recorded.Updated(ctx, tx, who, &row.CompanyID, row.ID, before.Fields, row.Fields)
}

// Delete a row that Lock has locked. It stays in the database, marked.
func (k Kind[F]) Delete(ctx context.Context, tx pgx.Tx, who audit.Who, row Row[F]) error {
	for _, r := range k.referrers {
		var used bool
		err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM public."+r.table+" WHERE "+r.column+" = $1 AND deleted_at IS NULL)", row.ID).Scan(&used)
		if err != nil {
			return fmt.Errorf("look for what refers to a %s: %w", k.one, err)
		}
		if used {
			return fault.Conflict("There are " + r.what + ". Move or delete them first.").Code("in_use")
		}
	}
	if _, err := tx.Exec(ctx, "UPDATE public."+k.table+" SET deleted_at = now(), updated_at = now() WHERE id = $1", row.ID); err != nil {
		return fmt.Errorf("delete a %s: %w", k.one, err)
	}
	return k.recorded.Deleted(ctx, tx, who, &row.CompanyID, row.ID, row.Fields)
}

// check tidies the fields, and refuses those that point to what is not there.
// What has not changed is not looked at again: a manager who has left does not
// keep a department from being renamed.
func (k Kind[F]) check(ctx context.Context, tx pgx.Tx, companyID int64, before, f F) (F, error) {
	v, was := reflect.ValueOf(&f).Elem(), reflect.ValueOf(before)
	for i := range v.NumField() {
		field, name := v.Type().Field(i), jsonName(v.Type().Field(i))
		if v.Field(i).Kind() == reflect.String {
			v.Field(i).SetString(strings.TrimSpace(v.Field(i).String()))
		}
		if name == "name" && v.Field(i).String() == "" {
			return f, fault.Invalid("The name must not be empty.").OnField("name", "required", "This must not be empty.")
		}
		table := field.Tag.Get("refers")
		if table == "" || v.Field(i).IsZero() || reflect.DeepEqual(v.Field(i).Interface(), was.Field(i).Interface()) {
			continue
		}
		var there bool
		if err := tx.QueryRow(ctx, targets[table].exists, reflect.Indirect(v.Field(i)).Int(), companyID).Scan(&there); err != nil {
			return f, fmt.Errorf("look up the %s of a %s: %w", name, k.one, err)
		}
		if !there {
			return f, fault.Invalid(targets[table].absent).OnField(name, "unknown", targets[table].absent)
		}
	}
	return f, nil
}

// target is a table that fields refer to.
type target struct{ exists, absent string }

var targets = map[string]target{
	"departments":    live("departments", "There is no such department in this company."),
	"job_titles":     live("job_titles", "There is no such job title in this company."),
	"locations":      live("locations", "There is no such location in this company."),
	"positions":      live("positions", "There is no such position in this company."),
	"user_companies": {"SELECT EXISTS (SELECT FROM public.user_companies WHERE user_id = $1 AND company_id = $2 AND is_active)", "No such user is a member of this company."},
}

func live(table, absent string) target {
	return target{"SELECT EXISTS (SELECT FROM public." + table + " WHERE id = $1 AND company_id = $2 AND deleted_at IS NULL)", absent}
}

// refusal turns what the database refuses into the answer for it.
func (k Kind[F]) refusal(err error) error {
	switch pg.Constraint(err) {
	case "":
		return err
	case k.table + "_code_key":
		const message = "Another one of this company has this code."
		return fault.Conflict(message+" Choose another code.").Code("code_taken").OnField("code", "taken", message).Because(err)
	case "departments_no_cycle_check":
		return cycle("parent_department", "A department cannot be part of itself, or of one below it.", err)
	case "positions_no_cycle_check":
		return cycle("reports_to", "A position cannot report to itself, or to one below it.", err)
	}
	return fmt.Errorf("write a %s: %w", k.one, err)
}

func cycle(field, message string, err error) error {
	return fault.Invalid(message).Code("cycle").OnField(field, "cycle", message).Because(err)
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
