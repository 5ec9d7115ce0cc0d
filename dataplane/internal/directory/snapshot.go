package directory

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/sealedfile"
)

const (
	// snapshotGap is the least time between two writings, and snapshotRest how
	// many times as long as a writing took: a rollout over thousands of tenants
	// changes a route every few milliseconds.
	snapshotGap  = 50 * time.Millisecond
	snapshotRest = 10
	// snapshotEvery is how often the file is written when nothing changes, so
	// that what it says of its age stays true enough.
	snapshotEvery = 5 * time.Minute
	// maxSnapshot bounds what a file may unpack to.
	maxSnapshot = 1 << 30
)

// snapshotContext binds the file to its purpose and its form. A file of
// another form does not open, and the node starts as one without.
var snapshotContext = []byte("route-snapshot/2")

// snapshot is the route table as it is kept on disk, so that a node which
// restarts while the control database is away serves whom it served before.
type snapshot struct {
	TakenAt time.Time       `json:"taken_at"` // when the table was last known to be complete
	Clock   route.Clock     `json:"clock"`
	Servers []*route.Server `json:"servers"`
	Routes  []savedRoute    `json:"routes"`
}

// savedRoute names its server instead of holding it.
type savedRoute struct {
	route.Route

	Server   *struct{} `json:"Server,omitempty"` //nolint:tagliatelle // hides Route.Server
	ServerID uuid.UUID `json:"server_id"`
}

// restore reads the snapshot, before the control database is asked for the
// first time. A file that is not there, cannot be read or was not made with
// this key costs nothing but its help.
func (d *Directory) restore(ctx context.Context) {
	if d.options.Snapshot == "" {
		return
	}
	s, err := readSnapshot(d.options.Snapshot, d.options.Sealer)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		d.options.Log.WarnContext(ctx, "the snapshot of the routes is not used", "file", d.options.Snapshot, "error", err)
		return
	}
	servers := make(map[uuid.UUID]*route.Server, len(s.Servers))
	for _, server := range s.Servers {
		servers[server.ID] = server
	}
	routes := make([]*route.Route, 0, len(s.Routes))
	for i := range s.Routes {
		r := &s.Routes[i].Route
		if r.Server = servers[s.Routes[i].ServerID]; r.Server == nil {
			r.Server = &route.Server{Name: "unknown"} // as a pull has it
		}
		routes = append(routes, r)
	}
	d.publish(route.Changes{Clock: s.Clock, Servers: s.Servers, Routes: routes, Full: true}, s.TakenAt)
	d.options.Log.InfoContext(ctx, "serving by the snapshot of the routes until the control database answers",
		"tenants", len(routes), "version", s.Clock.Version, "taken_at", s.TakenAt)
}

func readSnapshot(path string, sealer sealedfile.Sealer) (snapshot, error) {
	var s snapshot
	packed, err := sealedfile.Read(path, sealer, snapshotContext)
	if err != nil {
		return s, err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return s, fmt.Errorf("unpack it: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(unpacked, maxSnapshot)).Decode(&s); err != nil {
		return s, fmt.Errorf("read it: %w", err)
	}
	return s, nil
}

// keepSnapshot writes the file after changes until ctx ends, and then once
// more. A disk that is full or read-only costs the next restart, not this run.
func (d *Directory) keepSnapshot(ctx context.Context) {
	if d.options.Snapshot == "" {
		return
	}
	idle := time.NewTicker(snapshotEvery)
	defer idle.Stop()
	var written time.Time
	write := func() {
		s := d.snapshot()
		if s.TakenAt.IsZero() || s.TakenAt.Equal(written) {
			return
		}
		if err := writeSnapshot(d.options.Snapshot, d.options.Sealer, s); err != nil {
			d.options.Log.ErrorContext(ctx, "the snapshot of the routes could not be written", "file", d.options.Snapshot, "error", err)
			return
		}
		written = s.TakenAt
	}
	for {
		select {
		case <-ctx.Done():
			write()
			return
		case <-d.dirty:
		case <-idle.C:
		}
		begun := time.Now()
		write()
		pause.For(ctx, max(snapshotGap, snapshotRest*time.Since(begun)))
	}
}

// snapshot is the table as it is now, and when it was known to be so.
func (d *Directory) snapshot() snapshot {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := snapshot{Clock: d.tableClock, Routes: make([]savedRoute, 0, len(d.table.byID))}
	if at := d.pulledAt.Load(); at != 0 {
		s.TakenAt = time.Unix(0, at).UTC()
	}
	for _, r := range d.table.byID {
		s.Routes = append(s.Routes, savedRoute{Route: *r, ServerID: r.Server.ID})
	}
	// Also those without a tenant: the next pull brings what is newer than the
	// clock, and that may be a tenant who has moved to one of them.
	for _, server := range d.servers {
		s.Servers = append(s.Servers, server)
	}
	return s
}

func writeSnapshot(path string, sealer sealedfile.Sealer, s snapshot) error {
	var packed bytes.Buffer
	packer := gzip.NewWriter(&packed)
	if err := json.NewEncoder(packer).Encode(s); err != nil {
		return err
	}
	if err := packer.Close(); err != nil {
		return err
	}
	return sealedfile.Write(path, sealer, packed.Bytes(), snapshotContext)
}
