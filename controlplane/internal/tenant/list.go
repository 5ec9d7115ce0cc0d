package tenant

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/page"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
)

// Query of List. Zero fields do not filter.
type Query struct {
	Q      string // part of the slug or the name, any case
	Status Status
	Sort   string // see Sorts; "" is the newest first
	Limit  int
	Cursor string
}

// DefaultSort is the newest first.
const DefaultSort = "-created_at"

// sorting is how a list is cut: by a column, told apart by the id.
type sorting struct {
	column, cast string
	descending   bool
	value        func(Tenant) string
}

var sorts = map[string]sorting{
	"created_at":  {"t.created_at", "timestamptz", false, byCreation},
	"-created_at": {"t.created_at", "timestamptz", true, byCreation},
	"slug":        {"t.slug", "text", false, func(t Tenant) string { return t.Slug }},
	"-slug":       {"t.slug", "text", true, func(t Tenant) string { return t.Slug }},
	"name":        {"t.name", "text", false, func(t Tenant) string { return t.Name }},
	"-name":       {"t.name", "text", true, func(t Tenant) string { return t.Name }},
}

func byCreation(t Tenant) string { return t.CreatedAt.Format(time.RFC3339Nano) }

// List gives a page of tenants and the cursor of the next one ("" at the end).
func (s *Service) List(ctx context.Context, query Query) ([]Tenant, string, error) {
	if query.Sort == "" {
		query.Sort = DefaultSort
	}
	by, known := sorts[query.Sort]
	if !known {
		return nil, "", fault.Invalid("The list cannot be sorted by this. Use created_at, slug or name, with - in front for the other direction.").
			OnField("sort", "choice", "Expected created_at, slug or name, with - in front for the other direction.")
	}
	after, err := page.Parse(query.Cursor, query.Sort)
	if err != nil {
		return nil, "", err
	}
	if after == nil {
		after = &page.Cursor{}
	} else if _, err := time.Parse(time.RFC3339Nano, after.Value); by.cast == "timestamptz" && err != nil {
		return nil, "", fault.Invalid("The cursor is not one of this list. Begin again without it.").OnField("cursor", "cursor", "This is not a cursor of this list.")
	}
	rows, err := s.DB.Query(ctx, listSQL(by, after.ID != ""), pgx.NamedArgs{
		"q": likePattern(query.Q), "status": string(query.Status), "limit": query.Limit + 1,
		"value": after.Value, "id": after.ID,
	})
	if err != nil {
		return nil, "", fmt.Errorf("list the tenants: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[dbsqlc.GetTenantRow])
	if err != nil {
		return nil, "", fmt.Errorf("list the tenants: %w", err)
	}
	list := make([]Tenant, 0, len(found))
	for _, r := range found {
		t, err := s.tenantOf(r)
		if err != nil {
			return nil, "", err
		}
		list = append(list, t)
	}
	if len(list) <= query.Limit {
		return list, "", nil
	}
	list = list[:query.Limit]
	last := list[len(list)-1]
	return list, page.Cursor{Sort: query.Sort, Value: by.value(last), ID: last.ID.String()}.String(), nil
}

// listSQL builds the query from the parts above; nothing in it comes from the
// request.
func listSQL(by sorting, resumed bool) string {
	comparison, direction := ">", "ASC"
	if by.descending {
		comparison, direction = "<", "DESC"
	}
	where := ""
	if resumed {
		where = fmt.Sprintf("AND (%s, t.id) %s (@value::text::%s, @id::text::uuid)", by.column, comparison, by.cast)
	}
	return fmt.Sprintf(`
		SELECT t.id, t.slug, t.name, t.status, t.status_reason, t.route_mode, t.schema_version, t.settings, t.on_trial,
		       t.paid_until, t.purge_at, t.created_at, t.updated_at, p.code AS plan, s.name AS server,
		       COALESCE((SELECT d.hostname FROM control.domains d
		                 WHERE d.tenant_id = t.id AND d.is_primary AND d.status = 'verified'), '') AS custom_primary
		FROM control.tenants t
		JOIN control.plans p ON p.id = t.plan_id
		LEFT JOIN control.servers s ON s.id = t.server_id
		WHERE (@q = '' OR t.slug ILIKE @q OR t.name ILIKE @q)
		  AND (@status = '' OR t.status = @status) %s
		ORDER BY %s %s, t.id %s LIMIT @limit`, where, by.column, direction, direction)
}

// likePattern finds q anywhere, taken literally.
func likePattern(q string) string {
	q = strings.TrimSpace(q)
	if q == "" {
		return ""
	}
	return "%" + strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(q) + "%"
}
