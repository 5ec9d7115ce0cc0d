package httpapi

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// APIKey is an API key as lists show it.
type APIKey struct {
	ID          int64      `json:"id"`
	Name        string     `json:"name"`
	User        int64      `json:"user" doc:"Who made it, and for whom it acts."`
	UserDisplay string     `json:"user_display" example:"Jane Doe"`
	Company     int64      `json:"company" doc:"It works here and in the companies below."`
	Prefix      string     `json:"prefix" doc:"How the key begins." example:"ouk_agopbwdlk4ymlm5kd6nycmdzge_mfrggzdf"`
	Permissions []string   `json:"permissions" nullable:"false" example:"[\"company.read\"]"`
	ExpiresAt   time.Time  `json:"expires_at"`
	LastUsedAt  *time.Time `json:"last_used_at" doc:"To the minute."`
	Entity
}

func apiKeyOf(k identity.APIKey) APIKey {
	return APIKey{
		ID: k.ID, Name: k.Name, User: k.UserID, UserDisplay: k.UserDisplay, Company: k.CompanyID, Prefix: k.Prefix,
		Permissions: k.Permissions, ExpiresAt: k.ExpiresAt.UTC(), LastUsedAt: utc(k.LastUsedAt), Entity: entityOf(k.CreatedAt, k.UpdatedAt, k.DeletedAt),
	}
}

type listAPIKeysInput struct {
	PageInput

	Company int64 `query:"company" minimum:"1" doc:"Only keys of this company."`
}

type listAPIKeysOutput struct{ Body Page[APIKey] }

func (s *server) listAPIKeys(ctx context.Context, db pg.Querier, c *caller, in *listAPIKeysInput) (*listAPIKeysOutput, error) {
	companies := []int64{in.Company}
	var err error
	if in.Company != 0 {
		err = c.require(ctx, db, in.Company)
	} else {
		companies, err = c.companies(ctx, db)
	}
	if err != nil {
		return nil, err
	}
	limit, offset := in.window()
	keys, count, err := s.Identity.APIKeys(ctx, db, companies, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]APIKey, len(keys))
	for i, k := range keys {
		results[i] = apiKeyOf(k)
	}
	return &listAPIKeysOutput{pageOf(s, c.scope, in.PageInput, count, results)}, nil
}

type createAPIKeyInput struct {
	Body struct {
		Name        string     `json:"name" minLength:"1" maxLength:"100" example:"Nightly export"`
		Company     *int64     `json:"company,omitempty" minimum:"1" doc:"Where it works, with the companies below; the first company of the workspace when left out."`
		Permissions []string   `json:"permissions" minItems:"1" maxItems:"200" nullable:"false" doc:"What it may do, of what you may do yourself." example:"[\"company.read\"]"`
		ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"A year from now at the latest, and when left out."`
	}
}

type createAPIKeyOutput struct {
	Body struct {
		APIKey

		Key string `json:"key" secret:"true" doc:"The key itself. It is shown this once; send it as Authorization: Bearer." example:"ouk_agopbwdlk4ymlm5kd6nycmdzge_mfrggzdf_gezdgnbvgy3tqojqgezdgnbvgy3tqojqgezdgnbvgy3tqojqgeza"`
	}
}

func (s *server) createAPIKey(ctx context.Context, tx pgx.Tx, c *caller, in *createAPIKeyInput) (*createAPIKeyOutput, error) {
	company, err := s.companyOrHome(ctx, tx, in.Body.Company)
	if err != nil {
		return nil, err
	}
	if err := c.require(ctx, tx, company); err != nil {
		return nil, err
	}
	if err := s.holdsAll(ctx, tx, c, company, in.Body.Permissions); err != nil {
		return nil, err
	}
	key, text, err := s.Identity.CreateAPIKey(ctx, c.tenant, tx, c.Actor, identity.NewKey{
		Name: in.Body.Name, CompanyID: company, Permissions: in.Body.Permissions, ExpiresAt: in.Body.ExpiresAt,
	}, c.who())
	if err != nil {
		return nil, err
	}
	var out createAPIKeyOutput
	out.Body.APIKey, out.Body.Key = apiKeyOf(key), text
	return &out, nil
}

func (s *server) companyOrHome(ctx context.Context, db pg.Querier, company *int64) (int64, error) {
	if company != nil {
		return *company, nil
	}
	return s.Access.Home(ctx, db)
}

// holdsAll refuses what the caller would give away without holding it: 422 for
// permissions that there are not, 403 for those that are not theirs.
func (s *server) holdsAll(ctx context.Context, db pg.Querier, c *caller, company int64, codes []string) error {
	unknown, err := s.Identity.UnknownPermissions(ctx, db, codes)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		const message = "There is no such permission. The list is at /access-control/permissions."
		f := fault.Invalid("Some of the permissions do not exist. See errors for which.")
		for i, code := range codes {
			for _, u := range unknown {
				if code == u {
					f = f.OnField(fmt.Sprintf("permissions[%d]", i), "unknown", message)
				}
			}
		}
		return f
	}
	standing, err := c.standing(ctx, db, company)
	if err != nil {
		return err
	}
	for i, code := range codes {
		if !c.allows(standing, access.Permission(code)) {
			const message = "You do not hold this permission yourself."
			return fault.Forbidden("Nobody gives what they do not hold. Leave the permission out, or ask for it first.").
				Code("permission_not_held").OnField(fmt.Sprintf("permissions[%d]", i), "not_held", message)
		}
	}
	return nil
}

type apiKeyInput struct {
	ID int64 `path:"id" minimum:"1"`
}

// revokeAPIKey answers a key in a company that the caller cannot see as one
// that is not there.
func (s *server) revokeAPIKey(ctx context.Context, tx pgx.Tx, c *caller, in *apiKeyInput) (*struct{}, error) {
	company, err := s.Identity.CompanyOfAPIKey(ctx, tx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := c.require(ctx, tx, company); err != nil {
		if fault.Is(err, fault.KindNotFound) {
			return nil, identity.ErrNoAPIKey()
		}
		return nil, err
	}
	return nil, s.Identity.RevokeAPIKey(ctx, tx, in.ID, c.who())
}
