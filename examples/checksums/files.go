//go:build unix

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// file is one file to hash.
type file struct {
	path string // below the directory; any bytes but NUL
	size int64
	mod  time.Time
}

// listing is what a directory holds.
type listing struct {
	files   []file
	bytes   int64
	skipped int // symbolic links, sockets, devices, and directories that cannot be read
}

// list finds every regular file below dir, but those of version control and
// those in without, the demonstration's own directory.
func list(ctx context.Context, dir, without string) (listing, error) {
	var l listing
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && path == dir:
			return err
		case err != nil:
			l.skipped++
			return nil
		case path == dir && !d.IsDir():
			return fmt.Errorf("%s is not a directory", quoted(dir))
		case d.IsDir() && (path == without || (d.Name() == ".git" && path != dir)):
			return fs.SkipDir
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			l.skipped++
			return nil
		}
		info, err := d.Info()
		if err != nil {
			l.skipped++ // it went away meanwhile
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		l.files = append(l.files, file{path: rel, size: info.Size(), mod: info.ModTime()})
		l.bytes += info.Size()
		return nil
	})
	if err == nil && len(l.files) == 0 {
		err = fmt.Errorf("there is no regular file below %s", dir)
	}
	return l, err
}

// changed reports whether a file is not what it was when it was listed: then
// two programs that read it at two times may rightly differ.
func (f file) changed(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, f.path))
	return err != nil || info.Size() != f.size || !info.ModTime().Equal(f.mod)
}
