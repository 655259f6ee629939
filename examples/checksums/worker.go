//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	errand "github.com/errandhq/errand"
)

const (
	queue      = "checksums"
	kindFile   = "checksum.file"   // payload: the path below the directory, in any bytes
	kindBroken = "checksum.broken" // always fails
	hands      = 8                 // jobs at a time in each worker
)

// work is a worker process: it hashes files until it is told to stop.
func work(ctx context.Context, o options) error {
	c, err := errand.Dial(o.server)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	w := &errand.Worker{Client: c, Queues: []string{queue}, Concurrency: hands, Name: o.name, Grace: 5 * time.Second, Logger: log}
	errand.HandleKind(w, kindFile, func(ctx context.Context, j *errand.RawJob) error {
		began := time.Now()
		sum, err := hash(ctx, filepath.Join(o.dir, string(j.Payload)))
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return errand.Discard(err) // trying again will not help
		}
		if err != nil {
			return err
		}
		if err := pause(ctx, o.pace-time.Since(began)); err != nil {
			return err
		}
		return j.SetResultBytes([]byte(sum))
	})
	errand.HandleKind(w, kindBroken, func(context.Context, *errand.RawJob) error {
		return errors.New("this job always fails")
	})
	return w.Run(ctx)
}

// hash streams a file through SHA-256, and stops with ctx.
func hash(ctx context.Context, path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		switch {
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(h.Sum(nil)), nil
		case err != nil:
			return "", fmt.Errorf("read: %w", err)
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		}
	}
}

// pause waits for d, or until ctx ends, which is its error.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
