package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// tenantLife are the commands for a tenant that exists: they change whether it is
// served, and in the end whether it is there.
func (a *app) tenantLife() []*cobra.Command {
	return []*cobra.Command{a.tenantSuspend(), a.tenantResume(), a.tenantDelete(), a.tenantUndelete(), a.tenantPurge(), a.tenantSignOut(), a.tenantRotate()}
}

func tenantPath(name, verb string) string { return "/v1/tenants/" + url.PathEscape(name) + "/" + verb }

func (a *app) tenantSuspend() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "suspend SLUG|ID", Short: "Stop serving a tenant", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeTenant(cmd.Context(), tenantPath(args[0], "suspend"), map[string]string{"reason": reason})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the audit log and the tenant's people")
	_ = c.MarkFlagRequired("reason")
	return c
}

func (a *app) tenantResume() *cobra.Command {
	return &cobra.Command{
		Use: "resume SLUG|ID", Short: "Serve a suspended tenant again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeTenant(cmd.Context(), tenantPath(args[0], "resume"), nil)
		},
	}
}

func (a *app) tenantRotate() *cobra.Command {
	var key, atOnce bool
	c := a.tenantWork("rotate", "Give the tenant another database password, or another signing key, while it is served",
		func(context.Context, *client, string) (any, error) {
			switch {
			case atOnce && !key:
				return nil, usageError{errors.New("--at-once goes with --signing-key: a password is changed at once in any case")}
			case key:
				return map[string]any{"what": "signing-key", "at_once": atOnce}, nil
			}
			return nil, nil
		})
	c.Long = "Without --signing-key the tenant's database role gets another password.\n\n" +
		"A new signing key is first made known to all nodes and to gateways that keep the tenant's keys, then signs,\n" +
		"and the one before goes when the last token has expired that it has signed: within some 20 minutes, later\n" +
		"where a session of support is open. No token is refused that was good. A key that somebody else has is\n" +
		"rotated --at-once: within seconds nothing that it has signed counts, and apps refresh their access tokens."
	c.Flags().BoolVar(&key, "signing-key", false, "another key for the tokens of the tenant's users, not another password")
	c.Flags().BoolVar(&atOnce, "at-once", false, "wait for nobody: all access tokens end; for a key that has leaked")
	return c
}

func (a *app) tenantSignOut() *cobra.Command {
	return &cobra.Command{
		Use: "sign-out-everyone SLUG|ID", Short: "End all sessions, tokens and API keys of a tenant", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeTenant(cmd.Context(), tenantPath(args[0], "sign-out-everyone"), nil)
		},
	}
}

// changeTenant asks for a change that is made at once, and shows the tenant.
func (a *app) changeTenant(ctx context.Context, path string, body any) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	var t tenant
	if err := client.call(ctx, http.MethodPost, path, body, &t); err != nil {
		return err
	}
	return printOne(a, t, tenantColumns)
}

func (a *app) tenantDelete() *cobra.Command {
	var confirm string
	c := a.tenantWork("delete", "Delete a tenant; it can be undeleted for a while", func(ctx context.Context, client *client, name string) (any, error) {
		return a.confirmed(ctx, client, name, confirm, "This takes %s off the network at once, makes a last backup, and lets it be purged when its grace is over.")
	})
	c.Flags().StringVar(&confirm, "confirm", "", "the tenant's slug, instead of being asked for it")
	return c
}

func (a *app) tenantUndelete() *cobra.Command {
	return a.tenantWork("undelete", "Bring a deleted tenant back", func(context.Context, *client, string) (any, error) { return nil, nil })
}

func (a *app) tenantPurge() *cobra.Command {
	var confirm string
	c := a.tenantWork("purge", "Remove a deleted tenant's data for good, also before its grace is over", func(ctx context.Context, client *client, name string) (any, error) {
		return a.confirmed(ctx, client, name, confirm, "This drops the database of %s. Nothing brings it back but a backup.")
	})
	c.Flags().StringVar(&confirm, "confirm", "", "the tenant's slug, instead of being asked for it")
	return c
}

// tenantWork is a command that starts an operation on a tenant. With --wait it
// shows the tenant in the end, without it the operation.
func (a *app) tenantWork(verb, short string, body func(ctx context.Context, client *client, name string) (any, error)) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: verb + " SLUG|ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			in, err := body(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			var started struct {
				Operation operation `json:"operation"`
			}
			if err := client.call(cmd.Context(), http.MethodPost, tenantPath(args[0], verb), in, &started); err != nil {
				return err
			}
			if !wait {
				return printOne(a, started.Operation, operationColumns)
			}
			if err := a.follow(cmd.Context(), client, started.Operation.ID); err != nil {
				return err
			}
			return a.printTenant(cmd.Context(), client, args[0])
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end")
	return c
}

// confirmed is the body of a request that wants the tenant's slug: a person who
// did not give it is asked for it, having read what is going to happen.
func (a *app) confirmed(ctx context.Context, c *client, name, slug, warning string) (any, error) {
	if slug == "" {
		var t tenant
		if err := c.call(ctx, http.MethodGet, "/v1/tenants/"+url.PathEscape(name), nil, &t); err != nil {
			return nil, err
		}
		fmt.Fprintf(a.Err, warning+"\nType its slug (%s) to go on: ", clean(t.Name), t.Slug)
		line, err := bufio.NewReader(a.In).ReadString('\n') // what was read so far is compared
		if err != nil {
			fmt.Fprintln(a.Err) // nobody has ended the line
		}
		if slug = strings.TrimSpace(line); slug != t.Slug {
			return nil, errors.New("that was not its slug; nothing was done (a script gives it with --confirm)")
		}
	}
	return map[string]string{"confirm_slug": slug}, nil
}
