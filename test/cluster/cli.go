package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
)

// Answer is what a run of the errand command left behind.
type Answer struct {
	Status         int
	Stdout, Stderr string
}

// CLI runs the errand command against the cluster's servers, with input on its
// standard input.
func (c *Cluster) CLI(input string, args ...string) Answer {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(c.T.Context(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, Errand(c.T), args...)
	cmd.Env = append(os.Environ(), "ERRAND_SERVER="+c.URLs())
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		c.T.Fatalf("errand %q: %v", args, err)
	}
	return Answer{Status: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// Do is CLI without input, for a command that must succeed; it returns what
// was printed.
func (c *Cluster) Do(args ...string) string {
	c.T.Helper()
	a := c.CLI("", args...)
	if a.Status != 0 {
		c.T.Fatalf("errand %q: exit status %d\n%s%s", args, a.Status, a.Stdout, a.Stderr)
	}
	return strings.TrimSpace(a.Stdout)
}

// JSON is Do with -o json, decoded.
func (c *Cluster) JSON(args ...string) map[string]any {
	c.T.Helper()
	text := c.Do(append([]string{"-o", "json"}, args...)...)
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		c.T.Fatalf("errand %q printed %q: %v", args, text, err)
	}
	return v
}
