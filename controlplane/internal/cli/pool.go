package cli

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// warmPool as the API shows it.
type warmPool struct {
	Server    string    `json:"server"`
	Plan      string    `json:"plan"`
	Size      int       `json:"size"`
	Ready     int       `json:"ready"`
	Making    int       `json:"making"`
	Outdated  int       `json:"outdated"`
	UpdatedAt time.Time `json:"updated_at"`
}

var warmPoolColumns = []column[warmPool]{
	{"server", false, func(w warmPool) string { return w.Server }},
	{"plan", false, func(w warmPool) string { return w.Plan }},
	{"size", false, func(w warmPool) string { return strconv.Itoa(w.Size) }},
	{"ready", false, func(w warmPool) string { return strconv.Itoa(w.Ready) }},
	{"making", false, func(w warmPool) string { return strconv.Itoa(w.Making) }},
	{"outdated", true, func(w warmPool) string { return strconv.Itoa(w.Outdated) }},
	{"updated", true, func(w warmPool) string { return moment(w.UpdatedAt) }},
}

func (a *app) pool() *cobra.Command {
	group := &cobra.Command{Use: "pool", Short: "Databases that are kept ready for new tenants"}
	group.AddCommand(a.poolList(), a.poolResize())
	return group
}

func (a *app) poolList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "How many are kept ready, and how many are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.printPool(cmd, client, http.MethodGet, nil)
		},
	}
}

func (a *app) poolResize() *cobra.Command {
	var plan string
	c := &cobra.Command{
		Use: "resize SERVER SIZE", Short: "Say how many databases to keep ready on a server", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := strconv.Atoi(args[1])
			if err != nil {
				return usageError{errors.New("SIZE must be a number")}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.printPool(cmd, client, http.MethodPut, map[string]any{"server": args[0], "plan": plan, "size": size})
		},
	}
	c.Flags().StringVar(&plan, "plan", "standard", "code of the plan of the tenants that they are for")
	return c
}

func (a *app) printPool(cmd *cobra.Command, client *client, method string, body any) error {
	var pools struct {
		Items []warmPool `json:"items"`
	}
	if err := client.call(cmd.Context(), method, "/v1/warm-pool", body, &pools); err != nil {
		return err
	}
	return printList(a, pools.Items, warmPoolColumns)
}
