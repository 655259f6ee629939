package cluster

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"testing"
)

// Proxy stands between workers and a server and loses replies: the server has
// carried the call out, and the caller sees a broken connection. lose is asked
// for each reply, by the name of the call, from many goroutines at once.
func Proxy(t testing.TB, server string, lose func(call string) bool) (address string) {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.ModifyResponse = func(resp *http.Response) error {
		if lose(path.Base(resp.Request.URL.Path)) {
			_ = resp.Body.Close()
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}
