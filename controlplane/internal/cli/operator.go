package cli

import (
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	operators "github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/problem"
)

// account is a new operator, as it is printed.
type account struct {
	ID        string    `json:"id"`
	Email     string    `json:"email"`
	Role      string    `json:"role"`
	CreatedAt time.Time `json:"created_at"`
}

var accountColumns = []column[account]{
	{"email", false, func(o account) string { return o.Email }},
	{"role", false, func(o account) string { return o.Role }},
	{"id", false, func(o account) string { return o.ID }},
}

func (a *app) operator() *cobra.Command {
	group := &cobra.Command{Use: "operator", Short: "People who run the platform"}
	group.AddCommand(a.operatorCreate(), a.operatorInvite(), a.operatorList(), a.operatorRole(),
		a.operatorActive("deactivate", "End the sessions and keys of an operator, and let them sign in no more", false),
		a.operatorActive("activate", "Let a deactivated operator sign in again", true), a.operatorResetFactor(), a.operatorUninvite())
	return group
}

// operatorCreate works straight on the control database: an API that let
// anybody in to make the first account could not be left open.
func (a *app) operatorCreate() *cobra.Command {
	var email, name, role string
	var fromStdin bool
	c := &cobra.Command{
		Use: "create", Short: "Create an operator, straight on the control database", Args: cobra.NoArgs,
		Long: "Creates an operator, straight on the control database (OUVIRA_CONTROL_DATABASE_URL): this is how the\n" +
			"first one comes to be. There is no default account.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			address := a.Getenv("OUVIRA_CONTROL_DATABASE_URL")
			if address == "" {
				return usageError{errors.New("OUVIRA_CONTROL_DATABASE_URL is not set: name the control database, as the control plane does")}
			}
			password, err := a.newPassword(fromStdin)
			if err != nil {
				return err
			}
			db, err := pg.Open(cmd.Context(), address, pg.Options{ApplicationName: "ouvira/cli", MaxConnections: 2})
			if err != nil {
				if pg.IsConnect(err) {
					return errors.New(pg.Explain(err))
				}
				return err
			}
			defer db.Close()
			service := &operators.Service{DB: db}
			o, err := service.Create(cmd.Context(), systemUser(), operators.New{
				Email: email, FullName: name, Role: operators.Role(role), Password: password,
			})
			if err != nil {
				return sentence(err)
			}
			return printOne(a, account{ID: o.ID.String(), Email: o.Email, Role: string(o.Role), CreatedAt: o.CreatedAt}, accountColumns)
		},
	}
	c.Flags().StringVar(&email, "email", "", "address, which is the login name")
	c.Flags().StringVar(&name, "name", "", "full name")
	c.Flags().StringVar(&role, "role", string(operators.RoleOwner), "owner, operator, support or auditor")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	_ = c.MarkFlagRequired("email")
	return c
}

func (a *app) newPassword(fromStdin bool) (string, error) {
	password, err := a.secret("Password (at least 12 characters): ", fromStdin)
	if err != nil || fromStdin {
		return password, err
	}
	again, err := a.secret("Once more: ", false)
	if err == nil && again != password {
		return "", errors.New("the two passwords differ")
	}
	return password, err
}

// systemUser is who holds the database's credentials, as far as we can tell.
func systemUser() *audit.Actor {
	name := "unknown"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	return &audit.Actor{Kind: audit.KindCLI, ID: name, Name: name}
}

// sentence is what a person is told of a fault.
func sentence(err error) error {
	switch pg.Code(err) {
	case pg.CodeUndefinedTable, pg.CodeInsufficientRights, "3F000":
		return errors.New("the control database has no schema yet: run `controlplane migrate` first")
	}
	f := fault.From(err)
	if f.Kind == fault.KindInternal {
		return fmt.Errorf("the operator could not be created: %w", err)
	}
	// As if the API had said it: the same words, the same exit codes.
	said := &apiError{Status: problem.Status(f), Problem: problem.Problem{Detail: f.Message}}
	for _, field := range f.Fields {
		said.Problem.Errors = append(said.Problem.Errors, problem.FieldError(field))
	}
	return said
}
