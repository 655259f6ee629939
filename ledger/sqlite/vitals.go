package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/errandhq/errand/ledger"
)

var _ ledger.Examined = (*Ledger)(nil)

// Vitals implements ledger.Examined: the files, and nothing that SQLite does not have.
func (l *Ledger) Vitals(ctx context.Context) (ledger.Vitals, error) {
	var v ledger.Vitals
	for _, path := range []string{l.path, l.path + "-wal"} {
		st, err := os.Stat(path)
		switch {
		case err == nil:
			v.Bytes += st.Size()
		case !errors.Is(err, fs.ErrNotExist):
			return v, fileError(path, err)
		}
	}
	var err error
	v.OldestDead, err = l.store.OldestDead(ctx)
	return v, err
}
