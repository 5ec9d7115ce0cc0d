package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ouvira/ouvira/shared/pause"
)

// operation as the API shows it.
type operation struct {
	ID       string  `json:"id"`
	Kind     string  `json:"kind"`
	TenantID *string `json:"tenant_id"`
	Tenant   *string `json:"tenant"`
	Status   string  `json:"status"`
	Steps    []struct {
		Name       string     `json:"name"`
		Status     string     `json:"status"`
		StartedAt  *time.Time `json:"started_at"`
		FinishedAt *time.Time `json:"finished_at"`
	} `json:"steps"`
	Progress float64 `json:"progress"`
	Error    *struct {
		Code       string `json:"code"`
		Message    string `json:"message"`
		NextAction string `json:"next_action"`
	} `json:"error"`
	CreatedBy  string     `json:"created_by"`
	CreatedAt  time.Time  `json:"created_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

func (o operation) finished() bool {
	return o.Status == "succeeded" || o.Status == "failed" || o.Status == "cancelled"
}

func (o operation) why() string {
	if o.Error == nil {
		return ""
	}
	return strings.TrimSpace(o.Error.Message + " " + o.Error.NextAction)
}

// step is where the operation is: at work, waiting, or where it has failed.
func (o operation) step() string {
	for _, s := range o.Steps {
		if s.Status != "succeeded" {
			return s.Name
		}
	}
	return ""
}

var operationColumns = []column[operation]{
	{"id", false, func(o operation) string { return o.ID }},
	{"kind", false, func(o operation) string { return o.Kind }},
	{"tenant", false, func(o operation) string { return deref(o.Tenant) }},
	{"status", false, func(o operation) string { return o.Status }},
	{"progress", false, func(o operation) string { return fmt.Sprintf("%.0f %%", 100*o.Progress) }},
	{"step", false, operation.step},
	{"created", false, func(o operation) string { return moment(o.CreatedAt) }},
	{"reason", false, operation.why},
	{"finished", true, func(o operation) string { return optionalMoment(o.FinishedAt) }},
	{"by", true, func(o operation) string { return o.CreatedBy }},
	{"tenant id", true, func(o operation) string { return deref(o.TenantID) }},
}

func (a *app) operation() *cobra.Command {
	group := &cobra.Command{Use: "operation", Short: "Long-running work"}
	group.AddCommand(a.operationList(), a.operationShow(), a.operationWatch(), a.operationCancel())
	return group
}

func operationPath(id string) string { return "/v1/operations/" + url.PathEscape(id) }

func (a *app) operationList() *cobra.Command {
	var status, kind string
	var unresolved bool
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List operations, the newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			for name, value := range map[string]string{"status": status, "kind": kind} {
				if value != "" {
					query.Set(name, value)
				}
			}
			if unresolved {
				query.Set("unresolved", "true")
			}
			items, err := all[operation](cmd.Context(), client, "/v1/operations", query, limit)
			if err != nil {
				return err
			}
			return printList(a, items, operationColumns)
		},
	}
	c.Flags().StringVar(&status, "status", "", "queued, running, succeeded, failed or cancelled")
	c.Flags().StringVar(&kind, "kind", "", "such as tenant.move")
	c.Flags().BoolVar(&unresolved, "unresolved", false, "only what has failed, and has not succeeded since")
	c.Flags().IntVar(&limit, "limit", 50, "at most so many (0: all)")
	return c
}

func (a *app) operationShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an operation as it is now", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.printOperation(cmd.Context(), client, args[0])
		},
	}
}

func (a *app) printOperation(ctx context.Context, c *client, id string) error {
	var o operation
	if err := c.call(ctx, http.MethodGet, operationPath(id), nil, &o); err != nil {
		return err
	}
	return printOne(a, o, operationColumns)
}

func (a *app) operationWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow an operation to its end", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), client, args[0])
		},
	}
}

func (a *app) operationCancel() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "cancel ID", Short: "Give an operation up, and remove what it has made", Args: cobra.ExactArgs(1),
		Long: "Gives an operation up that is queued or running: a move, a drain, a clone, a restore, an import, an\n" +
			"export or a backup. What it has made is removed, as if it had failed. When it has passed its point of\n" +
			"no return (a move once the other server serves the tenant, a copy once the new tenant is served) it\n" +
			"can only go on: exit code 4. A drain lets moves that are under way finish, and leaves the server\n" +
			"draining (ouvira server activate).",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.call(cmd.Context(), http.MethodPost, operationPath(args[0])+"/cancel", nil, nil); err != nil {
				return err
			}
			if wait {
				ended, err := a.ended(cmd.Context(), client, args[0])
				if err != nil {
					return err
				}
				if ended.Status != "cancelled" {
					return ended.outcome()
				}
			}
			return a.printOperation(cmd.Context(), client, args[0])
		},
	}
	waitFlag(c, &wait)
	return c
}

// follow shows the steps of an operation until it has finished. Errors: it did not
// succeed.
func (a *app) follow(ctx context.Context, c *client, id string) error {
	o, err := a.ended(ctx, c, id)
	if err != nil {
		return err
	}
	return o.outcome()
}

// outcome is nil for an operation that has succeeded.
func (o operation) outcome() error {
	switch o.Status {
	case "succeeded":
		return nil
	case "cancelled":
		return fmt.Errorf("the operation was cancelled: %s", o.why())
	}
	return fmt.Errorf("the operation has %s: %s", o.Status, o.why())
}

// patience is how long a control plane that does not answer is waited for: it is
// being restarted, or the network is away.
const patience = 5 * time.Minute

// ended shows the steps of an operation until it has finished, and gives it as it is
// then. A stream that breaks is taken up again.
func (a *app) ended(ctx context.Context, c *client, id string) (operation, error) {
	seen := &progress{app: a, shown: map[string]string{}}
	defer seen.end()
	heard := time.Now()
	for {
		o, err := c.stream(ctx, id, seen.show, func() { seen.note("nobody has taken it up yet: does a worker run?") })
		if err != nil || !o.finished() { // broke, or the server is restarting; the call also renews the login
			o, err = operation{}, c.call(ctx, http.MethodGet, operationPath(id), nil, &o)
		}
		switch {
		case ctx.Err() != nil:
			return o, errInterrupted{id}
		case err == nil && o.finished():
			return o, nil
		case err == nil:
			heard = time.Now()
		case !passes(err):
			return o, err
		case time.Since(heard) > patience:
			return o, fmt.Errorf("%w\n  The operation goes on; follow it: ouvira operation watch %s", err, id)
		default:
			seen.note("the control plane does not answer; the operation goes on, and so does the wait")
		}
		if !pause.For(ctx, time.Second) {
			return o, errInterrupted{id}
		}
	}
}

// errInterrupted is what Ctrl-C leaves: the operation is not ended by it.
type errInterrupted struct{ id string }

func (e errInterrupted) Error() string {
	return "interrupted; the operation goes on. Follow it: ouvira operation watch " + e.id + "; give it up: ouvira operation cancel " + e.id
}

// passes tells whether a control plane that answers so may do better in a moment.
func passes(err error) bool {
	var unanswered *silent
	var refused *apiError
	return errors.As(err, &unanswered) || errors.As(err, &refused) && refused.Status >= http.StatusInternalServerError
}

// stream reads the operation's events until the stream ends and gives the last
// one. quiet is called now and then while nothing happens to one that is queued.
func (c *client) stream(ctx context.Context, id string, see func(operation), quiet func()) (operation, error) {
	var last operation
	r, err := c.request(ctx, http.MethodGet, operationPath(id)+"/events", nil)
	if err != nil {
		return last, err
	}
	streaming := &http.Client{CheckRedirect: noRedirect} // without a timeout of the whole
	answer, err := streaming.Do(r)
	if err != nil {
		return last, unreachable(c.base, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return last, &apiError{Status: answer.StatusCode}
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			if strings.HasPrefix(lines.Text(), ":") && last.Status == "queued" && last.Error == nil {
				quiet()
			}
			continue
		}
		last = operation{}
		if err := json.Unmarshal([]byte(data), &last); err != nil {
			return last, fmt.Errorf("the control plane's event is not what this release expects: %w", err)
		}
		see(last)
	}
	return last, nil // a broken stream is not an error: the caller looks again
}
