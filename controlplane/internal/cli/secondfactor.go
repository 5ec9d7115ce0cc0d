package cli

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// enrolment of a second factor, as the API shows it once.
type enrolment struct {
	Secret      string   `json:"secret"`
	URL         string   `json:"url"`
	BackupCodes []string `json:"backup_codes"`
}

var enrolmentColumns = []column[enrolment]{
	{"secret", false, func(e enrolment) string { return e.Secret }},
	{"url", false, func(e enrolment) string { return e.URL }},
	{"backup codes", false, func(e enrolment) string { return strings.Join(e.BackupCodes, " ") }},
}

func (a *app) secondFactor() *cobra.Command {
	group := &cobra.Command{Use: "2fa", Short: "Your second factor: an authenticator app"}
	enable := &cobra.Command{
		Use: "enable", Short: "Begin with a second factor; shows the secret for the app, and backup codes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var made enrolment
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/auth/2fa", nil, &made); err != nil {
				return err
			}
			fmt.Fprintln(a.Err, "Put the secret into your app and keep the backup codes. Then: ouvira 2fa confirm CODE")
			return printOne(a, made, enrolmentColumns)
		},
	}
	confirm := &cobra.Command{
		Use: "confirm CODE", Short: "Show the first code; logins ask for one from now on", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodPost, "/v1/auth/2fa/confirm", map[string]string{"code": args[0]}, nil)
		},
	}
	var code string
	var fromStdin bool
	disable := &cobra.Command{
		Use: "disable", Short: "Take the second factor away", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			password, err := a.secret("Password: ", fromStdin)
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodPost, "/v1/auth/2fa/disable", map[string]string{"password": password, "otp": code}, nil)
		},
	}
	disable.Flags().StringVar(&code, "otp", "", "a code of it, or a backup code")
	disable.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	_ = disable.MarkFlagRequired("otp")
	group.AddCommand(enable, confirm, disable)
	return group
}
