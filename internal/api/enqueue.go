package api

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"mime"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/tracing"
	"github.com/errandhq/errand/job"
)

// Enqueue stores jobs, all or none. A malformed item refuses the whole call and
// is named by its index.
func (s *Service) Enqueue(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
	items, err := s.decodeItems(r.GetItems())
	if err != nil {
		return nil, s.fail(ctx, "Enqueue", err)
	}
	call := callOf(ctx)
	call.traceItems(items)
	answers, err := s.engine.Enqueue(ctx, call.Caller, items)
	if err != nil {
		return nil, s.fail(ctx, "Enqueue", err)
	}
	out, results := make([]*errandv1.EnqueueResult, len(answers)), make([]errandv1.EnqueueResult, len(answers))
	for i, a := range answers {
		out[i] = &results[i]
		out[i].Id, out[i].State, out[i].Duplicate = encodeID(a.ID), encodeState(a.State), a.Duplicate
		out[i].Problem = s.problem(ctx, "Enqueue", a.Err)
	}
	return &errandv1.EnqueueResponse{Results: out}, nil
}

// traceItems gives jobs without a trace that of the call, which a caller who
// traces HTTP sends without knowing of Errand. One that is none is ignored.
func (c Call) traceItems(items []engine.Item) {
	if c.Trace == "" {
		return
	}
	parent := tracing.Canonical(c.Trace, c.TraceState)
	for i := range items {
		if items[i].Job.Trace == "" {
			items[i].Job.Trace = parent
		}
	}
}

// Wake makes jobs that were stored by a transaction of the caller's found at once.
func (s *Service) Wake(ctx context.Context, r *errandv1.WakeRequest) (*errandv1.WakeResponse, error) {
	err := names("queues", r.GetQueues(), job.MaxBatch)
	if err == nil {
		err = s.engine.Wake(ctx, r.GetQueues())
	}
	if err != nil {
		return nil, s.fail(ctx, "Wake", err)
	}
	return &errandv1.WakeResponse{}, nil
}

func (s *Service) decodeItems(in []*errandv1.EnqueueItem) ([]engine.Item, error) {
	if err := checkCount("items", len(in), 1, job.MaxBatch); err != nil {
		return nil, err
	}
	now := s.engine.Now()
	items := make([]engine.Item, len(in))
	for i, m := range in {
		if err := decodeItem(&items[i], "", m, now); err != nil { // names are put together only where they are needed
			return nil, decodeItem(&items[i], index("items", i), m, now)
		}
	}
	return items, nil
}

// decodeItem reads one item. It checks what an engine.Item cannot say any more;
// what a job may be, the engine checks (job.Validate).
func decodeItem(it *engine.Item, field string, m *errandv1.EnqueueItem, now time.Time) error {
	*it = engine.Item{
		Job: job.Job{
			Kind: m.GetKind(), Queue: m.GetQueue(), ContentType: m.GetContentType(), Priority: job.DefaultPriority,
			MaxAttempts: int(m.GetMaxAttempts()), Tags: m.GetTags(), Trace: tracing.Join(m.GetTraceParent(), m.GetTraceState()), UniqueKey: m.GetUniqueKey(),
		},
		IdempotencyKey: m.GetIdempotencyKey(),
		FirstTry:       m.GetFirstTry(),
	}
	if m.GetPriority() != 0 || m != nil && m.Priority != nil {
		it.Job.Priority = int(m.GetPriority())
	}
	if strings.HasPrefix(m.GetKind(), job.KindsOfErrand) {
		return badField(field+".kind", "%q: kinds that begin with %q are Errand's own", m.GetKind(), job.KindsOfErrand)
	}
	for _, decode := range []func(*engine.Item, string, *errandv1.EnqueueItem, time.Time) error{
		decodeItemID, decodePayload, decodeTimes, decodeUnique,
	} {
		if err := decode(it, field, m, now); err != nil {
			return err
		}
	}
	return nil
}

