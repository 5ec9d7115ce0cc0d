package tenantdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// SecretKeys are the ids of the keys with which nodes have sealed what is to be opened
// later in a tenant's database: second factors, and messages that wait. Codes are not
// among it: they count for minutes.
func SecretKeys(ctx context.Context, q pg.Querier) ([]int64, error) {
	return keyIDs(ctx, q, `
		SELECT substring(secret_sealed FROM 1 FOR 5) FROM public.two_factors
		UNION SELECT substring(payload_sealed FROM 1 FOR 5) FROM public.outbox WHERE status = 'pending' AND payload_sealed IS NOT NULL`)
}

// SigningKeyKeys are the ids of the keys to which the private signing keys of a tenant's
// database are sealed.
func SigningKeyKeys(ctx context.Context, q pg.Querier) ([]int64, error) {
	return keyIDs(ctx, q, "SELECT DISTINCT substring(private_sealed FROM 1 FOR 5) FROM ouvira.signing_keys WHERE private_sealed <> ''")
}

func keyIDs(ctx context.Context, q pg.Querier, prefixes string) ([]int64, error) {
	rows, err := q.Query(ctx, prefixes)
	if err != nil {
		return nil, fmt.Errorf("read with which keys the database's secrets are sealed: %w", err)
	}
	ids := []int64{}
	var prefix []byte
	_, err = pgx.ForEachRow(rows, []any{&prefix}, func() error {
		if id := seal.KeyID(prefix); id != 0 {
			ids = append(ids, int64(id))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read with which keys the database's secrets are sealed: %w", err)
	}
	return ids, nil
}
