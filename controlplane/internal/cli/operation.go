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
)

// operation as the API shows it.
type operation struct {
	ID       string  `json:"id"`
	Kind     string  `json:"kind"`
	TenantID *string `json:"tenant_id"`
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
	CreatedAt time.Time `json:"created_at"`
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

var operationColumns = []column[operation]{
	{"id", false, func(o operation) string { return o.ID }},
	{"kind", false, func(o operation) string { return o.Kind }},
	{"status", false, func(o operation) string { return o.Status }},
	{"progress", false, func(o operation) string { return fmt.Sprintf("%.0f %%", 100*o.Progress) }},
	{"created", false, func(o operation) string { return moment(o.CreatedAt) }},
	{"reason", false, operation.why},
}

func (a *app) operation() *cobra.Command {
	group := &cobra.Command{Use: "operation", Short: "Long-running work"}
	list := &cobra.Command{
		Use: "list", Short: "List operations, the newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[operation](cmd.Context(), client, "/v1/operations", url.Values{}, 50)
			if err != nil {
				return err
			}
			return printList(a, items, operationColumns)
		},
	}
	watch := &cobra.Command{
		Use: "watch ID", Short: "Follow an operation to its end", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), client, args[0])
		},
	}
	group.AddCommand(list, watch)
	return group
}

// follow shows the steps of an operation until it has finished. A stream that
// breaks is taken up again.
func (a *app) follow(ctx context.Context, c *client, id string) error {
	seen := &progress{app: a, shown: map[string]string{}}
	for {
		o, err := c.stream(ctx, id, seen.show)
		if err == nil && !o.finished() { // broke, or the server is restarting
			err = c.call(ctx, http.MethodGet, "/v1/operations/"+url.PathEscape(id), nil, &o)
		}
		switch {
		case err != nil:
			return err
		case o.Status == "succeeded":
			return nil
		case o.finished():
			return fmt.Errorf("the operation has %s: %s", o.Status, o.why())
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the operation goes on: ouvira operation watch " + id)
		case <-time.After(time.Second):
		}
	}
}

// stream reads the operation's events until the stream ends and gives the last
// one.
func (c *client) stream(ctx context.Context, id string, see func(operation)) (operation, error) {
	var last operation
	r, err := c.request(ctx, http.MethodGet, "/v1/operations/"+url.PathEscape(id)+"/events", nil)
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

// progress prints what has changed since it last looked.
type progress struct {
	app   *app
	shown map[string]string
	why   string
}

func (p *progress) show(o operation) {
	for _, s := range o.Steps {
		if s.Status == "pending" || p.shown[s.Name] == s.Status {
			continue
		}
		p.shown[s.Name] = s.Status
		switch {
		case s.Status == "succeeded" && s.StartedAt != nil && s.FinishedAt != nil:
			fmt.Fprintf(p.app.Err, "  %-10s done in %s\n", s.Name, s.FinishedAt.Sub(*s.StartedAt).Round(time.Millisecond))
		case s.Status == "failed":
			fmt.Fprintf(p.app.Err, "  %-10s failed\n", s.Name)
		}
	}
	if why := o.why(); why != p.why {
		p.why = why
		if why != "" && !o.finished() {
			fmt.Fprintf(p.app.Err, "  waiting: %s\n", clean(why))
		}
	}
}
