package errand

import (
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

func TestErrorOfReadsWhatCallsReturn(t *testing.T) {
	wire := connect.NewError(connect.CodeFailedPrecondition, errors.New("gone"))
	detail, err := connect.NewErrorDetail(&errandv1.Problem{Reason: string(ReasonSessionLost)})
	if err != nil {
		t.Fatal(err)
	}
	wire.AddDetail(detail)
	for _, c := range []struct {
		err    error
		code   Code
		reason Reason
	}{
		{fmt.Errorf("settle: %w", wire), CodeFailedPrecondition, ReasonSessionLost},
		{fmt.Errorf("enqueue: %w", ErrQueueFull), CodeResourceExhausted, ReasonQueueFull},
		{errors.New("what"), CodeUnknown, ""},
	} {
		if e := ErrorOf(c.err); e.Code != c.code || e.Reason != c.reason {
			t.Errorf("%v is %s, %q; want %s, %q", c.err, e.Code, e.Reason, c.code, c.reason)
		}
	}
	if e := ErrorOf(nil); e != nil {
		t.Errorf("nil is %v", e)
	}
}
