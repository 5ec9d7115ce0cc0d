package fault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
)

func TestFrom(t *testing.T) {
	t.Parallel()
	cause := errors.New("duplicate key")
	conflict := fault.Conflict("The slug is taken.").Code("slug_taken").Because(cause)
	for name, tc := range map[string]struct {
		err  error
		kind fault.Kind
		code string
	}{
		"itself":   {conflict, fault.KindConflict, "slug_taken"},
		"wrapped":  {fmt.Errorf("create: %w", conflict), fault.KindConflict, "slug_taken"},
		"unknown":  {cause, fault.KindInternal, "internal"},
		"deadline": {fmt.Errorf("query: %w", context.DeadlineExceeded), fault.KindUnavailable, "timeout"},
		"default":  {fault.NotFound("No such company."), fault.KindNotFound, "not_found"},
	} {
		got := fault.From(tc.err)
		if got.Kind != tc.kind || got.EffectiveCode() != tc.code {
			t.Errorf("%s: got %v %q, want %v %q", name, got.Kind, got.EffectiveCode(), tc.kind, tc.code)
		}
	}
	if fault.From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
	if !errors.Is(conflict, cause) {
		t.Error("the cause is lost")
	}
}

func TestInternalShowsNothingOfItsCause(t *testing.T) {
	t.Parallel()
	e := fault.Internal(errors.New("password=hunter2"))
	if strings.Contains(e.Message, "hunter2") {
		t.Errorf("the message shows the cause: %q", e.Message)
	}
	if !strings.Contains(e.Error(), "hunter2") {
		t.Errorf("the log line lacks the cause: %q", e.Error())
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	e := fault.Invalid("Some fields are not right.").OnField("slug", "reserved", "This name is reserved.").RetryAfter(2 * time.Second)
	if len(e.Fields) != 1 || e.Fields[0].Field != "slug" || e.Wait != 2*time.Second {
		t.Errorf("the chain lost something: %+v", e)
	}
}
