package server

import (
	"net"
	"net/http"
	"strings"
)

// guardLocal protects a server without tokens, whose only wall is that it
// listens on loopback, from the one program on this machine that takes orders
// from strangers: the browser. It refuses
//
//   - a Host that is not a name of this machine: a page whose own name was made
//     to point to 127.0.0.1 (DNS rebinding) calls under that name;
//   - calls that a browser marks as made by a page of another origin, by
//     Sec-Fetch-Site or Origin.
func guardLocal(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r.Host) {
			http.Error(w, "a server without tokens answers to names of this machine only, such as localhost", http.StatusForbidden)
			return
		}
		if cross.Check(r) != nil || foreignOrigin(r) {
			http.Error(w, "a server without tokens takes no calls from web pages of other origins", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost reports whether host, with or without a port, names this machine
// in a way that no name server can claim.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// foreignOrigin holds reads to the rule too, which CrossOriginProtection does
// for writes only.
func foreignOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	_, host, ok := strings.Cut(origin, "://")
	return !ok || !strings.EqualFold(host, r.Host)
}
