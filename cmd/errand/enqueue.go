package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

const enqueueLong = `Hand in one job, or one for each line of a file.

One job: the payload is JSON, null if none is given; "-" reads it from standard
input, and with --content-type it may be any bytes. Prints the id; with -o json
{"id","queue","kind","state","duplicate"}.

Many jobs, JSON Lines: --from FILE (or - for standard input) has one object a
line, with these keys and no others:
  kind, payload, queue, priority, in or run_at, max_attempts, timeout,
  expires_in or expires_at, tags, unique_key, unique, unique_for, on_conflict,
  id, idempotency_key, content_type
Only kind is required, and not even that if KIND is given. Flags set what a line
leaves out. Durations are strings ("90s", "7d") or numbers of seconds.

Many jobs, plain text: KIND --lines --from FILE makes each line, of any bytes,
the payload of one job; --null takes NUL for the end of a line instead.

Lines go in as batches of at most 1000 jobs and 4 MiB, each of them whole or not
at all, in their order. A bad line is named by its number and reason, and the
exit status is 1. Unless --skip-bad is given it also stops the import:
  - of a regular file all lines are read and checked before the first is sent,
    so that nothing has been stored;
  - of a stream all lines before the bad one have been stored, and none after.
What only the server can refuse (a unique key held with --on-conflict reject, a
full queue, an id used twice) is reported for its line as rejected; the lines
around it are stored. The summary says how many: with -o json
{"accepted","duplicates","rejected"}. A line with an "id" can be sent again
safely: known ones count as duplicates.`

// enqueueFlags are what one job may be given.
type enqueueFlags struct {
	queue, at, contentType      string
	in, timeout, expiresIn      durationFlag
	uniqueFor                   durationFlag
	priority, maxAttempts       int
	uniqueKey, unique, conflict string
	id, idempotencyKey          string
	tags                        []string

	from          string
	lines, null   bool
	skipBad       bool
	quiet         bool
	parallel      int
	priorityGiven bool
}

