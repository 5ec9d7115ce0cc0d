package identity

import (
	"context"
	"fmt"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/seal"
)

// resealAtOnce is how many factors are read at a time.
const resealAtOnce = 100

// ResealFactors seals the secrets of the tenant's second factors with the key that seals
// now, where another one has. It may be broken off, and run by several nodes at once.
// What does not open stays as it is, and is an error when the rest is done.
func (s *Service) ResealFactors(ctx context.Context, t Tenant, key uint32) error {
	var shut error
	params := dbsqlc.FactorsUnderOtherKeysParams{Prefix: seal.Prefix(key), Most: resealAtOnce}
	for {
		var found []dbsqlc.FactorsUnderOtherKeysRow
		err := t.Do(ctx, func(db Conn) error {
			var err error
			if found, err = s.queries.FactorsUnderOtherKeys(ctx, db, params); err != nil {
				return fmt.Errorf("read the second factors: %w", err)
			}
			for _, f := range found {
				params.After = f.ID
				plain, err := s.key.Unseal(f.SecretSealed, factorContext(t, f.UserID))
				if err != nil {
					shut = fmt.Errorf("open the second factor of user %d: %w", f.UserID, err)
					continue
				}
				sealed, err := s.key.Seal(plain, factorContext(t, f.UserID))
				if err != nil {
					return fmt.Errorf("seal a second factor: %w", err)
				}
				if err := s.queries.ResealFactor(ctx, db, dbsqlc.ResealFactorParams{ID: f.ID, Before: f.SecretSealed, Sealed: sealed}); err != nil {
					return fmt.Errorf("store a second factor: %w", err)
				}
				failpoint.Hit(ctx, "reseal/factor")
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(found) < resealAtOnce {
			return shut
		}
	}
}
