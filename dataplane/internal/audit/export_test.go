package audit

// WithBatches makes a sealer of small batches.
func (s *Sealer) WithBatches(rows int) *Sealer {
	s.rows = rows
	return s
}
