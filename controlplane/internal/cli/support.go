package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// supportCode is what lets an operator into a tenant, once.
type supportCode struct {
	ID        string    `json:"id"`
	Code      string    `json:"code"`
	RedeemURL string    `json:"redeem_url"`
	ExpiresAt time.Time `json:"expires_at"`
}

var supportCodeColumns = []column[supportCode]{
	{"code", false, func(s supportCode) string { return s.Code }},
	{"redeem at", false, func(s supportCode) string { return s.RedeemURL }},
	{"expires", false, func(s supportCode) string { return moment(s.ExpiresAt) }},
}

func (a *app) support() *cobra.Command {
	group := &cobra.Command{Use: "support", Short: "Enter a tenant, to help"}
	var reason string
	var minutes int
	var write, breakGlass bool
	enter := &cobra.Command{
		Use: "enter SLUG|ID", Short: "Get a code for a session in a tenant; its owners are told when it is used", Args: cobra.ExactArgs(1),
		Long: "Gets a code for a session in a tenant. It is redeemed once, at the address shown, for a token:\n\n" +
			"  curl ADDRESS -H 'Content-Type: application/json' -d '{\"code\":\"CODE\"}'\n\n" +
			"An owner of the tenant must have let support in. With --break-glass, which takes an owner of the\n" +
			"platform and a fresh second factor, nobody must, and the session only reads. All owners of the\n" +
			"tenant are mailed when the code is used.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var made supportCode
			body := map[string]any{"reason": reason, "minutes": minutes, "write": write, "break_glass": breakGlass}
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/tenants/"+url.PathEscape(args[0])+"/support-sessions", body, &made); err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "Good once, for 5 minutes; the session lasts %d minutes.\n", minutes)
			return printOne(a, made, supportCodeColumns)
		},
	}
	enter.Flags().StringVar(&reason, "reason", "", "why; the tenant's owners and both audits are told")
	enter.Flags().IntVar(&minutes, "minutes", 15, "how long the session lasts, 1 to 60")
	enter.Flags().BoolVar(&write, "write", false, "change things too, where an owner has allowed it")
	enter.Flags().BoolVar(&breakGlass, "break-glass", false, "an emergency: enter without the tenant's consent, to read")
	_ = enter.MarkFlagRequired("reason")
	group.AddCommand(enter)
	return group
}
