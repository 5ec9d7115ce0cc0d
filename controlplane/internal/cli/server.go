package cli

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// server as the API shows it.
type server struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
	TLSMode  string `json:"tls_mode"`
	Region   string `json:"region"`
	Status   string `json:"status"`
	Version  int    `json:"postgres_version"`
	Capacity struct {
		Databases   int `json:"databases"`
		Connections int `json:"connections"`
		StorageMB   int `json:"storage_mb"`
	} `json:"capacity"`
	Stored    int64     `json:"stored_bytes"`
	Databases int       `json:"databases"`
	Tenants   int       `json:"tenants"`
	Free      int       `json:"free"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

var serverColumns = []column[server]{
	{"name", false, func(s server) string { return s.Name }},
	{"status", false, func(s server) string { return s.Status }},
	{"address", false, func(s server) string { return s.Host + ":" + strconv.Itoa(s.Port) }},
	{"postgres", false, func(s server) string {
		return strconv.Itoa(s.Version/10000) + "." + strconv.Itoa(s.Version%10000)
	}},
	{"tenants", false, func(s server) string { return strconv.Itoa(s.Tenants) }},
	{"databases", false, func(s server) string {
		return strconv.Itoa(s.Databases) + "/" + strconv.Itoa(s.Capacity.Databases)
	}},
	{"connections", false, func(s server) string { return strconv.Itoa(s.Capacity.Connections) }},
	{"storage", true, server.storage},
	{"tls", true, func(s server) string { return s.TLSMode }},
	{"region", true, func(s server) string { return s.Region }},
	{"id", true, func(s server) string { return s.ID }},
}

// storage is what is stored, of what may be.
func (s server) storage() string {
	text := bytesText(s.Stored)
	if s.Capacity.StorageMB > 0 {
		text += " of " + bytesText(int64(s.Capacity.StorageMB)<<20)
	}
	return text
}

func (a *app) server() *cobra.Command {
	group := &cobra.Command{Use: "server", Short: "Postgres servers that hold tenants"}
	group.AddCommand(a.serverAdd(), a.serverList(), a.serverShow(), a.serverSet(), a.serverPrepare(), a.serverDrain(), a.serverActivate(), a.serverRemove())
	return group
}

func (a *app) serverAdd() *cobra.Command {
	var address, region, mode, caFile string
	var databases, connections, storage int
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a Postgres server and prepare it", Args: cobra.ExactArgs(1),
		Long: "Adds a Postgres server. The address is that of a superuser: the server is prepared with it and the\n" +
			"credential is not kept. Other users of this machine can read command lines: use --postgres-url - and\n" +
			"give the address on standard input.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if address == "-" {
				if address, err = a.secret("", true); err != nil {
					return err
				}
			}
			body := map[string]any{
				"name": args[0], "url": address,
				"capacity": map[string]int{"databases": databases, "connections": connections, "storage_mb": storage},
			}
			if region != "" {
				body["region"] = region
			}
			tls := map[string]string{}
			if mode != "" {
				tls["mode"] = mode
			}
			if caFile != "" {
				ca, err := os.ReadFile(caFile)
				if err != nil {
					return usageError{errors.New("the file of --tls-ca-file cannot be read")}
				}
				tls["ca"] = string(ca)
			}
			if len(tls) > 0 {
				body["tls"] = tls
			}
			var added server
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/servers", body, &added); err != nil {
				return err
			}
			return printOne(a, added, serverColumns)
		},
	}
	c.Flags().StringVar(&address, "postgres-url", "", "postgres:// address of a superuser; - reads it from standard input")
	c.Flags().IntVar(&databases, "databases", 500, "how many tenants may live there")
	c.Flags().IntVar(&connections, "connections", 80, "how many connections all processes together may hold")
	c.Flags().IntVar(&storage, "storage-mb", 0, "how many megabytes all databases together may take (0: nothing is said)")
	c.Flags().StringVar(&region, "region", "", "where it stands")
	c.Flags().StringVar(&mode, "tls-mode", "", "disable, require, verify-ca or verify-full (default: sslmode of the address)")
	c.Flags().StringVar(&caFile, "tls-ca-file", "", "PEM file with the CA (default: the system's roots)")
	_ = c.MarkFlagRequired("postgres-url")
	return c
}

func (a *app) serverList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List Postgres servers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[server](cmd.Context(), client, "/v1/servers", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, serverColumns)
		},
	}
}
