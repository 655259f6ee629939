package api

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

var testNow = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// decode is what becomes of an item before it is stored: this package's checks,
// then those that the engine makes of the job.
func decode(m *errandv1.EnqueueItem) (engine.Item, error) {
	var it engine.Item
	if err := decodeItem(&it, "items[0]", m, testNow); err != nil {
		return it, err
	}
	j := it.Job
	if j.Queue == "" {
		j.Queue = job.DefaultQueue
	}
	if j.MaxAttempts == 0 {
		j.MaxAttempts = job.DefaultMaxAttempts
	}
	return it, j.Validate(job.MaxPayload)
}

func TestDecodeItem(t *testing.T) {
	id := newID(t)
	it, err := decode(&errandv1.EnqueueItem{
		Id: id, Kind: "k", Queue: "q", Payload: []byte("x"), ContentType: "text/plain", Priority: proto.Int32(0),
		Delay: durationpb.New(time.Minute), MaxAttempts: 3, Timeout: durationpb.New(time.Nanosecond),
		ExpiresAt: timestamppb.New(testNow.Add(time.Hour)), Tags: []string{"a"}, UniqueKey: "u",
		UniqueMode: errandv1.UniqueMode_UNIQUE_MODE_WINDOW, UniqueFor: durationpb.New(time.Hour),
		OnConflict: errandv1.OnConflict_ON_CONFLICT_REJECT, IdempotencyKey: "i", TraceParent: "t", FirstTry: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	j := it.Job
	switch {
	case j.ID.String() != id, j.Kind != "k", j.Queue != "q", string(j.Payload) != "x", j.ContentType != "text/plain",
		j.Priority != 0, it.Delay != time.Minute, j.MaxAttempts != 3, len(j.Tags) != 1, j.Trace != "t",
		!j.ExpiresAt.Equal(testNow.Add(time.Hour)), j.UniqueKey != "u", j.UniqueMode != job.ForWindow,
		j.UniqueFor != time.Hour, !it.Reject, it.IdempotencyKey != "i", !it.FirstTry:
		t.Errorf("lost something: %+v", it)
	case j.Timeout != time.Microsecond:
		t.Errorf("a timeout of a nanosecond became %s: it must not become none", j.Timeout)
	}
	if it, err = decode(&errandv1.EnqueueItem{Kind: "k"}); err != nil || it.Job.Priority != job.DefaultPriority {
		t.Errorf("an absent priority became %d, %v", it.Job.Priority, err)
	}
}

// TestBadItems holds each field against its bounds. The error names the field
// or says its fault, and its reason is one that clients know.
func TestBadItems(t *testing.T) {
	type item = errandv1.EnqueueItem
	minute := durationpb.New(time.Minute)
	for _, c := range []struct {
		want string
		m    *item
	}{
		{"kind is empty", &item{}},
		{"kind has 10000 bytes", &item{Kind: strings.Repeat("k", 10_000)}},
		{"kind is not valid UTF-8", &item{Kind: "a\xff"}},
		{"kind holds the control character U+0000", &item{Kind: "a\x00b"}},
		{"begins or ends with white space", &item{Kind: " a"}},
		{"queue has 129 bytes", &item{Kind: "k", Queue: strings.Repeat("q", 129)}},
		{"items[0].id: job id \"nope\" is not a UUID", &item{Kind: "k", Id: "nope"}},
		{"items[0].id: the id is zero", &item{Kind: "k", Id: strings.Repeat("0", 8) + "-0000-0000-0000-000000000000"}},
		{"is not a UUIDv7", &item{Kind: "k", Id: uuid.NewString()}},
		{"items[0].id", &item{Kind: "k", Id: strings.Repeat("\xff", 36)}},
		{"payload has 2097152 bytes; at most 1048576", &item{Kind: "k", Payload: make([]byte, 2<<20)}},
		{"items[0].json: comes together with payload", &item{Kind: "k", Payload: []byte("1"), Json: structpb.NewNullValue()}},
		{"items[0].json: comes with content_type", &item{Kind: "k", ContentType: "text/plain", Json: structpb.NewNullValue()}},
		{"items[0].json: cannot be written", &item{Kind: "k", Json: structpb.NewNumberValue(math.NaN())}},
		{"priority 99 is not between 0 and 9", &item{Kind: "k", Priority: proto.Int32(99)}},
		{"priority -1", &item{Kind: "k", Priority: proto.Int32(-1)}},
		{"items[0].delay: comes together with run_at", &item{Kind: "k", Delay: minute, RunAt: timestamppb.New(testNow)}},
		{"items[0].delay: -1s is negative", &item{Kind: "k", Delay: durationpb.New(-time.Second)}},
		{"items[0].delay: is not a valid duration", &item{Kind: "k", Delay: &durationpb.Duration{Seconds: math.MaxInt64}}},
		{"items[0].delay: is not a valid duration", &item{Kind: "k", Delay: &durationpb.Duration{Seconds: 1, Nanos: -1}}},
		{"items[0].delay: 175200h0m0s is more than", &item{Kind: "k", Delay: durationpb.New(20 * 8760 * time.Hour)}},
		{"items[0].run_at: is not a valid time", &item{Kind: "k", RunAt: &timestamppb.Timestamp{Seconds: math.MaxInt64}}},
		{"items[0].run_at: is not a valid time", &item{Kind: "k", RunAt: &timestamppb.Timestamp{Nanos: -5}}},
		{"items[0].run_at: 1970-01-01T00:00:00Z is not after 1970", &item{Kind: "k", RunAt: &timestamppb.Timestamp{}}},
		{"items[0].run_at: 2999", &item{Kind: "k", RunAt: timestamppb.New(time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC))}},
		{"max_attempts -1 is not between", &item{Kind: "k", MaxAttempts: -1}},
		{"max_attempts 2147483647", &item{Kind: "k", MaxAttempts: math.MaxInt32}},
		{"items[0].timeout: -1s is negative", &item{Kind: "k", Timeout: durationpb.New(-time.Second)}},
		{"items[0].expires_in: comes together with expires_at", &item{Kind: "k", ExpiresIn: minute, ExpiresAt: timestamppb.New(testNow)}},
		{"items[0].expires_in: is zero", &item{Kind: "k", ExpiresIn: durationpb.New(0)}},
		{"17 tags", &item{Kind: "k", Tags: make([]string, 17)}},
		{"tag has 65 bytes", &item{Kind: "k", Tags: []string{strings.Repeat("t", 65)}}},
		{"unique key has 257 bytes", &item{Kind: "k", UniqueKey: strings.Repeat("u", 257), UniqueMode: 2}},
		{"go together", &item{Kind: "k", UniqueKey: "u"}},
		{"go together", &item{Kind: "k", UniqueMode: 2}},
		{"items[0].unique_mode: 9 is unknown", &item{Kind: "k", UniqueKey: "u", UniqueMode: 9}},
		{"items[0].unique_mode: -256 is unknown", &item{Kind: "k", UniqueKey: "u", UniqueMode: -256}},
		{"window goes with mode window", &item{Kind: "k", UniqueKey: "u", UniqueMode: 3}},
		{"items[0].on_conflict: 7 is unknown", &item{Kind: "k", OnConflict: 7}},
		{"items[0].idempotency_key: has 257 bytes", &item{Kind: "k", IdempotencyKey: strings.Repeat("i", 257)}},
		{"trace_parent has 513 bytes", &item{Kind: "k", TraceParent: strings.Repeat("t", 513)}},
		{"content_type has 129 bytes", &item{Kind: "k", ContentType: strings.Repeat("c", 129)}},
		{"kind is empty", nil},
	} {
		_, err := decode(c.m)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: want %q", err, c.want)
			continue
		}
		if job.CodeOf(err) != job.InvalidArgument || job.ReasonOf(err) == "" {
			t.Errorf("%v: code %d, reason %q", err, job.CodeOf(err), job.ReasonOf(err))
		}
	}
}

