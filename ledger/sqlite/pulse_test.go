package sqlite

import (
	"testing"
	"time"

	"github.com/errandhq/errand/ledger"
)

// The clock of a pulse that was held up is that of its middle, for which the engine takes it.
func TestPulseTellsTheTimeOfItsMiddle(t *testing.T) {
	l := testOpen(t, testPath(t))
	l.heads.mu.Lock()
	began := time.Now()
	time.AfterFunc(200*time.Millisecond, l.heads.mu.Unlock)
	p, err := l.Pulse(t.Context(), began, ledger.Ask{Due: true})
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	if off := p.Now.Sub(began.Add(took / 2)).Abs(); off > took/4 {
		t.Errorf("%s from the middle of %s", off, took)
	}
}