func newEnqueue(a *app) *cobra.Command {
	var e enqueueFlags
	cmd := &cobra.Command{
		Use: "enqueue KIND [JSON]", Short: "Hand in one job, or many from a file", Long: enqueueLong,
		Args: argsBetween(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e.priorityGiven = cmd.Flags().Changed("priority")
			if err := e.check(cmd, args); err != nil {
				return err
			}
			if e.from != "" {
				return a.enqueueMany(cmd.Context(), &e, args)
			}
			return a.enqueueOne(cmd.Context(), &e, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.queue, "queue", job.DefaultQueue, "queue")
	f.Var(&e.in, "in", "ready after so long, such as 90s, 15m, 7d")
	f.StringVar(&e.at, "at", "", "ready at this time (RFC 3339)")
	f.IntVar(&e.priority, "priority", job.DefaultPriority, "0 (first) to 9 (last)")
	f.IntVar(&e.maxAttempts, "max-attempts", job.DefaultMaxAttempts, "tries before it is a dead letter")
	f.Var(&e.timeout, "timeout", "end an attempt after so long (default: never)")
	f.Var(&e.expiresIn, "expires-in", "cancel it if it was not begun within this time")
	f.StringVar(&e.uniqueKey, "unique-key", "", "key that no other job of this kind may hold at the same time")
	f.StringVar(&e.unique, "unique", "", "how long the key is held: while_queued, until_done (the default), or window, with --unique-for")
	f.Var(&e.uniqueFor, "unique-for", "how long, with --unique window")
	f.StringVar(&e.conflict, "on-conflict", "skip", "if the key is held: skip prints the holder's id, reject fails with exit status 4")
	f.StringArrayVar(&e.tags, "tag", nil, "label to find it by; may be repeated")
	f.StringVar(&e.id, "id", "", "id of the job, a UUIDv7: repeating it is safe")
	f.StringVar(&e.idempotencyKey, "idempotency-key", "", "enqueues with this key make one job within 24 h")
	f.StringVar(&e.contentType, "content-type", "", "of the payload (default: application/json)")
	f.StringVar(&e.from, "from", "", "file with one job a line, or - for standard input")
	f.BoolVar(&e.lines, "lines", false, "with --from: each line is a payload of KIND, rather than JSON")
	f.BoolVarP(&e.null, "null", "0", false, "with --lines: lines end with NUL rather than newline")
	f.BoolVar(&e.skipBad, "skip-bad", false, "with --from: report bad lines and go on")
	f.BoolVar(&e.quiet, "quiet", false, "with --from: no progress bar")
	f.IntVar(&e.parallel, "parallel", 1, "with --from: batches under way at once; more than 1 does not keep the order")
	return cmd
}

// check refuses combinations that mean nothing, before anything is sent.
func (e *enqueueFlags) check(cmd *cobra.Command, args []string) error {
	changed := cmd.Flags().Changed
	switch {
	case e.from == "" && len(args) == 0:
		return usageError("argument missing: usage is '%s', or '%s --from FILE'", cmd.UseLine(), cmd.CommandPath())
	case e.from != "" && len(args) == 2:
		return usageError("a payload does not go with --from")
	case e.lines && e.from == "":
		return usageError("--lines needs --from FILE (or - for standard input)")
	case e.lines && len(args) == 0:
		return usageError("--lines needs a kind: 'errand enqueue KIND --lines --from %s'", e.from)
	case e.null && !e.lines:
		return usageError("--null goes with --lines")
	case e.skipBad && e.from == "":
		return usageError("--skip-bad goes with --from")
	case changed("in") && e.at != "":
		return usageError("of --in and --at, at most one")
	case e.parallel < 1 || e.parallel > 64:
		return usageError("--parallel is %d; it is 1 to 64", e.parallel)
	case e.from != "" && (e.id != "" || e.idempotencyKey != ""):
		return usageError("--id and --idempotency-key name one job: with --from they belong into the lines")
	case e.from != "" && e.lines && e.uniqueKey != "":
		return usageError("--unique-key with --lines would make one job of all lines")
	}
	return nil
}

// params is a job as the flags describe it; its kind and payload come from elsewhere.
func (e *enqueueFlags) params() (errand.EnqueueParams, error) {
	p := errand.EnqueueParams{
		Queue: e.queue, Priority: &e.priority, Delay: time.Duration(e.in), MaxAttempts: e.maxAttempts,
		Timeout: time.Duration(e.timeout), ExpiresIn: time.Duration(e.expiresIn), Tags: e.tags,
		UniqueKey: e.uniqueKey, UniqueMode: errand.UniqueMode(e.unique), UniqueFor: time.Duration(e.uniqueFor),
		OnConflict: errand.OnConflict(e.conflict), IdempotencyKey: e.idempotencyKey, ContentType: e.contentType,
	}
	if e.at != "" {
		t, err := parseTime(e.at)
		if err != nil {
			return p, usageError("--at: %w", err)
		}
		p.RunAt = t
	}
	if e.id != "" {
		id, err := parseID(e.id)
		if err != nil {
			return p, err
		}
		p.ID = id
	}
	if p.MaxAttempts == 0 {
		return p, usageError("--max-attempts 0 is not between 1 and %d", job.MaxAttemptsCap)
	}
	return p, nil
}

func (a *app) enqueueOne(ctx context.Context, e *enqueueFlags, args []string) error {
	p, err := e.params()
	if err != nil {
		return err
	}
	p.Kind = args[0]
	if len(args) == 2 {
		if p.Payload, err = a.payload(ctx, args[1], e.contentType); err != nil {
			return err
		}
	}
	nullPayload(&p)
	if err := checkParams(&p, 0); err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	return a.withClient(func(c *errand.Client) error {
		r, err := c.Enqueue(ctx, p)
		if err != nil {
			return unknownHint(err)
		}
		answer := struct {
			ID        string `json:"id"`
			Queue     string `json:"queue"`
			Kind      string `json:"kind"`
			State     string `json:"state"`
			Duplicate bool   `json:"duplicate"`
		}{r.ID.String(), p.Queue, p.Kind, string(r.State), r.Duplicate}
		err = a.out.value(answer, func() { a.out.linef("%s", r.ID) })
		if r.Duplicate && !a.out.json {
			a.warnf("duplicate: this job stands for it already")
		}
		return err
	})
}

// unknownHint tells how to repeat an enqueue whose answer was lost.
func unknownHint(err error) error {
	var e *errand.Error
	if errors.As(err, &e) && errors.Is(err, errand.ErrUnknown) && len(e.IDs) == 1 {
		return &exitError{code: exitUnreachable, err: err, hint: fmt.Sprintf("Repeat it safely with --id %s.", e.IDs[0])}
	}
	return err
}

// payload checks a payload argument; "-" reads standard input.
func (a *app) payload(ctx context.Context, arg, contentType string) ([]byte, error) {
	b := []byte(arg)
	if arg == "-" {
		var err error
		// One byte over any bound that a server may set is enough to be refused.
		if b, err = io.ReadAll(io.LimitReader(interruptible(ctx, a.stdin), anyPayload+1)); err != nil {
			return nil, fmt.Errorf("read the payload: %w", err)
		}
	}
	if !jsonType(contentType) {
		return b, nil
	}
	if err := checkJSON(b); err != nil {
		return nil, &exitError{code: exitUsage, err: fmt.Errorf("the payload is not JSON: %w", err),
			hint: "Payloads that are not JSON need --content-type, such as text/plain."}
	}
	return b, nil
}

func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("it is not valid UTF-8")
	}
	var v json.RawMessage
	return json.Unmarshal(b, &v)
}

