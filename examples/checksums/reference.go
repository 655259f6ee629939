//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// argBytes bounds the arguments of one call of sha256sum, well below every
// system's bound.
const argBytes = 96 << 10

// reference asks the system's own program for the checksums: by path, without
// those of files that it cannot read.
func reference(ctx context.Context, dir string, files []file) (map[string]string, error) {
	tool, err := exec.LookPath("sha256sum")
	if err != nil {
		tool, err = exec.LookPath("shasum")
		if err != nil {
			return nil, errors.New("neither sha256sum nor shasum is installed: there is nothing to compare with")
		}
		return oneByOne(ctx, []string{tool, "-a", "256"}, dir, files)
	}
	if !endsWithNUL(ctx, tool) {
		return oneByOne(ctx, []string{tool}, dir, files)
	}
	sums := make(map[string]string, len(files))
	for len(files) > 0 {
		args, size, n := []string{"-z", "--"}, 0, 0
		for n < len(files) && (n == 0 || size < argBytes) {
			// "./" makes a path of a name such as "-".
			args = append(args, "./"+files[n].path)
			size += len(files[n].path) + 3
			n++
		}
		cmd := exec.CommandContext(ctx, tool, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		// A status of 1 is about files that it could not read.
		if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			return nil, fmt.Errorf("sha256sum: %w", err)
		}
		for record := range strings.SplitSeq(string(out), "\x00") {
			if sum, path, ok := strings.Cut(record, "  ./"); ok {
				sums[path] = sum
			}
		}
		files = files[n:]
	}
	return sums, nil
}

// endsWithNUL reports whether this sha256sum knows -z, by which names of any
// bytes come back as they are.
func endsWithNUL(ctx context.Context, tool string) bool {
	cmd := exec.CommandContext(ctx, tool, "-z")
	out, err := cmd.Output()
	return err == nil && bytes.HasSuffix(out, []byte("-\x00"))
}

// oneByOne hashes each file from standard input, so that no name is involved.
func oneByOne(ctx context.Context, command []string, dir string, files []file) (map[string]string, error) {
	sums := make(map[string]string, len(files))
	for _, f := range files {
		in, err := os.Open(filepath.Join(dir, f.path))
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stdin = in
		out, err := cmd.Output()
		_ = in.Close() // it was only read
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if sum, _, ok := bytes.Cut(out, []byte(" ")); err == nil && ok {
			sums[f.path] = string(sum)
		}
	}
	return sums, nil
}
