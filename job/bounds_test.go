package job_test

import (
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
)

func valid() job.Job {
	return job.Job{Queue: "default", Kind: "email.welcome", Payload: []byte(`{}`), ContentType: job.DefaultContentType,
		Priority: job.DefaultPriority, MaxAttempts: job.DefaultMaxAttempts}
}

func TestValidateAcceptsWhatIsInBounds(t *testing.T) {
	for name, change := range map[string]func(*job.Job){
		"plain":         func(*job.Job) {},
		"longest names": func(j *job.Job) { j.Queue, j.Kind = strings.Repeat("q", 128), strings.Repeat("k", 128) },
		"inner space":   func(j *job.Job) { j.Queue, j.Kind = "my queue", "日本語 kind" },
		"empty payload": func(j *job.Job) { j.Payload = nil },
		"any bytes":     func(j *job.Job) { j.Payload = []byte("\x00\xff\xfe") },
		"largest":       func(j *job.Job) { j.Payload = make([]byte, job.MaxPayload) },
		"first":         func(j *job.Job) { j.Priority = 0 },
		"last":          func(j *job.Job) { j.Priority = 9 },
		"most attempts": func(j *job.Job) { j.MaxAttempts = job.MaxAttemptsCap },
		"one attempt":   func(j *job.Job) { j.MaxAttempts = 1 },
		"timeout":       func(j *job.Job) { j.Timeout = job.MaxDelay },
		"tags":          func(j *job.Job) { j.Tags = strings.Split(strings.Repeat("t,", 15)+"t", ",") },
		"longest tag":   func(j *job.Job) { j.Tags = []string{strings.Repeat("t", 64), ""} },
		"while queued":  func(j *job.Job) { j.UniqueKey, j.UniqueMode = "k", job.WhileQueued },
		"until done":    func(j *job.Job) { j.UniqueKey, j.UniqueMode = "k", job.UntilDone },
		"window":        func(j *job.Job) { j.UniqueKey, j.UniqueMode, j.UniqueFor = "k", job.ForWindow, time.Hour },
	} {
		j := valid()
		change(&j)
		if err := j.Validate(job.MaxPayload); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateRefusesBadInput(t *testing.T) {
	cases := map[string]struct {
		change func(*job.Job)
		says   string // a part of the message: it names the field
	}{
		"no queue":              {func(j *job.Job) { j.Queue = "" }, "queue is empty"},
		"no kind":               {func(j *job.Job) { j.Kind = "" }, "kind is empty"},
		"queue too long":        {func(j *job.Job) { j.Queue = strings.Repeat("q", 129) }, "queue has 129 bytes"},
		"kind of 10,000 bytes":  {func(j *job.Job) { j.Kind = strings.Repeat("k", 10000) }, "kind has 10000 bytes"},
		"runes are not bytes":   {func(j *job.Job) { j.Kind = strings.Repeat("€", 43) }, "kind has 129 bytes"},
		"invalid UTF-8":         {func(j *job.Job) { j.Kind = "a\xff" }, "kind is not valid UTF-8"},
		"NUL":                   {func(j *job.Job) { j.Queue = "a\x00b" }, "queue holds the control character U+0000"},
		"newline":               {func(j *job.Job) { j.Kind = "a\nb" }, "control character U+000A"},
		"DEL":                   {func(j *job.Job) { j.Kind = "a\x7fb" }, "control character U+007F"},
		"C1 control":            {func(j *job.Job) { j.Kind = "a\u009bb" }, "control character U+009B"},
		"leading space":         {func(j *job.Job) { j.Kind = " a" }, "white space"},
		"trailing wide space":   {func(j *job.Job) { j.Kind = "a\u3000" }, "white space"},
		"only a space":          {func(j *job.Job) { j.Queue = " " }, "white space"},
		"payload too large":     {func(j *job.Job) { j.Payload = make([]byte, job.MaxPayload+1) }, "payload has 1048577 bytes"},
		"priority 99":           {func(j *job.Job) { j.Priority = 99 }, "priority 99"},
		"priority -1":           {func(j *job.Job) { j.Priority = -1 }, "priority -1"},
		"no attempts":           {func(j *job.Job) { j.MaxAttempts = 0 }, "max_attempts 0"},
		"negative attempts":     {func(j *job.Job) { j.MaxAttempts = -1 }, "max_attempts -1"},
		"too many attempts":     {func(j *job.Job) { j.MaxAttempts = 10001 }, "max_attempts 10001"},
		"negative timeout":      {func(j *job.Job) { j.Timeout = -1 }, "timeout -1ns"},
		"timeout of 11 years":   {func(j *job.Job) { j.Timeout = 11 * 365 * 24 * time.Hour }, "timeout"},
		"17 tags":               {func(j *job.Job) { j.Tags = make([]string, 17) }, "17 tags"},
		"long tag":              {func(j *job.Job) { j.Tags = []string{"ok", strings.Repeat("t", 65)} }, "tag has 65 bytes"},
		"tag with NUL":          {func(j *job.Job) { j.Tags = []string{"\x00"} }, "tag holds"},
		"tag not UTF-8":         {func(j *job.Job) { j.Tags = []string{"\xc3"} }, "tag is not valid UTF-8"},
		"long content type":     {func(j *job.Job) { j.ContentType = strings.Repeat("c", 129) }, "content_type has 129"},
		"content type with CR":  {func(j *job.Job) { j.ContentType = "a/b\r\n" }, "content_type holds"},
		"long trace":            {func(j *job.Job) { j.Trace = strings.Repeat("0", 513) }, "trace_parent has 513"},
		"trace not UTF-8":       {func(j *job.Job) { j.Trace = "\xff" }, "trace_parent is not valid UTF-8"},
		"long key":              {func(j *job.Job) { j.UniqueKey, j.UniqueMode = strings.Repeat("k", 257), job.UntilDone }, "unique key has 257"},
		"key with NUL":          {func(j *job.Job) { j.UniqueKey, j.UniqueMode = "\x00", job.UntilDone }, "unique key holds"},
		"key without mode":      {func(j *job.Job) { j.UniqueKey = "k" }, "go together"},
		"mode without key":      {func(j *job.Job) { j.UniqueMode = job.UntilDone }, "go together"},
		"unknown mode":          {func(j *job.Job) { j.UniqueKey, j.UniqueMode = "k", 4 }, "unique mode 4"},
		"window without a time": {func(j *job.Job) { j.UniqueKey, j.UniqueMode = "k", job.ForWindow }, "unique window"},
		"window negative":       {func(j *job.Job) { j.UniqueKey, j.UniqueMode, j.UniqueFor = "k", job.ForWindow, -1 }, "unique window"},
		"window of 11 years":    {func(j *job.Job) { j.UniqueKey, j.UniqueMode, j.UniqueFor = "k", job.ForWindow, job.MaxDelay+1 }, "unique window"},
		"a time without window": {func(j *job.Job) { j.UniqueKey, j.UniqueMode, j.UniqueFor = "k", job.UntilDone, time.Hour }, "unique window"},
		"a negative time":       {func(j *job.Job) { j.UniqueFor = -time.Hour }, "unique window"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			j := valid()
			c.change(&j)
			err := j.Validate(job.MaxPayload)
			if job.CodeOf(err) != job.InvalidArgument || job.ReasonOf(err) == "" {
				t.Fatalf("err = %v (reason %q)", err, job.ReasonOf(err))
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("message %q does not say %q", err, c.says)
			}
			if len(err.Error()) > 500 {
				t.Errorf("the message repeats the input: %d bytes", len(err.Error()))
			}
		})
	}
	j := valid()
	j.Payload = make([]byte, 11)
	if err := j.Validate(10); job.ReasonOf(err) != job.ReasonTooLarge {
		t.Errorf("the server's own bound: %v", err)
	}
}

func FuzzValidate(f *testing.F) {
	f.Add("default", "email", "tag", "key", uint8(1), 5, int64(0))
	f.Add("\x00", "\xff", strings.Repeat("t", 65), " ", uint8(9), 99, int64(-1))
	f.Fuzz(func(t *testing.T, queue, kind, tag, key string, mode uint8, priority int, window int64) {
		j := valid()
		j.Queue, j.Kind, j.Tags, j.Priority = queue, kind, []string{tag}, priority
		j.UniqueKey, j.UniqueMode, j.UniqueFor = key, job.UniqueMode(mode), time.Duration(window)
		if err := j.Validate(job.MaxPayload); err != nil {
			if job.CodeOf(err) != job.InvalidArgument {
				t.Errorf("code %d: %v", job.CodeOf(err), err)
			}
			return
		}
		for _, s := range []string{j.Queue, j.Kind, tag, key} {
			if strings.ContainsRune(s, 0) || strings.ToValidUTF8(s, "") != s || len(s) > job.MaxKey {
				t.Errorf("accepted %q", s)
			}
		}
		if priority < 0 || priority > 9 {
			t.Errorf("accepted priority %d", priority)
		}
	})
}
