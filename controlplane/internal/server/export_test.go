package server

import "time"

// Later lets time pass for the Reclaimer.
func (r *Reclaimer) Later(d time.Duration) {
	r.looked = r.looked.Add(-d)
	for id, s := range r.seen {
		s.since = s.since.Add(-d)
		r.seen[id] = s
	}
}
