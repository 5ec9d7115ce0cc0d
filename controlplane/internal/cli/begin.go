package cli

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

// begun is what the API answers that takes long.
type begun struct {
	Tenant    *tenant   `json:"tenant"`
	Operation operation `json:"operation"`
}

// begin asks for an operation, and follows it if wished.
func (a *app) begin(ctx context.Context, client *client, path string, body any, wait bool) (begun, error) {
	var b begun
	if err := client.call(ctx, http.MethodPost, path, body, &b); err != nil {
		return b, err
	}
	return b, a.pursue(ctx, client, b, wait)
}

// pursue follows what was begun if wished, and else says how.
func (a *app) pursue(ctx context.Context, client *client, b begun, wait bool) error {
	switch {
	case wait:
		return a.follow(ctx, client, b.Operation.ID)
	case b.Tenant != nil: // it is what is shown
		fmt.Fprintln(a.Err, "It goes on; follow it: ouvira operation watch "+b.Operation.ID)
	}
	return nil
}

// printBegun shows the tenant that is made, or the operation: as it was begun, or as
// it is after the wait.
func (a *app) printBegun(ctx context.Context, client *client, b begun, waited bool) error {
	switch {
	case b.Tenant != nil && waited:
		return a.printTenant(ctx, client, b.Tenant.ID)
	case b.Tenant != nil:
		return printOne(a, *b.Tenant, tenantColumns)
	case waited:
		return a.printOperation(ctx, client, b.Operation.ID)
	}
	return printOne(a, b.Operation, operationColumns)
}

func waitFlag(c *cobra.Command, wait *bool) {
	c.Flags().BoolVar(wait, "wait", false, "follow the operation to its end")
}
