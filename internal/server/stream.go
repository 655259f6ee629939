package server

import (
	"net/http"
	"time"
)

// withoutEnd serves answers that go on for as long as the caller wants: the
// server's bounds on reading and writing hold for each message instead of for the
// whole. A caller who takes none for writeTimeout is cut off.
func withoutEnd(next http.Handler) http.Handler { return endless(next, writeTimeout) }

func endless(next http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{}) // where there is none to set, none cuts off
		next.ServeHTTP(&rolling{ResponseWriter: w, control: control, patience: patience}, r)
	})
}

// rolling puts the deadline of writing off at each write.
type rolling struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
}

// Write implements http.ResponseWriter.
func (w *rolling) Write(b []byte) (int, error) {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.patience)) // as above
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (w *rolling) Flush() { _ = w.control.Flush() } // the next write tells

// Unwrap is for http.ResponseController.
func (w *rolling) Unwrap() http.ResponseWriter { return w.ResponseWriter }
