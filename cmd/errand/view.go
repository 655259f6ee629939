package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	errand "github.com/errandhq/errand"
)

// The JSON forms. Scripts read them: keys are added, never renamed or removed.

// jobHead is what every answer about a job has.
type jobHead struct {
	ID              string     `json:"id"`
	Queue           string     `json:"queue"`
	Kind            string     `json:"kind"`
	State           string     `json:"state"`
	Reason          string     `json:"reason"`
	Priority        int        `json:"priority"`
	Attempt         int        `json:"attempt"`
	MaxAttempts     int        `json:"max_attempts"`
	Crashes         int        `json:"crashes"`
	Redrives        int        `json:"redrives"`
	CreatedAt       *time.Time `json:"created_at"`
	RunAt           *time.Time `json:"run_at"`
	ExpiresAt       *time.Time `json:"expires_at"`
	LeasedAt        *time.Time `json:"leased_at"`
	DoneAt          *time.Time `json:"done_at"`
	TimeoutSeconds  float64    `json:"timeout_seconds"`
	UniqueKey       string     `json:"unique_key"`
	UniqueMode      string     `json:"unique_mode"`
	Tags            []string   `json:"tags"`
	Token           int64      `json:"token"`
	Version         int64      `json:"version"`
	SessionID       string     `json:"session_id"`
	CancelRequested bool       `json:"cancel_requested"`
}

// jobView is a job in full: jobs get and wait.
type jobView struct {
	jobHead
	ContentType string          `json:"content_type"`
	Payload     json.RawMessage `json:"payload"`
	// PayloadEncoding says how payload is to be read: json, text, base64, or
	// none where there is no payload. The same for the result.
	PayloadEncoding string          `json:"payload_encoding"`
	Result          json.RawMessage `json:"result"`
	ResultEncoding  string          `json:"result_encoding"`
	Progress        json.RawMessage `json:"progress"`
	TraceParent     string          `json:"trace_parent"`
	TraceState      string          `json:"trace_state"`
	Errors          []errorView     `json:"errors"`
}

// jobLine is a job in a list, which carries no payload.
type jobLine struct {
	jobHead
	LastError *errorView `json:"last_error"`
}

type errorView struct {
	Attempt int        `json:"attempt"`
	Message string     `json:"message"`
	At      *time.Time `json:"at"`
	Worker  string     `json:"worker"`
	Crash   bool       `json:"crash"`
	Stack   string     `json:"stack,omitempty"`
}

func headOf(j *errand.JobInfo) jobHead {
	h := jobHead{
		ID: j.ID.String(), Queue: j.Queue, Kind: j.Kind, State: string(j.State), Reason: j.Reason,
		Priority: j.Priority, Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Crashes: j.Crashes, Redrives: j.Redrives,
		CreatedAt: moment(j.CreatedAt), RunAt: moment(j.RunAt), ExpiresAt: moment(j.ExpiresAt),
		LeasedAt: moment(j.LeasedAt), DoneAt: moment(j.DoneAt), TimeoutSeconds: j.Timeout.Seconds(),
		UniqueKey: j.UniqueKey, UniqueMode: string(j.UniqueMode), Tags: nonNil(j.Tags),
		Token: j.Token, Version: j.Version, CancelRequested: j.CancelRequested,
	}
	if !j.SessionID.IsZero() {
		h.SessionID = j.SessionID.String()
	}
	return h
}

func viewOf(j *errand.JobInfo) jobView {
	v := jobView{jobHead: headOf(j), ContentType: j.ContentType, TraceParent: j.TraceParent, TraceState: j.TraceState, Errors: []errorView{}}
	v.Payload, v.PayloadEncoding = jsonValue(j.Payload, jsonType(j.ContentType))
	v.Result, v.ResultEncoding = jsonValue(j.Result, true)
	v.Progress, _ = jsonValue(j.Progress, true)
	for _, e := range j.Errors {
		v.Errors = append(v.Errors, errorViewOf(e))
	}
	return v
}

func lineOf(j *errand.JobInfo) jobLine {
	l := jobLine{jobHead: headOf(j)}
	if n := len(j.Errors); n > 0 {
		e := errorViewOf(j.Errors[n-1])
		l.LastError = &e
	}
	return l
}

func linesOf(js []*errand.JobInfo) []jobLine {
	lines := make([]jobLine, 0, len(js))
	for _, j := range js {
		lines = append(lines, lineOf(j))
	}
	return lines
}

func errorViewOf(e errand.JobError) errorView {
	return errorView{Attempt: e.Attempt, Message: e.Message, At: moment(e.At), Worker: e.Worker, Crash: e.Crash, Stack: e.Stack}
}

// jsonType reports whether a payload of this content type claims to be JSON.
func jsonType(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "" || media == "application/json" || strings.HasSuffix(media, "+json")
}

// jsonValue is b as a JSON value: itself where it is JSON, every digit of it;
// else a string; else, where no string can carry the bytes, a string in base64.
func jsonValue(b []byte, mayBeJSON bool) (json.RawMessage, string) {
	switch {
	case len(b) == 0:
		return json.RawMessage("null"), "none"
	case !utf8.Valid(b):
		return jsonString(base64.StdEncoding.EncodeToString(b)), "base64"
	case mayBeJSON && json.Valid(b):
		return json.RawMessage(b), "json"
	default:
		return jsonString(string(b)), "text"
	}
}

func jsonString(s string) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("errand: a string did not encode as JSON: " + err.Error()) // cannot happen
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
