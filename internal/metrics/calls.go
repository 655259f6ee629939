package metrics

import (
	"context"
	"strings"

	"connectrpc.com/connect"
)

// Calls returns an interceptor that counts the calls of the API by how they ended.
func (m *Metrics) Calls() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			resp, err := next(ctx, r)
			code := "ok"
			if err != nil {
				code = connect.CodeOf(err).String()
			}
			name := r.Spec().Procedure
			m.calls.WithLabelValues(name[strings.LastIndexByte(name, '/')+1:], code).Inc()
			return resp, err
		}
	})
}
