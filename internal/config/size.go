package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as 1048576, 1024KiB or 1MiB.
type Size int

var units = []struct {
	suffix string
	bytes  int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// UnmarshalText implements encoding.TextUnmarshaler, for TOML and the environment.
func (s *Size) UnmarshalText(b []byte) error {
	in := strings.TrimSpace(string(b))
	for _, u := range units {
		digits, ok := strings.CutSuffix(in, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(digits))
		if err != nil || n < 0 || n > math.MaxInt32/u.bytes {
			break
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 1MiB, 512KiB or 1048576, below 2GiB", in)
}

// UnmarshalTOML implements toml.Unmarshaler: a number stands without quotes.
func (s *Size) UnmarshalTOML(v any) error { return s.UnmarshalText(fmt.Append(nil, v)) }

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String writes the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units {
		if s > 0 && int(s)%u.bytes == 0 {
			return strconv.Itoa(int(s)/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(int(s)) + "B"
}

// Set implements pflag.Value.
func (s *Size) Set(v string) error { return s.UnmarshalText([]byte(v)) }

// Type implements pflag.Value.
func (s *Size) Type() string { return "size" }

// Depths bounds the scheduled and ready jobs of queues, by name; "*" stands for
// every queue that is not named.
type Depths map[string]int64

// UnmarshalText reads "mail=1000,*=50000".
func (d *Depths) UnmarshalText(b []byte) error {
	out := Depths{}
	for part := range strings.SplitSeq(string(b), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		i := strings.LastIndexByte(part, '=')
		if i < 1 {
			return fmt.Errorf("%q is not of the form QUEUE=JOBS", part)
		}
		n, err := strconv.ParseInt(part[i+1:], 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not of the form QUEUE=JOBS", part)
		}
		out[part[:i]] = n
	}
	*d = out
	return nil
}

// UnmarshalTOML implements toml.Unmarshaler: a table of queues, or the text.
func (d *Depths) UnmarshalTOML(v any) error {
	if text, ok := v.(string); ok {
		return d.UnmarshalText([]byte(text))
	}
	table, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%v is not a table of queues", v)
	}
	out := Depths{}
	for q, n := range table {
		if out[q], ok = n.(int64); !ok {
			return fmt.Errorf("%v for %s is not a number of jobs", n, q)
		}
	}
	*d = out
	return nil
}

// String implements fmt.Stringer.
func (d *Depths) String() string {
	parts := make([]string, 0, len(*d))
	for _, q := range sortedKeys(*d) {
		parts = append(parts, fmt.Sprintf("%s=%d", q, (*d)[q]))
	}
	return strings.Join(parts, ",")
}

// Set implements pflag.Value; a repeated flag adds.
func (d *Depths) Set(v string) error {
	var more Depths
	if err := more.UnmarshalText([]byte(v)); err != nil {
		return err
	}
	if *d == nil {
		*d = Depths{}
	}
	for q, n := range more {
		(*d)[q] = n
	}
	return nil
}

// Type implements pflag.Value.
func (d *Depths) Type() string { return "queue=jobs" }
