package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// key of one of the planes, as the API shows it.
type key struct {
	Kind  string    `json:"kind"`
	ID    uint32    `json:"id"`
	State string    `json:"state"`
	Needs []keyNeed `json:"needs"`
	Free  bool      `json:"free"`
}

type keyNeed struct {
	What  string     `json:"what"`
	Count int        `json:"count"`
	Until *time.Time `json:"until"`
}

// needs is "3 backups until 2026-12-27, 2 servers".
func (k key) needs() string {
	parts := make([]string, 0, len(k.Needs))
	for _, n := range k.Needs {
		what, unseen := strings.CutSuffix(n.What, "_unseen")
		text := strconv.Itoa(n.Count) + " " + strings.ReplaceAll(what, "_", " ")
		switch {
		case what == "recent":
			text = "what was made within the last 15 minutes"
		case what == "mails":
			text += " that wait to be sent"
		case unseen:
			text += " not looked at yet"
		}
		if n.Until != nil {
			text += " until " + n.Until.UTC().Format(time.DateOnly)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func (k key) remark() string {
	switch {
	case k.Free:
		return "may be removed"
	case k.State == "missing":
		return "put it back"
	}
	return ""
}

var keyColumns = []column[key]{
	{"kind", false, func(k key) string { return k.Kind }},
	{"key", false, func(k key) string { return strconv.FormatUint(uint64(k.ID), 10) }},
	{"state", false, func(k key) string { return k.State }},
	{"needed by", false, key.needs},
	{"remark", false, key.remark},
}

func (a *app) key() *cobra.Command {
	group := &cobra.Command{Use: "key", Short: "The keys of both planes"}
	group.AddCommand(a.keyList(), a.keyRotate())
	return group
}

func (a *app) keyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Which keys there are, and what needs each of them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.printKeys(cmd, client)
		},
	}
}

func (a *app) printKeys(cmd *cobra.Command, client *client) error {
	var keys struct {
		Items []key `json:"items"`
	}
	if err := client.call(cmd.Context(), http.MethodGet, "/v1/keys", nil, &keys); err != nil {
		return err
	}
	return printList(a, keys.Items, keyColumns)
}

func (a *app) keyRotate() *cobra.Command {
	var wait bool
	kinds := []string{"control", "data"}
	c := &cobra.Command{
		Use: "rotate control|data", Short: "Leave nothing to the keys that do not seal any more", Args: cobra.ExactArgs(1), ValidArgs: kinds,
		Long: "The new key is put into the key files first (controlplane keys add and promote, dataplane keys add and promote),\n" +
			"with a restart of all processes, one by one, after each of the two.\n\n" +
			"What the control plane has sealed is then sealed anew. Each tenant's database role gets another password, and\n" +
			"each tenant another signing key, which takes some 20 minutes; nodes seal the users' second factors anew.\n" +
			"Archives of backups stay as they are. ouvira key list shows when nothing needs an earlier key any more.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(kinds, args[0]) {
				return usageError{errors.New("which key: control or data?")}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			var started struct {
				Operation operation `json:"operation"`
			}
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/keys/"+url.PathEscape(args[0])+"/rotate", nil, &started); err != nil {
				return err
			}
			if !wait {
				return printOne(a, started.Operation, operationColumns)
			}
			if err := a.follow(cmd.Context(), client, started.Operation.ID); err != nil {
				return err
			}
			return a.printKeys(cmd, client)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end, then list the keys")
	return c
}

// missingKeys are findings of the doctor.
func missingKeys(keys []key) []finding {
	var findings []finding
	for _, k := range keys {
		if k.State != "missing" {
			continue
		}
		findings = append(findings, finding{
			Code: "key_missing", Severity: "error", Object: fmt.Sprintf("%s key %d", k.Kind, k.ID),
			Message: "Something is sealed with a key that no process has: " + k.needs() + ".",
			Action:  "Put the key back into the key file of the " + k.Kind + " plane and restart its processes, then ouvira key rotate " + k.Kind + ".",
		})
	}
	return findings
}
