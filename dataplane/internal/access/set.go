package access

import (
	"cmp"
	"math/bits"
	"slices"
)

// Set is a set of ids of permissions: a bit each, in blocks of 64 in order.
// Blocks without a bit are not there, so that ids far apart cost no more than
// ids close together. The zero value is empty; a set that was shared is read
// only.
type Set struct{ blocks []block }

type block struct {
	number int64 // id / 64
	bits   uint64
}

func place(id int64) (number int64, bit uint64) { return id >> 6, 1 << (uint64(id) & 63) }

func (s *Set) find(number int64) (int, bool) {
	return slices.BinarySearchFunc(s.blocks, number, func(b block, n int64) int { return cmp.Compare(b.number, n) })
}

// Add puts ids into the set.
func (s *Set) Add(ids ...int64) {
	at := 0
	for _, id := range ids {
		number, bit := place(id)
		// Neighbours tend to lie in one block.
		if at >= len(s.blocks) || s.blocks[at].number != number {
			var there bool
			if at, there = s.find(number); !there {
				s.blocks = slices.Insert(s.blocks, at, block{number: number})
			}
		}
		s.blocks[at].bits |= bit
	}
}

// Has tells whether the id is in the set.
func (s *Set) Has(id int64) bool {
	number, bit := place(id)
	at, there := s.find(number)
	return there && s.blocks[at].bits&bit != 0
}

// Without is the set less what is in the other.
func (s *Set) Without(other *Set) Set {
	var left Set
	for _, b := range s.blocks {
		if at, there := other.find(b.number); there {
			b.bits &^= other.blocks[at].bits
		}
		if b.bits != 0 {
			left.blocks = append(left.blocks, b)
		}
	}
	return left
}

// IDs are the members, in order.
func (s *Set) IDs() []int64 {
	var ids []int64
	for _, b := range s.blocks {
		for rest := b.bits; rest != 0; rest &= rest - 1 {
			ids = append(ids, b.number<<6+int64(bits.TrailingZeros64(rest)))
		}
	}
	return ids
}
