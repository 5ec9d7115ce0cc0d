package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples of the commands, by what comes after `ouvira`: one for each that takes more
// than its name. A test runs their words through the command line.
var examples = map[string]string{ //nolint:gosec // names of flags, no credentials
	"login":                    "--email ada@ouvira.example",
	"2fa confirm":              "123456",
	"2fa disable":              "--otp 123456",
	"apikey create":            "nightly --scope tenant.read,tenant.backup --days 90",
	"apikey revoke":            "01900000-0000-7000-8000-000000000001",
	"audit list":               "--tenant acme --limit 20",
	"backup list":              "acme",
	"backup rule":              "standard --every-hours 6 --keep 40",
	"doctor":                   "--fix",
	"domain add":               "acme shop.acme.example",
	"domain check":             "acme shop.acme.example",
	"domain list":              "acme",
	"domain primary":           "acme shop.acme.example",
	"domain remove":            "acme shop.acme.example",
	"domain verify":            "acme shop.acme.example",
	"key rotate":               "control --wait",
	"operation cancel":         "01900000-0000-7000-8000-000000000001 --wait",
	"operation list":           "--status failed",
	"operation show":           "01900000-0000-7000-8000-000000000001",
	"operation watch":          "01900000-0000-7000-8000-000000000001",
	"operator activate":        "grace@ouvira.example",
	"operator create":          "--email ada@ouvira.example",
	"operator deactivate":      "grace@ouvira.example",
	"operator invite":          "grace@ouvira.example --role operator",
	"operator list":            "--invited",
	"operator reset-2fa":       "grace@ouvira.example",
	"operator role":            "grace@ouvira.example auditor",
	"operator uninvite":        "grace@ouvira.example",
	"plan create":              "large --name Large --connections 20 --storage-mb 50000 --users 500 --over-quota refuse",
	"plan delete":              "large",
	"plan show":                "large",
	"plan update":              "large --connections 30 --limit login_per_address=600",
	"pool resize":              "a 5 --plan standard",
	"server activate":          "a",
	"server add":               "c --postgres-url - --databases 500 --connections 160",
	"server drain":             "a --wait",
	"server prepare":           "a --postgres-url -",
	"server remove":            "a",
	"server set":               "a --connections 200 --storage-mb 200000",
	"server show":              "a",
	"signup approve":           "01900000-0000-7000-8000-000000000001 --wait",
	"signup list":              "--status pending_approval",
	"signup reject":            `01900000-0000-7000-8000-000000000001 --reason "Not a customer."`,
	"support enter":            `acme --reason "Ticket 4711" --minutes 30`,
	"tenant adopt":             "01900000-0000-7000-8000-000000000001 --server a --slug acme --wait",
	"tenant backup":            "acme --wait",
	"tenant clone":             "acme acme-try --sandbox --wait",
	"tenant create":            `acme --name Acme --owner-email owner@acme.example --owner-name "Ada Owner" --wait`,
	"tenant delete":            "acme --confirm acme --wait",
	"tenant export":            "acme -f acme.tar",
	"tenant import":            "acme.tar --slug acme-again --wait",
	"tenant list":              "-q acme --status active -o json",
	"tenant move":              "acme --server b --wait",
	"tenant pay":               "acme --amount 1200.00 --currency EUR --period-end 2027-12-31 --reference invoice-3",
	"tenant payments":          "acme",
	"tenant purge":             "acme --confirm acme --wait",
	"tenant restore":           "acme --backup 01900000-0000-7000-8000-000000000001 --as acme-before --wait",
	"tenant resume":            "acme",
	"tenant retry":             "acme --wait",
	"tenant rotate":            "acme --signing-key --wait",
	"tenant set":               "acme --plan large --setting require_2fa=true",
	"tenant show":              "acme",
	"tenant sign-out-everyone": "acme",
	"tenant suspend":           `acme --reason "Unpaid since December."`,
	"tenant undelete":          "acme --wait",
	"tenant usage":             "acme --by hour",
	"webhook activate":         "01900000-0000-7000-8000-000000000001",
	"webhook add":              "https://hooks.example.com/ouvira --event tenant.created,tenant.deleted",
	"webhook deliveries":       "01900000-0000-7000-8000-000000000001 --status dead",
	"webhook disable":          "01900000-0000-7000-8000-000000000001",
	"webhook redeliver":        "01900000-0000-7000-8000-000000000002",
	"webhook remove":           "01900000-0000-7000-8000-000000000001",
	"webhook test":             "01900000-0000-7000-8000-000000000001",
}

// exemplify gives the commands below c their examples.
func exemplify(c *cobra.Command) {
	_, name, _ := strings.Cut(c.CommandPath(), " ")
	if words := examples[name]; words != "" {
		c.Example = "  ouvira " + name + " " + words
	}
	for _, sub := range c.Commands() {
		exemplify(sub)
	}
}
