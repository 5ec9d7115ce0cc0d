// Package walls holds no code, only the test of the house's walls: which
// package of the product may import which. The compiler keeps one wall
// (internal/); the others are kept here, over what `go list` says of each
// module, with failpoints compiled in and out.
//
// Looking at direct imports is enough: every package of every module is looked
// at, so a forbidden path has a forbidden first arrow.
//
// An exception is written in the tables of rules.go, with its reason.
package walls
