package cli

import (
	"fmt"
	"strings"
	"time"
)

// progress shows how far an operation is: a line for what has happened, and on a
// terminal a bar below it that is drawn anew.
type progress struct {
	app   *app
	shown map[string]string
	why   string
	drawn bool
}

func (p *progress) show(o operation) {
	running := ""
	for _, s := range o.Steps {
		if s.Status == "running" {
			running = s.Name
		}
		if s.Status == "pending" || p.shown[s.Name] == s.Status {
			continue
		}
		p.shown[s.Name] = s.Status
		switch {
		case s.Status == "succeeded" && s.StartedAt != nil && s.FinishedAt != nil:
			p.line("  %-10s done in %s", s.Name, s.FinishedAt.Sub(*s.StartedAt).Round(time.Millisecond))
		case s.Status == "failed":
			p.line("  %-10s failed", s.Name)
		}
	}
	why := o.why()
	if o.finished() || o.Error != nil && o.Error.Code == "cancelled" { // it does not wait: it is being undone
		why = ""
	}
	p.note(why)
	if !o.finished() {
		p.bar(o.Progress, running)
	}
}

// note says why the operation waits, or why nothing is heard of it: once.
func (p *progress) note(why string) {
	if why != p.why && why != "" {
		p.line("  waiting: %s", clean(why))
	}
	p.why = why
}

func (p *progress) line(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.app.Err, format+"\n", args...)
}

const barWidth = 30

func (p *progress) bar(part float64, running string) {
	if !p.app.Terminal {
		return
	}
	full := int(part*barWidth + 0.5)
	fmt.Fprintf(p.app.Err, "\r\x1b[K  [%s%s] %3.0f %% %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*part, clean(running))
	p.drawn = true
}

// end takes the bar away.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.app.Err, "\r\x1b[K")
		p.drawn = false
	}
}
