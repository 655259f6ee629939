package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/job"
)

// details takes both forms of the reason out of an error.
func details(t *testing.T, err error) (*errandv1.Problem, *errdetails.ErrorInfo) {
	t.Helper()
	var ce *connect.Error
	if !errors.As(err, &ce) {
		t.Fatalf("%v is no wire error", err)
	}
	var p *errandv1.Problem
	var info *errdetails.ErrorInfo
	for _, d := range ce.Details() {
		v, derr := d.Value()
		if derr != nil {
			t.Fatal(derr)
		}
		switch v := v.(type) {
		case *errandv1.Problem:
			p = v
		case *errdetails.ErrorInfo:
			info = v
		}
	}
	return p, info
}

func TestRefusalsKeepTheirWords(t *testing.T) {
	s := New(nil, Config{})
	holder, err := job.ParseID(newID(t))
	if err != nil {
		t.Fatal(err)
	}
	refusal := &job.Error{Code: job.AlreadyExists, Reason: job.ReasonUniqueHeld, Message: "held", Holder: holder}
	got := s.fail(t.Context(), "Enqueue", fmt.Errorf("enqueue: %w", refusal))
	p, info := details(t, got)
	switch {
	case connect.CodeOf(got) != connect.CodeAlreadyExists, !strings.HasSuffix(got.Error(), ": held"):
		t.Errorf("%v", got)
	case p.GetReason() != "UNIQUE_KEY_HELD", p.GetHolderId() != holder.String(), p.GetCode() != "already_exists":
		t.Errorf("%v", p)
	case info.GetDomain() != "errand", info.GetReason() != "UNIQUE_KEY_HELD", info.GetMetadata()["holder"] != holder.String():
		t.Errorf("%v", info)
	}
}

// TestInsidesStayInside: neither a stranger's error nor the cause of ours
// reaches a caller; the log has both under the request's id.
func TestInsidesStayInside(t *testing.T) {
	const secret = "dial tcp 10.1.2.3:5432: password=hunter2"
	for _, c := range []struct {
		err  error
		code connect.Code
		want string
	}{
		{errors.New(secret), connect.CodeInternal, "internal error"},
		{fmt.Errorf("lease: %w", errors.New(secret)), connect.CodeInternal, "internal error"},
		{job.Errorf(job.Unavailable, job.ReasonLedgerDown, "insert: %w", errors.New(secret)), connect.CodeUnavailable, "nothing was changed"},
		{job.Errorf(job.Unknown, job.ReasonUnknownOutcome, "commit: %w", errors.New(secret)), connect.CodeUnknown, "repeat with the same ids"},
		{job.Errorf(job.Internal, "", "%w", errors.New(secret)), connect.CodeInternal, "internal error"},
	} {
		var log bytes.Buffer
		s := New(nil, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx := WithCall(t.Context(), Call{RequestID: "r-17"})
		got := s.fail(ctx, "Lease", c.err)
		p := s.problem(ctx, "Lease", c.err)
		switch {
		case connect.CodeOf(got) != c.code:
			t.Errorf("%v: code %s", c.err, connect.CodeOf(got))
		case strings.Contains(got.Error()+p.String(), "hunter2"):
			t.Errorf("shown: %v", got)
		case !strings.Contains(got.Error(), c.want), !strings.Contains(got.Error(), "request r-17"):
			t.Errorf("%v: want %q and the request's id", got, c.want)
		case !strings.Contains(log.String(), "hunter2"), !strings.Contains(log.String(), "request_id=r-17"):
			t.Errorf("not in the log: %s", &log)
		case p.GetCode() != c.code.String():
			t.Errorf("problem %v", p)
		}
	}
}

func TestEndOfContext(t *testing.T) {
	s := New(nil, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.fail(ctx, "Lease", fmt.Errorf("lease: %w", ctx.Err())); connect.CodeOf(err) != connect.CodeCanceled {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := s.fail(ctx, "Lease", ctx.Err()); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Error(err)
	}
	if s.problem(ctx, "Lease", nil) != nil {
		t.Error("a problem out of nothing")
	}
}
