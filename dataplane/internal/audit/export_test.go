package audit

import "reflect"

// WithBatches makes a sealer of small batches.
func (s *Sealer) WithBatches(rows int) *Sealer {
	s.rows = rows
	return s
}

// Entities are all that have been made by Of.
func Entities() map[string]reflect.Type { return entities }
