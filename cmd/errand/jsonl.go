package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	errand "github.com/errandhq/errand"
)

// parseLine reads one line of JSON Lines over the defaults that base holds. It
// is strict: an unknown key, a key given twice or anything after the object is
// an error, for a misspelt "priorty" should not pass unseen.
func parseLine(line []byte, base errand.EnqueueParams) (errand.EnqueueParams, error) {
	p := base
	if !utf8.Valid(line) {
		return p, errors.New("it is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	open, err := dec.Token()
	if err != nil {
		return p, badJSON(err)
	}
	if open != json.Delim('{') {
		return p, errors.New("it is not a JSON object")
	}
	given := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return p, badJSON(err)
		}
		name := key.(string) // the decoder admits nothing else here
		if given[name] {
			return p, fmt.Errorf("key %q is given twice", clip(name))
		}
		given[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return p, badJSON(err)
		}
		if err := setField(&p, name, value); err != nil {
			return p, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return p, badJSON(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return p, errors.New("there is something after the object")
	}
	return p, settle(&p, given)
}

// settle checks what goes together, once all keys are known. A line's own
// choice of a pair replaces the flags' choice.
func settle(p *errand.EnqueueParams, given map[string]bool) error {
	switch {
	case given["in"] && given["run_at"]:
		return errors.New(`of "in" and "run_at", at most one`)
	case given["expires_in"] && given["expires_at"]:
		return errors.New(`of "expires_in" and "expires_at", at most one`)
	case p.Kind == "":
		return errors.New(`"kind" is missing`)
	}
	if given["in"] {
		p.RunAt = time.Time{}
	}
	if given["run_at"] {
		p.Delay = 0
	}
	if given["expires_at"] {
		p.ExpiresIn = 0
	}
	return nil
}

// badJSON makes the end of a cut line say what it is.
func badJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is not JSON: the line ends too early")
	}
	return fmt.Errorf("it is not JSON: %w", err)
}

const lineKeys = "kind, payload, queue, priority, in, run_at, max_attempts, timeout, expires_in, expires_at, tags, " +
	"unique_key, unique, unique_for, on_conflict, id, idempotency_key, content_type"

// setField sets what one key says. The payload is kept byte for byte.
func setField(p *errand.EnqueueParams, name string, value json.RawMessage) error {
	var err error
	switch name {
	case "kind":
		err = setString(&p.Kind, value)
	case "payload":
		p.Payload = bytes.Clone(value)
	case "queue":
		err = setString(&p.Queue, value)
	case "content_type":
		err = setString(&p.ContentType, value)
	case "priority":
		p.Priority = new(int)
		err = decode(p.Priority, value, "a whole number")
	case "max_attempts":
		err = decode(&p.MaxAttempts, value, "a whole number")
	case "tags":
		p.Tags = nil
		err = decode(&p.Tags, value, "a list of strings")
	case "in":
		err = setDuration(&p.Delay, value)
	case "timeout":
		err = setDuration(&p.Timeout, value)
	case "expires_in":
		err = setDuration(&p.ExpiresIn, value)
	case "unique_for":
		err = setDuration(&p.UniqueFor, value)
	case "run_at":
		err = setTime(&p.RunAt, value)
	case "expires_at":
		err = setTime(&p.ExpiresAt, value)
	case "unique_key":
		err = setString(&p.UniqueKey, value)
	case "unique":
		err = setString((*string)(&p.UniqueMode), value)
	case "on_conflict":
		err = setString((*string)(&p.OnConflict), value)
	case "idempotency_key":
		err = setString(&p.IdempotencyKey, value)
	case "id":
		err = setID(&p.ID, value)
	default:
		return fmt.Errorf("key %q is unknown; the keys are %s", clip(name), lineKeys)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

func decode(to any, value json.RawMessage, what string) error {
	if string(value) == "null" || json.Unmarshal(value, to) != nil {
		return fmt.Errorf("%s is not %s", clip(string(value)), what)
	}
	return nil
}

func setString(to *string, value json.RawMessage) error {
	if err := decode(to, value, "a string"); err != nil {
		return err
	}
	if *to == "" {
		return errors.New("it is empty")
	}
	return nil
}

// setDuration reads "90s", "7d", or a number of seconds.
func setDuration(to *time.Duration, value json.RawMessage) error {
	text := string(value)
	if strings.HasPrefix(text, `"`) {
		if err := decode(&text, value, "a string"); err != nil {
			return err
		}
	} else {
		text += "s"
	}
	d, err := parseDuration(text)
	*to = d
	return err
}

func setTime(to *time.Time, value json.RawMessage) error {
	var text string
	if err := decode(&text, value, "a string"); err != nil {
		return err
	}
	t, err := parseTime(text)
	*to = t
	return err
}

func setID(to *errand.ID, value json.RawMessage) error {
	var text string
	if err := decode(&text, value, "a string"); err != nil {
		return err
	}
	id, err := errand.ParseID(text)
	*to = id
	return err
}