// nullPayload makes a payload that was left out JSON's null, which every typed
// handler can read; no bytes at all would be no JSON.
func nullPayload(p *errand.EnqueueParams) {
	if len(p.Payload) == 0 && jsonType(p.ContentType) {
		p.Payload = []byte("null")
	}
}

// anyPayload is the largest bound on a payload that a server may be given.
const anyPayload = 64 << 20

// checkParams holds a job against the bounds that do not depend on the server,
// by the same rules as the server; maxPayload is the server's, if known.
func checkParams(p *errand.EnqueueParams, maxPayload int) error {
	j := job.Job{
		Queue: p.Queue, Kind: p.Kind, Payload: p.Payload, ContentType: p.ContentType, Priority: *p.Priority,
		MaxAttempts: p.MaxAttempts, Timeout: p.Timeout, Tags: p.Tags, UniqueKey: p.UniqueKey, UniqueFor: p.UniqueFor,
	}
	switch p.UniqueMode {
	case "":
		if p.UniqueKey != "" {
			j.UniqueMode = job.UntilDone
			if p.UniqueFor > 0 {
				j.UniqueMode, p.UniqueMode = job.ForWindow, errand.Window
			}
		}
	case errand.WhileQueued:
		j.UniqueMode = job.WhileQueued
	case errand.UntilDone:
		j.UniqueMode = job.UntilDone
	case errand.Window:
		j.UniqueMode = job.ForWindow
	default:
		return fmt.Errorf("unique %q is not one of while_queued, until_done, window", clip(string(p.UniqueMode)))
	}
	if c := p.OnConflict; c != "" && c != errand.SkipConflict && c != errand.RejectConflict {
		return fmt.Errorf("on_conflict %q is not one of skip, reject", clip(string(c)))
	}
	if len(p.IdempotencyKey) > job.MaxKey {
		return fmt.Errorf("idempotency_key has %d bytes; at most %d are allowed", len(p.IdempotencyKey), job.MaxKey)
	}
	if err := job.CheckText("idempotency_key", p.IdempotencyKey); err != nil {
		return err
	}
	if maxPayload == 0 {
		maxPayload = anyPayload
	}
	return j.Validate(maxPayload)
}
