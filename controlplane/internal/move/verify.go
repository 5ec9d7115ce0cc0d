package move

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
)

// comparison is what StepVerify has found while the tenant was served: everything
// that was committed before its horizon is the same on both sides, except for the
// chunks that are left.
type comparison struct {
	horizon string // a transaction id: what is older was committed or rolled back
	tables  []table
	left    []chunk // of which the two sides were never seen to be equal
}

// chunk is a range of a table's keys, from after low up to high; nil is open.
type chunk struct {
	table     *table
	low, high []string
}

const (
	// A chunk that is being written to differs for a moment.
	compareTries = 5
	// changedLimit bounds the rows that are compared one by one while requests
	// wait.
	changedLimit = 50_000
	// leftLimit bounds the chunks that are compared again while requests wait.
	leftLimit = 20
)

// verify compares source and target in ranges of keys while the tenant is served.
func (a *attempt) verify(ctx context.Context) error {
	if a.move.switched {
		return nil
	}
	if err := a.catchUp(ctx); err != nil {
		return err
	}
	source, target, err := a.bothInside(ctx)
	if err != nil {
		return err
	}
	c := &comparison{}
	if err := source.Scan(ctx, []any{&c.horizon}, "SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text"); err != nil {
		return err
	}
	if c.tables, err = tablesOf(ctx, source); err != nil {
		return err
	}
	for i := range c.tables {
		chunks, err := a.chunksOf(ctx, source, &c.tables[i])
		if err != nil {
			return err
		}
		for _, part := range chunks {
			equal, err := a.alike(ctx, source, target, part, compareTries)
			if err != nil {
				return err
			}
			if !equal {
				c.left = append(c.left, part)
			}
		}
	}
	if len(c.left) > leftLimit {
		return operation.Later("not_alike", fmt.Sprintf("Source and target differ in %d places, the first of them in %s.", len(c.left), c.left[0].table.Name),
			"It is compared again; if it stays, read the log of the target server.")
	}
	a.compared = c
	return nil
}

func (a *attempt) bothInside(ctx context.Context) (source, target *tenantdb.Session, err error) {
	if source, err = a.source.Inside(ctx, a.move.from); err != nil {
		return nil, nil, err
	}
	if target, err = a.target.Inside(ctx, a.move.to); err != nil {
		return nil, nil, err
	}
	if err = sameText(ctx, source); err == nil {
		err = sameText(ctx, target)
	}
	return source, target, err
}

// chunksOf divides a table by its key.
func (a *attempt) chunksOf(ctx context.Context, source *tenantdb.Session, t *table) ([]chunk, error) {
	rows, err := source.Conn().Query(ctx, `
		SELECT `+t.keyText()+` FROM (
			SELECT `+strings.Join(t.Key, ", ")+`, row_number() OVER (ORDER BY `+strings.Join(t.Key, ", ")+`) AS n FROM `+t.Name+`) k
		WHERE n % $1 = 0 ORDER BY n`, a.s.options.Chunk)
	if err != nil {
		return nil, source.Explain(err)
	}
	bounds, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	if err != nil {
		return nil, source.Explain(err)
	}
	var chunks []chunk
	var low []string
	for _, high := range bounds {
		chunks = append(chunks, chunk{table: t, low: low, high: high})
		low = high
	}
	return append(chunks, chunk{table: t, low: low}), nil
}

// query is how many rows the chunk has, and a digest over them.
func (c *chunk) query() (sql string, args []any) {
	sql = "SELECT count(*), COALESCE(bit_xor(" + c.table.digest() + "), 0) FROM " + c.table.Name
	var where []string
	for _, bound := range []struct {
		sign string
		key  []string
	}{{">", c.low}, {"<=", c.high}} {
		if bound.key == nil {
			continue
		}
		where = append(where, c.table.keyRow()+" "+bound.sign+" "+c.table.keyParameters(len(args)+1))
		for _, v := range bound.key {
			args = append(args, v)
		}
	}
	if len(where) > 0 {
		sql += " WHERE " + strings.Join(where, " AND ")
	}
	return sql, args
}

// sum is a number of rows and the digest over them, which does not depend on
// their order.
type sum struct {
	rows   int64
	digest int64
}

func (a *attempt) sumOf(ctx context.Context, s *tenantdb.Session, c chunk) (found sum, err error) {
	sql, args := c.query()
	err = s.Scan(ctx, []any{&found.rows, &found.digest}, sql, args...)
	return found, err
}

// alike tells whether both sides have been seen to be equal. The target comes
// after the source, so that it has had the time.
func (a *attempt) alike(ctx context.Context, source, target *tenantdb.Session, c chunk, tries int) (bool, error) {
	for range tries {
		is, err := a.sumOf(ctx, source, c)
		if err != nil {
			return false, err
		}
		copied, err := a.sumOf(ctx, target, c)
		if err != nil || is == copied {
			return err == nil, err
		}
	}
	return false, nil
}

