package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/errandhq/errand/gen/keda/externalscaler/externalscalerconnect"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/job"
)

// scaling answers GET /v1/scaling. Its errors look like those of calls made
// with JSON.
func (s *Server) scaling(svc *api.Service) http.Handler {
	errs := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		ctx, err := s.admit(r.Context(), connect.Spec{Procedure: auth.Scaling}, connect.Peer{}, r.Header)
		if err == nil {
			var answer api.Scaling
			if answer, err = answerScaling(r.WithContext(ctx), svc); err == nil {
				note(ctx, nil)
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(answer) // the caller has gone: nobody to tell
				return
			}
		}
		note(ctx, err)
		if connect.CodeOf(err) == connect.CodeUnauthenticated {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		_ = errs.Write(w, r, err) // as above
	})
}

func answerScaling(r *http.Request, svc *api.Service) (api.Scaling, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return api.Scaling{}, refuse(job.Errorf(job.InvalidArgument, job.ReasonBadField, "the query of the address is not valid: %v", err))
	}
	params := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 {
			return api.Scaling{}, refuse(job.Errorf(job.InvalidArgument, job.ReasonBadField, "parameter %q is there %d times", name, len(v)))
		}
		params[name] = v[0]
	}
	return svc.ScalingOf(r.Context(), params)
}

// externalScaler serves KEDA with everything else: to callers with a token, if
// the server has tokens.
func externalScaler(svc *api.Service, options ...connect.HandlerOption) (string, http.Handler) {
	path, h := externalscalerconnect.NewExternalScalerHandler(svc.ExternalScaler(), options...)
	return path, withoutEnd(h)
}

// listenScaler serves KEDA, which sends no tokens, and nothing else, on an
// address of its own. What can be learnt there is how much work a queue has,
// by whoever knows its name.
func (s *Server) listenScaler(svc *api.Service) (*sideServer, error) {
	a, err := s.listenAside("the scaler", s.conf.ScalerListen, func(mux *http.ServeMux) {
		mux.Handle(externalScaler(svc, connect.WithReadMaxBytes(maxHeaderBytes), connect.WithRecover(s.recovered),
			connect.WithInterceptors(s.conf.Interceptors...)))
		mux.Handle(grpchealth.NewHandler(health{s}))
	})
	if err != nil {
		return nil, err
	}
	if s.certs != nil {
		a.http.TLSConfig = s.certs.config()
	}
	if s.conf.ScalerClientCA != "" {
		if err := demandCertificates(a.http.TLSConfig, s.conf.ScalerClientCA); err != nil {
			return nil, errors.Join(err, a.listener.Close())
		}
	}
	return a, nil
}

// demandCertificates lets only callers in that have a certificate of an
// authority in the file.
func demandCertificates(c *tls.Config, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("scaler-client-ca: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(text) {
		return fmt.Errorf("scaler-client-ca: no certificate in %s", file)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return nil
}

// ScalerAddr is where KEDA is served without tokens; nil if nowhere.
func (s *Server) ScalerAddr() net.Addr {
	if s.scaler == nil {
		return nil
	}
	return s.scaler.listener.Addr()
}
