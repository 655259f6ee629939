package main

import (
	"strings"
	"testing"
)

func TestSummarise(t *testing.T) {
	for name, c := range map[string]struct {
		in, last string
		well     bool
	}{
		"pass": {`{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, "1 passed, 0 failed", true},
		"fail": {`{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}`, "1 passed, 1 failed", false},
		"does not build": {`{"Action":"build-output","ImportPath":"q","Output":"syntax error\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"q","FailedBuild":"q"}`, "1 passed, 1 failed", false},
		"nothing ran": {``, "0 passed, 0 failed", false},
		"skipped": {`{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestB"}`, "1 passed, 0 failed", true},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			well := summarise(strings.NewReader(c.in), &out)
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; last != c.last || well != c.well {
				t.Errorf("last line %q, %v; want %q, %v\n%s", last, well, c.last, c.well, out.String())
			}
			if name == "fail" && !strings.Contains(out.String(), "why") {
				t.Error("the output of the failed test is missing")
			}
		})
	}
}
