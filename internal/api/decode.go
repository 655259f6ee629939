package api

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/errandhq/errand/job"
)

// Decoding of single fields. Every function takes the field's path for its
// error, and returns an *job.Error with code InvalidArgument.

func parseID(field, s string) (job.ID, error) {
	if s == "" {
		return job.ID{}, job.Errorf(job.InvalidArgument, job.ReasonBadID, "%s: the id is empty", field)
	}
	id, err := job.ParseID(strings.ToValidUTF8(s, "�"))
	if err != nil {
		return job.ID{}, fmt.Errorf("%s: %w", field, err)
	}
	if id.IsZero() {
		return job.ID{}, job.Errorf(job.InvalidArgument, job.ReasonBadID, "%s: the id is zero", field)
	}
	return id, nil
}

// parseNewID reads an id that the caller made: it must be a UUIDv7, because
// lists are in the order of ids and ids are thought to be in that of time.
func parseNewID(field, s string) (job.ID, error) {
	id, err := parseID(field, s)
	if err != nil {
		return id, err
	}
	if version, variant := id[6]>>4, id[8]>>6; version != 7 || variant != 2 {
		return job.ID{}, job.Errorf(job.InvalidArgument, job.ReasonBadID, "%s: id %s is not a UUIDv7 (RFC 9562)", field, id)
	}
	return id, nil
}

// parseIDs reads 1 to job.MaxBatch ids. unique holds each once; at says which of
// them stands at each position.
func parseIDs(field string, in []string) (unique []job.ID, at []int, err error) {
	if err := checkCount(field, len(in), 1, job.MaxBatch); err != nil {
		return nil, nil, err
	}
	seen := make(map[job.ID]int, len(in))
	at = make([]int, len(in))
	for i, s := range in {
		id, err := parseID(index(field, i), s)
		if err != nil {
			return nil, nil, err
		}
		n, ok := seen[id]
		if !ok {
			n = len(unique)
			seen[id], unique = n, append(unique, id)
		}
		at[i] = n
	}
	return unique, at, nil
}

func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// checkCount bounds the items of a list.
func checkCount(field string, n, least, most int) error {
	switch {
	case n < least:
		return badField(field, "has %d items; at least %d needed", n, least)
	case n > most:
		return tooLarge(field, "has %d items; at most %d are allowed", n, most)
	}
	return nil
}

// duration reads a span of time that may be absent (zero) and not negative. It
// is rounded up to microseconds, which is what ledgers keep: a timeout of a
// nanosecond must not become none.
func duration(field string, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, badField(field, "is not a valid duration")
	}
	v := d.AsDuration()
	switch {
	case v < 0:
		return 0, badField(field, "%s is negative", v)
	case v > job.MaxDelay:
		return 0, badField(field, "%s is more than %s", v, job.MaxDelay)
	}
	if cut := v.Truncate(time.Microsecond); cut < v {
		v = cut + time.Microsecond
	}
	return v, nil
}

// patience reads how long a caller is ready to wait: absent means def, and a
// wait over most is cut to it, because an answer may always come early.
func patience(field string, d *durationpb.Duration, def, most time.Duration) (time.Duration, error) {
	if d == nil {
		return def, nil
	}
	v, err := duration(field, d)
	return min(v, most), err
}

// timestamp reads a point in time that may be absent (zero). Times before 1970
// have no place in a ledger, nor have those too far after now, which is zero
// while the ledger's clock was never heard.
func timestamp(field string, t *timestamppb.Timestamp, now time.Time) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, badField(field, "is not a valid time")
	}
	v := t.AsTime().Truncate(time.Microsecond)
	switch {
	case v.UnixMicro() <= 0:
		return time.Time{}, badField(field, "%s is not after 1970", v.Format(time.RFC3339))
	case !now.IsZero() && v.Sub(now) > job.MaxDelay:
		return time.Time{}, badField(field, "%s is more than %s ahead", v.Format(time.RFC3339), job.MaxDelay)
	}
	return v, nil
}

// name reads a queue or kind that may be left out.
func name(field, s string) error {
	if s == "" {
		return nil
	}
	return job.CheckName(field, s)
}

// names reads a list of queues or kinds.
func names(field string, in []string, most int) error {
	if err := checkCount(field, len(in), 0, most); err != nil {
		return err
	}
	for i, s := range in {
		if err := job.CheckName(index(field, i), s); err != nil {
			return err
		}
	}
	return nil
}

// text reads a short text for people.
func text(field, s string, most int) error {
	if len(s) > most {
		return badField(field, "has %d bytes; at most %d are allowed", len(s), most)
	}
	return job.CheckText(field, s)
}

// needle reads a part of an error message to look for, which may hold line
// breaks, as errors do.
func needle(field, s string) error {
	switch {
	case len(s) > job.MaxErrorMessage:
		return badField(field, "has %d bytes; at most %d are allowed", len(s), job.MaxErrorMessage)
	case !utf8.ValidString(s):
		return badField(field, "is not valid UTF-8")
	case strings.ContainsRune(s, 0):
		return badField(field, "holds a NUL")
	}
	return nil
}
