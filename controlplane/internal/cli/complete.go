package cli

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	operators "github.com/ouvira/ouvira/controlplane/internal/operator"
)

// completeWithin bounds what the shell waits for when somebody presses a key.
const completeWithin = 3 * time.Second

// candidate is a value and what it is, as shells show it.
type candidate struct{ value, about string }

// source of the values of an argument or a flag. given are the arguments before it.
type source func(ctx context.Context, c *client, given []string) ([]candidate, error)

// named lists what the API has at a path.
func named[T any](path func(given []string) string, one func(T) candidate) source {
	return func(ctx context.Context, c *client, given []string) ([]candidate, error) {
		var p page[T]
		if err := c.call(ctx, http.MethodGet, path(given), nil, &p); err != nil {
			return nil, err
		}
		list := make([]candidate, 0, len(p.Items))
		for _, item := range p.Items {
			list = append(list, one(item))
		}
		return list, nil
	}
}

func at(path string) func([]string) string { return func([]string) string { return path } }

func fixed(values ...string) source {
	return func(context.Context, *client, []string) ([]candidate, error) {
		list := make([]candidate, 0, len(values))
		for _, v := range values {
			list = append(list, candidate{value: v})
		}
		return list, nil
	}
}

func roles() source {
	var names []string
	for _, r := range operators.Roles {
		names = append(names, string(r))
	}
	return fixed(names...)
}

var (
	completeTenants    = named(at("/v1/tenants?limit=100&sort=slug"), func(t tenant) candidate { return candidate{t.Slug, t.Name + ", " + t.Status} })
	completeServers    = named(at("/v1/servers?limit=100"), func(s server) candidate { return candidate{s.Name, s.Status} })
	completePlans      = named(at("/v1/plans?limit=100"), func(p plan) candidate { return candidate{p.Code, p.Name} })
	completeOperations = named(at("/v1/operations?limit=50"), func(o operation) candidate { return candidate{o.ID, o.Kind + ", " + o.Status} })
	completeWebhooks   = named(at("/v1/webhooks?limit=100"), func(w webhook) candidate { return candidate{w.ID, w.URL} })
	completeKeys       = named(at("/v1/api-keys?limit=100"), func(k apiKey) candidate { return candidate{k.ID, k.Name} })
	completePeople     = named(at("/v1/operators?limit=100"), func(p person) candidate { return candidate{p.Email, p.Role} })
	completeSignups    = named(at("/v1/signups?limit=50&status=pending_approval"), func(s signup) candidate { return candidate{s.ID, s.Slug} })
	completeHostnames  = named(func(given []string) string { return domainsOf(given[0]) + "?limit=100" }, func(d domain) candidate { return candidate{d.Hostname, d.Status} })
	completeBackups    = named(func(given []string) string { return tenantPath(given[0], "backups?limit=50") }, func(b backup) candidate { return candidate{b.ID, b.Reason + ", " + moment(b.CreatedAt)} })
)

// argumentSources are by the words in Use; where a word has several meanings, with the
// command before it.
var argumentSources = map[string]source{
	"SLUG|ID": completeTenants, "TENANT": completeTenants, "NAME|ID": completeServers, "SERVER": completeServers,
	"CODE": completePlans, "PLAN": completePlans, "EMAIL": completePeople, "ROLE": roles(), "HOSTNAME": completeHostnames,
	"operation ID": completeOperations, "webhook ID": completeWebhooks, "apikey ID": completeKeys, "signup ID": completeSignups,
}

// noSource are words for something that is not there yet, or that nobody but the
// caller knows.
var noSource = map[string]bool{"plan create CODE": true, "operator invite EMAIL": true, "operator uninvite EMAIL": true, "domain add HOSTNAME": true, "2fa confirm CODE": true}

// flagSources are by the flag; where that has several meanings, with the group before it.
var flagSources = map[string]source{
	"output": fixed("table", "wide", "json", "yaml"), "server": completeServers, "plan": completePlans, "role": roles(),
	"backup": completeBackups, "tls-mode": fixed("disable", "require", "verify-ca", "verify-full"), "sort": fixed("created_at", "-created_at", "slug", "-slug", "name", "-name"),
	"by": fixed("day", "hour"), "over-quota": fixed("notify", "refuse"), "lapse": fixed("notify", "suspend"),
	"tenant":           completeTenants,
	"tenant status":    fixed("provisioning", "active", "suspended", "deleted", "purged", "failed"),
	"signup status":    fixed("pending_verification", "pending_approval", "provisioning", "active", "failed", "expired", "rejected"),
	"webhook status":   fixed("pending", "delivered", "dead"),
	"server status":    fixed("active", "draining", "offline"),
	"operation status": fixed("queued", "running", "succeeded", "failed", "cancelled"),
}

// completions tells every command below c where the values of its arguments and
// flags come from.
func (a *app) completions(c *cobra.Command) {
	group := ""
	if c.HasParent() {
		group = c.Parent().Name()
	}
	c.InitDefaultHelpFlag()
	for name, from := range flagSources {
		in, flag, found := strings.Cut(name, " ")
		if !found {
			in, flag = group, name
		}
		if in == group && c.LocalFlags().Lookup(flag) != nil {
			_ = c.RegisterFlagCompletionFunc(flag, a.completing(from)) // it is there, and has none
		}
	}
	var sources []source
	words := strings.Fields(c.Use)[1:]
	for _, word := range words {
		if strings.HasPrefix(word, "-") {
			break
		}
		from := argumentSources[group+" "+word]
		if from == nil {
			from = argumentSources[word]
		}
		if noSource[group+" "+c.Name()+" "+word] {
			from = nil
		}
		sources = append(sources, from)
	}
	files := len(words) > 0 && words[0] == "FILE"
	if !c.HasSubCommands() && !files {
		c.ValidArgsFunction = func(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(given) >= len(sources) || sources[len(given)] == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completing(sources[len(given)])(cmd, given, typed)
		}
	}
	for _, sub := range c.Commands() {
		a.completions(sub)
	}
}

// completing asks the source. What goes wrong is nobody's business while a command
// line is being typed: there are no values then.
func (a *app) completing(from source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		if a.prepare() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c.confirm = nil // nobody is asked for a password by the tab key
		if len(given) == 0 {
			given = []string{""}
		}
		list, err := from(ctx, c, given)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var lines []string
		for _, v := range list {
			if strings.HasPrefix(v.value, typed) {
				lines = append(lines, cobra.CompletionWithDesc(v.value, clean(v.about)))
			}
		}
		return lines, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}
