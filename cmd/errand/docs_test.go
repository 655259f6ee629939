package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestDocsNameEveryVerbAndFlag holds docs/cli.md against the tree of verbs.
func TestDocsNameEveryVerbAndFlag(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	a := &app{stdout: io.Discard, stderr: io.Discard}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" {
			t.Errorf("%s says nothing of itself", cmd.CommandPath())
		}
		if !strings.Contains(text, cmd.Name()) {
			t.Errorf("docs/cli.md does not name %s", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !strings.Contains(text, "--"+f.Name) {
				t.Errorf("docs/cli.md does not name --%s of %s", f.Name, cmd.CommandPath())
			}
			if f.Usage == "" {
				t.Errorf("--%s of %s says nothing of itself", f.Name, cmd.CommandPath())
			}
		})
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(newRoot(a))
	for _, status := range []int{exitDone, exitFailed, exitUsage, exitNotFound, exitRefused, exitUnreachable, exitInterrupted} {
		if row := fmt.Sprintf("| %d |", status); !strings.Contains(text, row) {
			t.Errorf("docs/cli.md does not explain exit status %d", status)
		}
	}
}
