// Package operation is the engine of long-running work over the fleet.
//
// The truth about an operation is its row: what was asked for, which step it
// is at, who works on it and until when, what went wrong. The row is written
// in the transaction that asks for the work, together with a wake-up. A wake-up
// carries nothing but the id and may be lost or come twice.
//
//	       Enqueue
//	          │
//	          ▼      claim: epoch + 1, lease
//	┌───── queued ─────────────────────────► running ──► succeeded
//	│         ▲                                 │
//	│         └── wait (Later), lease given ◄───┤
//	│             back, or lease dead (reaper)  │ Fail: decided, undone,
//	│ Cancel: decided, undone, then recorded    ▼ then recorded
//	└────────────────────► cancelled          failed
//
// Invariants:
//   - a claim raises the epoch, and every write of a run is fenced by it: a run
//     that was overtaken changes no row ([ErrFenced]);
//   - a run holds a lease of 15 s that it renews every 5 s, and stops by itself
//     when it cannot; an operation whose lease is dead is woken by the reaper
//     of any worker;
//   - a step that was recorded is not run again; one that was not may be, so
//     steps are idempotent;
//   - the decision to fail is recorded before anything is undone: a crash in
//     the middle goes on undoing, never on building;
//   - to cancel is to decide so from outside: it takes the operation from the run at
//     work, and holds the row, so that no run passes its point of no return meanwhile.
package operation
