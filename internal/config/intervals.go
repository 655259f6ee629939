package config

import (
	"fmt"
	"strings"
	"time"
)

// Intervals says how often something is done to queues, by name.
type Intervals map[string]time.Duration

// UnmarshalText reads "mail=30s,default=1m".
func (v *Intervals) UnmarshalText(b []byte) error {
	out := Intervals{}
	for part := range strings.SplitSeq(string(b), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		i := strings.LastIndexByte(part, '=')
		if i < 1 {
			return fmt.Errorf("%q is not of the form QUEUE=INTERVAL", part)
		}
		d, err := time.ParseDuration(part[i+1:])
		if err != nil {
			return fmt.Errorf("%q is not of the form QUEUE=INTERVAL", part)
		}
		out[part[:i]] = d
	}
	*v = out
	return nil
}

// UnmarshalTOML implements toml.Unmarshaler: a table of queues, or the text.
func (v *Intervals) UnmarshalTOML(in any) error {
	if text, ok := in.(string); ok {
		return v.UnmarshalText([]byte(text))
	}
	table, ok := in.(map[string]any)
	if !ok {
		return fmt.Errorf("%v is not a table of queues", in)
	}
	out := Intervals{}
	for q, one := range table {
		text, _ := one.(string)
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%v for %s is not an interval such as \"30s\"", one, q)
		}
		out[q] = d
	}
	*v = out
	return nil
}

// String implements fmt.Stringer.
func (v *Intervals) String() string {
	parts := make([]string, 0, len(*v))
	for _, q := range sortedKeys(*v) {
		parts = append(parts, fmt.Sprintf("%s=%s", q, (*v)[q]))
	}
	return strings.Join(parts, ",")
}

// Set implements pflag.Value; a repeated flag adds.
func (v *Intervals) Set(s string) error {
	var more Intervals
	if err := more.UnmarshalText([]byte(s)); err != nil {
		return err
	}
	if *v == nil {
		*v = Intervals{}
	}
	for q, d := range more {
		(*v)[q] = d
	}
	return nil
}

// Type implements pflag.Value.
func (v *Intervals) Type() string { return "queue=interval" }