// TestJSONIsStable: the same value is the same bytes, or a repeated enqueue
// would be taken for another job's.
func TestJSONIsStable(t *testing.T) {
	v, err := structpb.NewValue(map[string]any{"b": 1.5, "a": []any{"<&>", nil, true}, "c": map[string]any{"z": "ü", "y": 1}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"a":["<&>",null,true],"b":1.5,"c":{"y":1,"z":"ü"}}`
	for range 50 {
		if b, err := encodeJSON(v); err != nil || string(b) != want {
			t.Fatalf("%s, %v; want %s", b, err, want)
		}
	}
}

func TestDecodeSettlement(t *testing.T) {
	id := newID(t)
	type set = errandv1.Settlement
	for _, c := range []struct {
		want string
		m    *set
	}{
		{"token: 0 is not positive", &set{Id: id, Outcome: 1}},
		{"id: the id is empty", &set{Token: 1, Outcome: 1}},
		{"outcome: 0 is not one of", &set{Id: id, Token: 1}},
		{"outcome: 99 is not one of", &set{Id: id, Token: 1, Outcome: 99}},
		{"result: has 262145 bytes", &set{Id: id, Token: 1, Outcome: 1, Result: make([]byte, 256<<10+1)}},
		{"result: goes with outcome succeed only", &set{Id: id, Token: 1, Outcome: 2, Result: []byte("x")}},
		{"delay: goes with outcomes", &set{Id: id, Token: 1, Outcome: 1, Delay: durationpb.New(1)}},
		{"delay: -1ns is negative", &set{Id: id, Token: 1, Outcome: 4, Delay: durationpb.New(-1)}},
	} {
		if _, err := decodeSettlement("items[0]", c.m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: want %q", err, c.want)
		}
	}
	it, err := decodeSettlement("items[0]", &set{Id: id, Token: 1, Outcome: 2, Error: "a\x00b\xff", Stack: "\x00"})
	if err != nil || !utf8.ValidString(it.Error) || strings.ContainsRune(it.Error+it.Stack, 0) {
		t.Errorf("what a handler said was kept as %q, %q, %v", it.Error, it.Stack, err)
	}
}

// TestNumbersAreTheSame holds the wire's numbers against package job's, which
// the conversions rely on.
func TestNumbersAreTheSame(t *testing.T) {
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		if want := "JOB_STATE_" + strings.ToUpper(s.String()); encodeState(s).String() != want {
			t.Errorf("%s is %s", s, encodeState(s))
		}
	}
	if encodeState(job.Deleted) != 0 {
		t.Error("deleted has a name on the wire")
	}
	for wire, mode := range map[errandv1.UniqueMode]job.UniqueMode{
		errandv1.UniqueMode_UNIQUE_MODE_UNSPECIFIED: job.NotUnique, errandv1.UniqueMode_UNIQUE_MODE_WHILE_QUEUED: job.WhileQueued,
		errandv1.UniqueMode_UNIQUE_MODE_UNTIL_DONE: job.UntilDone, errandv1.UniqueMode_UNIQUE_MODE_WINDOW: job.ForWindow,
	} {
		if job.UniqueMode(wire) != mode {
			t.Errorf("%s is mode %d", wire, mode)
		}
	}
	if len(errandv1.Outcome_name)-1 != len(events) {
		t.Error("an outcome has no event")
	}
}

func TestParseIDs(t *testing.T) {
	a, b := newID(t), newID(t)
	unique, at, err := parseIDs("ids", []string{a, b, a})
	if err != nil || len(unique) != 2 || len(at) != 3 || at[2] != at[0] || unique[at[1]].String() != b {
		t.Errorf("%v %v %v", unique, at, err)
	}
	for want, in := range map[string][]string{
		"ids: has 0 items": nil, "ids: has 1001 items; at most 1000": make([]string, 1001),
		"ids[1]: the id is empty": {a, ""}, "ids[0]: job id": {"x"},
	} {
		if _, _, err := parseIDs("ids", in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
}

// FuzzDecodeItem feeds whatever protobuf accepts: nothing panics, and what is
// accepted is within the bounds of a job.
func FuzzDecodeItem(f *testing.F) {
	for _, m := range []*errandv1.EnqueueItem{
		{Kind: "k"}, {Kind: "k", Json: structpb.NewStringValue("x"), Delay: durationpb.New(1)},
		{Id: newID(f), Kind: "k", RunAt: timestamppb.New(testNow), UniqueKey: "u", UniqueMode: 3, UniqueFor: durationpb.New(1)},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m errandv1.EnqueueItem
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		it, err := decode(&m)
		if err != nil {
			if job.CodeOf(err) != job.InvalidArgument || !utf8.ValidString(err.Error()) {
				t.Fatalf("%q", err)
			}
			return
		}
		j := it.Job
		if it.Delay < 0 || it.Delay > job.MaxDelay || j.Timeout < 0 || !j.RunAt.IsZero() && j.RunAt.UnixMicro() <= 0 ||
			j.Priority < 0 || j.Priority > 9 || len(j.Kind) == 0 {
			t.Fatalf("accepted %+v", it)
		}
		again, err := decode(&m)
		if err != nil || !bytes.Equal(again.Job.Payload, j.Payload) {
			t.Fatal("decoded twice, and not alike")
		}
	})
}
