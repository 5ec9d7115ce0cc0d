package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
)

// column of a table. Wide ones are shown with -o wide only.
type column[T any] struct {
	name string
	wide bool
	text func(T) string
}

// printList shows a list as a table, or as the documents of the API.
func printList[T any](a *app, items []T, columns []column[T]) error {
	if a.format == "json" || a.format == "yaml" {
		if items == nil {
			items = []T{}
		}
		return a.document(items)
	}
	w := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if !c.wide || a.format == "wide" {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
	}
	row(func(c column[T]) string { return strings.ToUpper(c.name) })
	for _, item := range items {
		row(func(c column[T]) string { return clean(c.text(item)) })
	}
	return w.Flush()
}

// printOne shows one thing, a line per column.
func printOne[T any](a *app, item T, columns []column[T]) error {
	if a.format == "json" || a.format == "yaml" {
		return a.document(item)
	}
	w := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
	for _, c := range columns {
		fmt.Fprintf(w, "%s:\t%s\n", c.name, clean(c.text(item)))
	}
	return w.Flush()
}

// document writes JSON or YAML with the API's field names.
func (a *app) document(v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	if a.format == "json" {
		fmt.Fprintln(a.Out, string(raw))
		return nil
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(raw, &tree); err != nil { // JSON is YAML
		return fmt.Errorf("write YAML: %w", err)
	}
	block(&tree)
	text, err := yaml.Marshal(&tree)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	_, err = a.Out.Write(text)
	return err
}

// block drops JSON's style from a tree that was read from it.
func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
}

// clean keeps what somebody typed into a form from moving the cursor of the
// terminal it is shown on.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '�'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s
}

func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func optionalMoment(t *time.Time) string {
	if t == nil {
		return ""
	}
	return moment(*t)
}

// count is a number of things: "1 server", "2 servers".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, names := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; value >= unit && i < len(names)-1; i++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %s", value, names[i])
}
