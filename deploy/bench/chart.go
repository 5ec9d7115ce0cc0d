package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// chart is drawn by whoever shows Markdown with Mermaid, as GitHub does: its
// text is readable where nobody does, and there is no picture to keep in step.
type chart struct {
	title, y string
	line     bool // of points that belong together, instead of bars
	labels   []string
	values   []float64
}

func (c *chart) add(label string, value float64) {
	c.labels = append(c.labels, label)
	c.values = append(c.values, value)
}

// write leaves out a chart without values.
func (c *chart) write(b *bytes.Buffer) {
	if len(c.values) == 0 {
		return
	}
	kind := "bar"
	if c.line {
		kind = "line"
	}
	labels, values := make([]string, len(c.labels)), make([]string, len(c.values))
	for i := range c.values {
		labels[i] = fmt.Sprintf("%q", c.labels[i])
		values[i] = fmt.Sprintf("%.3f", c.values[i]) // Mermaid knows no exponents
	}
	highest := slices.Max(c.values)
	fmt.Fprintf(b, "```mermaid\nxychart-beta\n    title %q\n    x-axis [%s]\n    y-axis %q 0 --> %s\n    %s [%s]\n```\n\n",
		c.title, strings.Join(labels, ", "), c.y, axis(highest), kind, strings.Join(values, ", "))
}

// axis ends a little above the highest value.
func axis(highest float64) string {
	top := highest * 1.1
	switch {
	case top <= 0:
		return "1"
	case top < 10:
		return fmt.Sprintf("%.3f", top)
	default:
		return fmt.Sprintf("%.0f", top)
	}
}