func decodeItemID(it *engine.Item, field string, m *errandv1.EnqueueItem, _ time.Time) (err error) {
	if m.GetId() != "" {
		it.Job.ID, err = parseNewID(field+".id", m.GetId())
	}
	return err
}

func decodePayload(it *engine.Item, field string, m *errandv1.EnqueueItem, _ time.Time) error {
	it.Job.Payload = m.GetPayload()
	if m.GetJson() == nil {
		return nil
	}
	if len(m.GetPayload()) > 0 {
		return badField(field+".json", "comes together with payload: set one of the two")
	}
	if !isJSON(m.GetContentType()) {
		return badField(field+".json", "comes with content_type %q, which is not JSON", m.GetContentType())
	}
	b, err := encodeJSON(m.GetJson())
	if err != nil || !finite(m.GetJson()) {
		return badField(field+".json", "cannot be written as JSON: a number is infinite or not a number")
	}
	it.Job.Payload = b
	return nil
}

// encodeJSON writes v the same way each time, so that a repeated enqueue is
// known as such: keys are sorted and there is no white space.
func encodeJSON(v *structpb.Value) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v.AsInterface()); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// finite reports whether all numbers in v are such as JSON has: AsInterface
// would make strings of the others.
func finite(v *structpb.Value) bool {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		return !math.IsNaN(k.NumberValue) && !math.IsInf(k.NumberValue, 0)
	case *structpb.Value_ListValue:
		for _, e := range k.ListValue.GetValues() {
			if !finite(e) {
				return false
			}
		}
	case *structpb.Value_StructValue:
		for _, e := range k.StructValue.GetFields() {
			if !finite(e) {
				return false
			}
		}
	}
	return true
}

func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}

func decodeTimes(it *engine.Item, field string, m *errandv1.EnqueueItem, now time.Time) (err error) {
	switch {
	case m.GetDelay() != nil && m.GetRunAt() != nil:
		return badField(field+".delay", "comes together with run_at: set one of the two")
	case m.GetExpiresIn() != nil && m.GetExpiresAt() != nil:
		return badField(field+".expires_in", "comes together with expires_at: set one of the two")
	}
	if it.Delay, err = duration(field+".delay", m.GetDelay()); err != nil {
		return err
	}
	if it.ExpiresIn, err = duration(field+".expires_in", m.GetExpiresIn()); err != nil {
		return err
	}
	if m.GetExpiresIn() != nil && it.ExpiresIn == 0 {
		return badField(field+".expires_in", "is zero: the job would have expired before it began")
	}
	if it.Job.RunAt, err = timestamp(field+".run_at", m.GetRunAt(), now); err != nil {
		return err
	}
	if it.Job.ExpiresAt, err = timestamp(field+".expires_at", m.GetExpiresAt(), now); err != nil {
		return err
	}
	it.Job.Timeout, err = duration(field+".timeout", m.GetTimeout())
	return err
}

func decodeUnique(it *engine.Item, field string, m *errandv1.EnqueueItem, _ time.Time) (err error) {
	if _, ok := errandv1.UniqueMode_name[int32(m.GetUniqueMode())]; !ok {
		return badField(field+".unique_mode", "%d is unknown", int32(m.GetUniqueMode()))
	}
	if _, ok := errandv1.OnConflict_name[int32(m.GetOnConflict())]; !ok {
		return badField(field+".on_conflict", "%d is unknown", int32(m.GetOnConflict()))
	}
	it.Job.UniqueMode = job.UniqueMode(m.GetUniqueMode())
	it.Reject = m.GetOnConflict() == errandv1.OnConflict_ON_CONFLICT_REJECT
	if it.Job.UniqueFor, err = duration(field+".unique_for", m.GetUniqueFor()); err != nil {
		return err
	}
	return text(field+".idempotency_key", it.IdempotencyKey, job.MaxKey)
}
