package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/sealedfile"
)

// fileContext binds the file to its purpose and its form.
var fileContext = []byte("connection-shares/1")

// kept is what the file holds: what a process may go on with that starts while
// the control database is away.
type kept struct {
	Member   string            `json:"member"`
	Instance string            `json:"instance"`
	Limits   map[uuid.UUID]int `json:"limits"`
	Nodes    int               `json:"nodes"`
	Clean    bool              `json:"clean"` // all connections were closed
	SavedAt  time.Time         `json:"saved_at"`
}

// resume goes on as the instance of the file, with its limits.
func (l *Lease) resume(ctx context.Context) {
	if l.options.File == "" {
		return
	}
	log := l.options.Log
	var err error
	if l.lock, err = lock(l.options.File + ".lock"); err != nil {
		log.WarnContext(ctx, "the file of the connection shares is not used: another process holds it, or it cannot be locked. "+
			"This process has no share to start with while the control database is away", "file", l.options.File, "error", err)
		l.options.File = ""
		return
	}
	k, err := l.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		log.WarnContext(ctx, "the file of the connection shares is not used", "file", l.options.File, "error", err)
		return
	case k.Member != l.options.Member || !instancePattern.MatchString(k.Instance):
		return
	}
	if !k.Clean {
		log.WarnContext(ctx, "the process before this one did not end in order; this one waits until its connections are gone", "wait", successorWaits.String())
		if !pause.For(ctx, successorWaits) {
			return
		}
	}
	l.mu.Lock()
	l.ready = true
	l.instance, l.limits, l.saved, l.nodes = k.Instance, k.Limits, maps.Clone(k.Limits), k.Nodes
	if l.limits == nil {
		l.limits = map[uuid.UUID]int{}
	}
	l.mu.Unlock()
	l.save(ctx, false)
	l.holder.LimitsChanged()
	log.InfoContext(ctx, "this process goes on with the connection shares that it had", "instance", k.Instance, "saved_at", k.SavedAt)
}

func (l *Lease) read() (k kept, err error) {
	plain, err := sealedfile.Read(l.options.File, l.options.Sealer, fileContext)
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(plain, &k); err != nil {
		return k, fmt.Errorf("read it: %w", err)
	}
	return k, nil
}

// save writes the file. While it cannot be written, a lower limit is not given
// up: see reports.
func (l *Lease) save(ctx context.Context, clean bool) {
	if l.options.File == "" {
		return
	}
	l.mu.Lock()
	k := kept{
		Member: l.options.Member, Instance: l.instance, Limits: maps.Clone(l.limits), Nodes: l.nodes, Clean: clean,
		SavedAt: time.Now().UTC(),
	}
	l.mu.Unlock()
	plain, err := json.Marshal(k)
	if err == nil {
		err = sealedfile.Write(l.options.File, l.options.Sealer, plain, fileContext)
	}
	if err != nil {
		l.options.Log.ErrorContext(ctx, "the file of the connection shares could not be written", "file", l.options.File, "error", err)
		return
	}
	l.mu.Lock()
	l.saved = k.Limits
	l.mu.Unlock()
}

// discard takes the file away: its limits are given back.
func (l *Lease) discard() error {
	if l.options.File == "" {
		return nil
	}
	if err := os.Remove(l.options.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the file of the connection shares: %w", err)
	}
	return nil
}
