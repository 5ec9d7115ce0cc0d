package cli

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) tenantMove() *cobra.Command {
	var to string
	var wait bool
	c := &cobra.Command{
		Use: "move SLUG|ID", Short: "Move a tenant to another server while it is served", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			path := "/v1/tenants/" + url.PathEscape(args[0]) + "/move"
			started, err := a.begin(cmd.Context(), client, path, map[string]string{"server": to}, wait)
			if err != nil {
				return err
			}
			if !wait {
				return printOne(a, started.Operation, operationColumns)
			}
			return a.printTenant(cmd.Context(), client, args[0])
		},
	}
	c.Flags().StringVar(&to, "server", "", "name of the Postgres server to move to")
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end")
	_ = c.MarkFlagRequired("server")
	return c
}

func serverPath(name, action string) string { return "/v1/servers/" + url.PathEscape(name) + action }

// serverCommand is a command on one server that shows it as it is afterwards.
func (a *app) serverCommand(use, short string, ask func(ctx context.Context, client *client, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := ask(cmd.Context(), client, args[0]); err != nil {
				return err
			}
			var s server
			if err := client.call(cmd.Context(), http.MethodGet, serverPath(args[0], ""), nil, &s); err != nil {
				return err
			}
			return printOne(a, s, serverColumns)
		},
	}
}

func (a *app) serverShow() *cobra.Command {
	return a.serverCommand("show NAME|ID", "Show a server, and what is left on it", func(context.Context, *client, string) error { return nil })
}

func (a *app) serverActivate() *cobra.Command {
	return a.serverCommand("activate NAME|ID", "Place tenants on a server again, and end its drain", func(ctx context.Context, client *client, name string) error {
		return client.call(ctx, http.MethodPost, serverPath(name, "/activate"), nil, nil)
	})
}

func (a *app) serverRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME|ID", Short: "Forget a server that nothing is left on", Args: cobra.ExactArgs(1),
		Long: "Forgets a server that was drained. Nothing is done on the server itself: our roles and templates stay\n" +
			"there. Of one that does not come back (ouvira server set NAME --status offline) databases are forgotten\n" +
			"that tenants have left and that were kept ready; tenants have to be restored elsewhere before.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodDelete, serverPath(args[0], ""), nil, nil)
		},
	}
}

func (a *app) serverDrain() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "drain NAME|ID", Short: "Move all tenants of a server to others, and place no new ones there", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			started, err := a.begin(cmd.Context(), client, serverPath(args[0], "/drain"), nil, wait)
			if err != nil {
				return err
			}
			if !wait {
				return printOne(a, started.Operation, operationColumns)
			}
			var s server
			if err := client.call(cmd.Context(), http.MethodGet, serverPath(args[0], ""), nil, &s); err != nil {
				return err
			}
			return printOne(a, s, serverColumns)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end")
	return c
}

func (a *app) tenantAdopt() *cobra.Command {
	var wait bool
	var on, slug, name, plan string
	c := &cobra.Command{
		Use: "adopt ID --server NAME", Short: "Take in a tenant's database that the control database does not know", Args: cobra.ExactArgs(1),
		Long: "After the control database was lost, or restored from a time before, servers may hold databases of\n" +
			"tenants that it does not know, or knows elsewhere. ouvira doctor names them with their ids. The role\n" +
			"gets a new password, everyone is signed out, and the tenant is served; one whose role was fenced comes\n" +
			"back suspended. A tenant that is not known needs a slug.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			body := map[string]string{"tenant_id": args[0]}
			for key, value := range map[string]string{"slug": slug, "name": name, "plan": plan} {
				if value != "" {
					body[key] = value
				}
			}
			started, err := a.begin(cmd.Context(), client, serverPath(on, "/adopt"), body, wait)
			if err != nil {
				return err
			}
			if !wait {
				return printOne(a, started.Operation, operationColumns)
			}
			return a.printTenant(cmd.Context(), client, args[0])
		},
	}
	c.Flags().StringVar(&on, "server", "", "which server holds the database")
	c.Flags().StringVar(&slug, "slug", "", "slug of a tenant that is not known")
	c.Flags().StringVar(&name, "name", "", "its name (default: the slug)")
	c.Flags().StringVar(&plan, "plan", "", "code of its plan")
	_ = c.MarkFlagRequired("server")
	waitFlag(c, &wait)
	return c
}

func (a *app) serverPrepare() *cobra.Command {
	var address string
	c := a.serverCommand("prepare NAME|ID", "Prepare a server again, for what this release needs", func(ctx context.Context, client *client, name string) error {
		url := address
		if url == "-" {
			var err error
			if url, err = a.secret("", true); err != nil {
				return err
			}
		}
		return client.call(ctx, http.MethodPost, serverPath(name, "/prepare"), map[string]string{"url": url}, nil)
	})
	c.Flags().StringVar(&address, "postgres-url", "", "postgres:// address of a superuser, which is not kept; - reads it from standard input")
	_ = c.MarkFlagRequired("postgres-url")
	return c
}

func (a *app) serverSet() *cobra.Command {
	var status, region, address string
	var databases, connections, storage int
	var c *cobra.Command
	said := func(flag string) bool { return c.Flags().Changed(flag) }
	c = a.serverCommand("set NAME|ID", "Change capacity, region, status or address of a server", func(ctx context.Context, client *client, name string) error {
		body := map[string]any{}
		if status != "" {
			body["status"] = status
		}
		if said("region") {
			body["region"] = region
		}
		capacity := map[string]int{}
		for flag, n := range map[string]int{"databases": databases, "connections": connections, "storage-mb": storage} {
			if said(flag) {
				capacity[strings.ReplaceAll(flag, "-", "_")] = n // one that is too small is refused with its name
			}
		}
		if len(capacity) > 0 {
			body["capacity"] = capacity
		}
		if address != "" {
			host, port, err := net.SplitHostPort(address)
			number, numberErr := strconv.Atoi(port)
			if err != nil || numberErr != nil {
				return usageError{errors.New("--address must be like pg.example.com:5432")}
			}
			body["address"] = map[string]any{"host": host, "port": number}
		}
		if len(body) == 0 {
			return usageError{errors.New("say what to change: --databases, --connections, --storage-mb, --region, --status or --address")}
		}
		return client.call(ctx, http.MethodPatch, serverPath(name, ""), body, nil)
	})
	c.Flags().IntVar(&databases, "databases", 0, "how many tenants may live there")
	c.Flags().IntVar(&connections, "connections", 0, "how many connections all processes together may hold")
	c.Flags().IntVar(&storage, "storage-mb", 0, "how many megabytes all databases together may take (0: nothing is said any more)")
	c.Flags().StringVar(&region, "region", "", "where it stands; \"\" forgets it")
	_ = c.Flags().SetAnnotation("region", mayBeEmpty, nil)
	c.Flags().StringVar(&status, "status", "", "active, draining or offline")
	c.Flags().StringVar(&address, "address", "", "host:port, after a failover")
	return c
}
