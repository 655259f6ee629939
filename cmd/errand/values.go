package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

// durationFlag is a duration as people write it: Go's form, and days and weeks
// ("36h", "1h30m", "7d", "2w").
type durationFlag time.Duration

func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

func (d *durationFlag) Type() string { return "duration" }

func (d *durationFlag) Set(s string) error {
	v, err := parseDuration(s)
	*d = durationFlag(v)
	return err
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		d, err = parseDays(s)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a duration such as 90s, 15m, 1h30m, 7d", clip(s))
	case d < 0:
		return 0, fmt.Errorf("%q is negative", clip(s))
	case d > job.MaxDelay:
		return 0, fmt.Errorf("%q is more than ten years", clip(s))
	}
	return d, nil
}

func parseDays(s string) (time.Duration, error) {
	units := map[byte]float64{'d': 24, 'w': 7 * 24}
	if len(s) < 2 || units[s[len(s)-1]] == 0 {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseFloat(s[:len(s)-1], 64)
	hours := n * units[s[len(s)-1]]
	if err != nil || math.IsNaN(hours) || math.Abs(hours) > 24*366*100 {
		return 0, strconv.ErrSyntax
	}
	return time.Duration(hours * float64(time.Hour)), nil
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is not a time such as 2030-01-31T08:00:00Z (RFC 3339)", clip(s))
	}
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return t, fmt.Errorf("%q is not between the years 1970 and 9999", clip(s))
	}
	return t, nil
}

func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

func reasonOf(err error) string {
	var e *errand.Error
	if errors.As(err, &e) {
		return string(e.Reason)
	}
	return ""
}
