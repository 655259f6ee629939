package coldsql

import (
	"strings"
	"testing"
)

const someParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestPackedTraces(t *testing.T) {
	for name, tt := range map[string]struct {
		trace  string
		packed int // characters; 0: it is kept as it is
	}{
		"sampled":             {someParent, 34},
		"not sampled":         {someParent[:54] + "0", 34},
		"random id":           {someParent[:54] + "3", 34},
		"flags to come":       {someParent[:54] + "f", 34},
		"more flags":          {someParent[:53] + "11", 0},
		"nothing but zeros":   {"00-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + "-00", 34},
		"nothing but ones":    {"00-" + strings.Repeat("f", 32) + "-" + strings.Repeat("f", 16) + "-0f", 34},
		"with a tracestate":   {someParent + " rojo=00f067aa0ba902b7", 34 + 22},
		"with a space":        {someParent + " ", 35},
		"with something else": {someParent + "-more", 0},
		"another version":     {"01" + someParent[2:], 0},
		"upper case":          {strings.ToUpper(someParent), 0},
		"half upper case":     {someParent[:10] + "A" + someParent[11:], 0},
		"no hex":              {someParent[:40] + "g" + someParent[41:], 0},
		"no dash":             {someParent[:35] + "0" + someParent[36:], 0},
		"too short":           {someParent[:54], 0},
		"none":                {"", 0},
		"another text":        {"trace of mine", 0},
		"looks packed":        {PackTrace(someParent), 35},
		"begins like one":     {"~", 2},
		"begins twice":        {"~~", 3},
	} {
		packed := PackTrace(tt.trace)
		want := tt.packed
		if want == 0 {
			want = len(tt.trace)
		}
		if len(packed) != want || tt.packed == 0 && packed != tt.trace {
			t.Errorf("%s: %q is kept as %q", name, tt.trace, packed)
		}
		if back := UnpackTrace(packed); back != tt.trace {
			t.Errorf("%s: %q came back as %q", name, tt.trace, back)
		}
	}
}

// TestTracesOfOthers: what a server before this form has written, or somebody by
// enqueue_v1, is read as it was written.
func TestTracesOfOthers(t *testing.T) {
	packed := PackTrace(someParent)
	for _, stored := range []string{
		"", someParent, someParent + " a=b", strings.ToUpper(someParent), "x", "~", "~1", packed[:33], packed + "x",
		packed[:10] + "-" + packed[11:], packed[:20] + "\n" + packed[21:], "~G" + packed[2:],
	} {
		if got := UnpackTrace(stored); got != stored {
			t.Errorf("%q is read as %q", stored, got)
		}
	}
}

// A packed form that is stored in rows must be read for ever.
func TestPackedFormStays(t *testing.T) {
	const packed = "~1CvdlGRbNQ92ESOshHIAxnLeta3FpIDMx"
	if got := PackTrace(someParent); got != packed {
		t.Errorf("packed %q, want %q", got, packed)
	}
}

// Neighbours that differ do not get one another's.
func TestTracesOfNeighbours(t *testing.T) {
	var in, out Traces
	for _, trace := range []string{"", someParent, someParent, someParent[:54] + "0", "", "~", someParent + " a=b", someParent} {
		stored := []byte(in.Pack(trace))
		if want := PackTrace(trace); string(stored) != want {
			t.Errorf("%q is kept as %q, want %q", trace, stored, want)
		}
		back := out.Unpack(stored)
		for i := range stored {
			stored[i] = 'x' // the buffer belongs to the connection
		}
		if back != trace || (*Traces)(nil).Unpack([]byte((*Traces)(nil).Pack(trace))) != trace {
			t.Errorf("%q came back as %q", trace, back)
		}
	}
}

func FuzzPackTrace(f *testing.F) {
	for _, s := range []string{someParent, someParent + " a=b", PackTrace(someParent), "~~", strings.ToUpper(someParent), someParent[:54] + "x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, trace string) {
		packed := PackTrace(trace)
		if back := UnpackTrace(packed); back != trace {
			t.Fatalf("%q is kept as %q and came back as %q", trace, packed, back)
		}
		if len(packed) > len(trace)+1 {
			t.Errorf("%q became longer: %q", trace, packed)
		}
		if again := UnpackTrace(trace); again != trace && PackTrace(again) != trace {
			t.Errorf("%q is read as %q, which is kept as %q", trace, again, PackTrace(again))
		}
	})
}

func BenchmarkPackTrace(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if UnpackTrace(PackTrace(someParent)) != someParent {
			b.Fatal("another trace")
		}
	}
}
