// Command generate writes Errand's Grafana dashboards, one JSON file each, into
// the directory named by its argument. It is a module of its own, so that whoever
// builds Errand does not get Grafana's builders with it. The files are
// committed; test/observe makes them again and compares.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIRECTORY")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	for _, b := range []board{overview, queueAndKind, workers, plumbing} {
		d, err := b.build()
		if err != nil {
			return fmt.Errorf("%s: %w", b.file, err)
		}
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(d); err != nil {
			return fmt.Errorf("%s: %w", b.file, err)
		}
		if err := os.WriteFile(filepath.Join(dir, b.file+".json"), out.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