// recheck compares under the fence what has changed since the comparison: the
// number of rows of every table, the rows that are younger than the horizon, and
// the chunks that were left.
func (a *attempt) recheck(ctx context.Context) error {
	source, target, err := a.bothInside(ctx)
	if err != nil {
		return err
	}
	var is, copied []counted
	both, within := errgroup.WithContext(ctx)
	both.Go(func() (err error) { is, err = a.count(within, source, true); return err })
	both.Go(func() (err error) { copied, err = a.count(within, target, false); return err })
	if err := both.Wait(); err != nil {
		return err
	}
	var young int64
	for i, t := range is {
		if t.Rows != copied[i].Rows {
			return differs(t.Name, fmt.Sprintf("%d rows and %d", t.Rows, copied[i].Rows))
		}
		young += t.Young
	}
	if young > changedLimit {
		return operation.Later("too_many_changes", fmt.Sprintf("%d rows have changed while the databases were compared.", young), "They are compared again.")
	}
	for i, t := range is {
		if t.Young == 0 {
			continue
		}
		if err := a.recheckRows(ctx, source, target, &a.compared.tables[i]); err != nil {
			return err
		}
	}
	for _, part := range a.compared.left {
		equal, err := a.alike(ctx, source, target, part, 1)
		if err != nil {
			return err
		}
		if !equal {
			return differs(part.table.Name, "rows that are not the same")
		}
	}
	return nil
}

func differs(table, how string) error {
	return operation.Fail("verification_failed", "Source and target differ in "+table+": "+how+". The tenant is served where it was.",
		"Read the log of the target server, remove the cause, then ask for the move again.")
}

type counted struct {
	Name  string
	Rows  int64
	Young int64 // younger than the horizon
}

// count counts the rows of all tables, and those that are younger than the
// horizon if that is asked.
func (a *attempt) count(ctx context.Context, s *tenantdb.Session, young bool) ([]counted, error) {
	parts := make([]string, 0, len(a.compared.tables))
	for _, t := range a.compared.tables {
		younger := "0"
		if young {
			younger = "count(*) FILTER (WHERE " + a.younger() + ")"
		}
		parts = append(parts, "SELECT "+literal(t.Name)+"::text AS name, count(*) AS rows, "+younger+"::bigint AS young FROM "+t.Name)
	}
	rows, err := s.Conn().Query(ctx, strings.Join(parts, " UNION ALL "))
	if err != nil {
		return nil, s.Explain(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counted])
	if err != nil {
		return nil, s.Explain(err)
	}
	slices.SortFunc(all, func(x, y counted) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// younger is the condition on a row that was written by a transaction that had not
// ended at the horizon. A transaction id is no secret and only digits.
func (a *attempt) younger() string {
	return "age(xmin) <= age('" + a.compared.horizon + "'::xid)"
}

// recheckRows compares the young rows of a table by their keys.
func (a *attempt) recheckRows(ctx context.Context, source, target *tenantdb.Session, t *table) error {
	rows, err := source.Conn().Query(ctx, "SELECT "+t.keyText()+", "+t.digest()+" FROM "+t.Name+" WHERE "+a.younger())
	if err != nil {
		return source.Explain(err)
	}
	keys := make([][]string, len(t.Key))
	var is, copied sum
	var key []string
	var digest int64
	_, err = pgx.ForEachRow(rows, []any{&key, &digest}, func() error {
		for i, v := range key {
			keys[i] = append(keys[i], v)
		}
		is.rows++
		is.digest ^= digest
		return nil
	})
	if err != nil {
		return source.Explain(err)
	}
	args := make([]any, len(keys))
	columns, arrays := make([]string, len(keys)), make([]string, len(keys))
	conditions := make([]string, len(keys))
	for i := range keys {
		args[i] = keys[i]
		columns[i] = fmt.Sprintf("k%d", i)
		arrays[i] = fmt.Sprintf("$%d::text[]", i+1)
		conditions[i] = fmt.Sprintf("t.%s = k.k%d::%s", t.Key[i], i, t.Types[i])
	}
	err = target.Scan(ctx, []any{&copied.rows, &copied.digest}, "SELECT count(*), COALESCE(bit_xor("+t.digest()+"), 0) FROM unnest("+strings.Join(arrays, ", ")+
		") AS k ("+strings.Join(columns, ", ")+") JOIN "+t.Name+" t ON "+strings.Join(conditions, " AND "), args...)
	if err != nil {
		return err
	}
	if is != copied {
		return differs(t.Name, fmt.Sprintf("of %d rows that were written lately", is.rows))
	}
	return nil
}
