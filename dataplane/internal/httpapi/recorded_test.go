package httpapi_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// unrecorded are the operations that may succeed without an audit record.
var unrecorded = []string{
	// They send a code, which by itself changes nothing; what is done with it is recorded.
	"POST /auth/signup", "POST /auth/resend-otp", "POST /auth/resent-otp", "POST /auth/2fa/send-code",
	"POST /account/email/verify", "POST /account/phone/verify",
	// It prepares what is recorded once it is confirmed.
	"POST /auth/settings_enable-2fa",
	// Every few minutes for everybody who is signed in; what is odd about one is recorded.
	"POST /auth/token/refresh",
	// Somebody has read what they were told; nobody else is concerned.
	"POST /notifications/mark-read", "POST /audit/notifications/mark-read",
}

// recording is what the tests of this package have seen of each operation.
// A call that changes nothing (the same values again) need not be recorded, so
// only an operation that never was is a mistake.
var recording struct {
	sync.Mutex

	recorded, silent map[string]bool
}

// neverRecorded is checked after all tests: some of them alone may not come to
// the call that is recorded.
func neverRecorded() error {
	if only := flag.Lookup("test.run"); only != nil && only.Value.String() != "" {
		return nil
	}
	recording.Lock()
	defer recording.Unlock()
	var errs []error
	for operation := range recording.silent {
		if !recording.recorded[operation] && !slices.Contains(unrecorded, operation) {
			errs = append(errs, fmt.Errorf("%s has succeeded and left no audit record, ever: write one, or say in unrecorded (recorded_test.go) why there is none", operation))
		}
	}
	return errors.Join(errs...)
}

// ledgerWrites counts the statements of one request that write to the ledger.
type ledgerWrites struct{ count atomic.Int64 }

type ledgerKey struct{}

// watchLedger gives a request a count of its own.
func watchLedger(ctx context.Context) (context.Context, *ledgerWrites) {
	writes := &ledgerWrites{}
	return context.WithValue(ctx, ledgerKey{}, writes), writes
}

func noteLedger(ctx context.Context, sql string) {
	if writes, ok := ctx.Value(ledgerKey{}).(*ledgerWrites); ok && strings.Contains(sql, "INSERT INTO ledger.") {
		writes.count.Add(1)
	}
}

var pathParameter = regexp.MustCompile(`/([0-9]+|[0-9a-f]{8}-[0-9a-f-]{27})(/|$)`)

// noteRecorded notes whether a successful change was written down.
func noteRecorded(r *http.Request, a answer, writes *ledgerWrites) {
	if a.status >= 300 || slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method) {
		return
	}
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api"), "/")
	operation := r.Method + " " + pathParameter.ReplaceAllString(path, "/{}$2")
	recording.Lock()
	defer recording.Unlock()
	if recording.recorded == nil {
		recording.recorded, recording.silent = map[string]bool{}, map[string]bool{}
	}
	if writes.count.Load() > 0 {
		recording.recorded[operation] = true
	} else {
		recording.silent[operation] = true
	}
}

// watchedTx sees the statements of a transaction.
type watchedTx struct{ pgx.Tx }

func (tx watchedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	noteLedger(ctx, sql)
	return tx.Tx.Exec(ctx, sql, args...)
}

func (tx watchedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	noteLedger(ctx, sql)
	return tx.Tx.Query(ctx, sql, args...)
}

func (tx watchedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	noteLedger(ctx, sql)
	return tx.Tx.QueryRow(ctx, sql, args...)
}

func (tx watchedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	nested, err := tx.Tx.Begin(ctx)
	return watchedTx{nested}, err
}
