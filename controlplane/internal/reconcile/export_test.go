package reconcile

import "time"

// WaitForSeats bounds the wait for connections.
func (s *Service) WaitForSeats(d time.Duration) { s.seatPatience = d }
