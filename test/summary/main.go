// Command summary reads the output of `go test -json` and prints what a person
// wants to see of it: a line for each package, the whole output of what
// failed, the reason of what was skipped, and as the last line, alone, the
// count "N passed, N failed". It exits with 1 if anything failed, or if
// nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if !summarise(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// event is one line of test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// tally counts tests, subtests included, and keeps the output of those that
// have not ended.
type tally struct {
	out                     io.Writer
	passed, failed, skipped int
	output                  map[string]*strings.Builder
	failedTests             map[string]int // by package
}

// summarise reads events from in until its end and reports whether all is well.
func summarise(in io.Reader, out io.Writer) bool {
	t := &tally{out: out, output: map[string]*strings.Builder{}, failedTests: map[string]int{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				// Not of test2json: a message of the go command itself.
				fmt.Fprintf(out, "%s", line)
			} else {
				t.add(e)
			}
		}
		if err != nil {
			break
		}
	}
	if t.skipped > 0 {
		fmt.Fprintf(out, "%d skipped, for the reasons above\n", t.skipped)
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", t.passed, t.failed)
	return t.failed == 0 && t.passed > 0
}

func (t *tally) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		b := t.output[key]
		if b == nil {
			b = &strings.Builder{}
			t.output[key] = b
		}
		b.WriteString(e.Output)
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "pass", "fail", "skip":
		t.end(e, key)
	}
}

// end counts a test or package that has ended and shows what there is to say.
func (t *tally) end(e event, key string) {
	text := ""
	if b := t.output[key]; b != nil {
		text = b.String()
		delete(t.output, key)
	}
	if e.Test == "" {
		t.endPackage(e, text)
		return
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		fmt.Fprintf(t.out, "SKIP %s %s\n%s", e.Package, e.Test, text)
	case "fail":
		t.failed++
		t.failedTests[e.Package]++
		fmt.Fprintf(t.out, "FAIL %s %s\n%s", e.Package, e.Test, text)
	}
}

// endPackage shows a package's line. One that failed without a failed test
// (it does not build, it panicked, it ran out of time) counts as one failure.
func (t *tally) endPackage(e event, text string) {
	switch e.Action {
	case "fail":
		if t.failedTests[e.Package] == 0 {
			t.failed++
		}
		fmt.Fprintf(t.out, "FAIL %s (%.1fs)\n%s", e.Package, e.Elapsed, text)
		t.unfinished(e.Package)
	case "pass":
		fmt.Fprintf(t.out, "ok   %s (%.1fs)\n", e.Package, e.Elapsed)
	}
}

// unfinished shows the output of tests that never ended, which is where a
// panic or a deadline leaves its trace.
func (t *tally) unfinished(pkg string) {
	for key, b := range t.output {
		if strings.HasPrefix(key, pkg+" ") {
			fmt.Fprintf(t.out, "UNFINISHED %s\n%s", key, b.String())
			delete(t.output, key)
		}
	}
}
