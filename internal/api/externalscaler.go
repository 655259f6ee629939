package api

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	"github.com/errandhq/errand/gen/keda/externalscaler"
	"github.com/errandhq/errand/gen/keda/externalscaler/externalscalerconnect"
	"github.com/errandhq/errand/internal/scaling"
)

// scalerMetric is the metric that KEDA scales by: the workers wanted, of which a
// replica is one.
const scalerMetric = "errand-desired-workers"

// scalerFields are the names of a ScaledObject's metadata that are parameters of ours.
var scalerFields = map[string]string{
	"queue": "queue", "kinds": "kinds", "targetWait": "target_wait", "concurrency": "concurrency", "min": "min", "max": "max",
}

// scalerOwn are names in the metadata that are meant for KEDA itself, which
// passes them on all the same.
var scalerOwn = map[string]bool{
	"scalerAddress": true, "enableTLS": true, "unsafeSsl": true, "caCert": true, "tlsClientCert": true, "tlsClientKey": true,
	"metricType": true,
}

// scalerFromEnv ends the name of a parameter that KEDA took from the environment of
// the pods that it scales; the value is there already.
const scalerFromEnv = "FromEnv"

// ExternalScaler is the service that KEDA calls as an external scaler.
func (s *Service) ExternalScaler() externalscalerconnect.ExternalScalerHandler {
	return externalScaler{s}
}

type externalScaler struct{ service *Service }

// IsActive implements externalscalerconnect.ExternalScalerHandler.
func (h externalScaler) IsActive(ctx context.Context, r *externalscaler.ScaledObjectRef) (*externalscaler.IsActiveResponse, error) {
	sig, err := h.signal(ctx, r)
	if err != nil {
		return nil, h.service.fail(ctx, "IsActive", err)
	}
	return &externalscaler.IsActiveResponse{Result: sig.Active()}, nil
}

// StreamIsActive implements externalscalerconnect.ExternalScalerHandler.
func (h externalScaler) StreamIsActive(ctx context.Context, r *externalscaler.ScaledObjectRef, stream *connect.ServerStream[externalscaler.IsActiveResponse]) error {
	q, err := scalerQuery(r)
	if err != nil {
		return h.service.fail(ctx, "StreamIsActive", err)
	}
	var gone error // the caller has
	err = h.service.engine.FollowScaling(ctx, q, func(s scaling.Signal) error {
		gone = stream.Send(&externalscaler.IsActiveResponse{Result: s.Active()})
		return gone
	})
	if gone != nil {
		return gone
	}
	return h.service.fail(ctx, "StreamIsActive", err)
}

// GetMetricSpec implements externalscalerconnect.ExternalScalerHandler. It
// asks no ledger, so that an autoscaler can be made while there is none.
func (h externalScaler) GetMetricSpec(ctx context.Context, r *externalscaler.ScaledObjectRef) (*externalscaler.GetMetricSpecResponse, error) {
	if _, err := scalerQuery(r); err != nil {
		return nil, h.service.fail(ctx, "GetMetricSpec", err)
	}
	return &externalscaler.GetMetricSpecResponse{
		MetricSpecs: []*externalscaler.MetricSpec{{MetricName: scalerMetric, TargetSize: 1, TargetSizeFloat: 1}},
	}, nil
}

// GetMetrics implements externalscalerconnect.ExternalScalerHandler.
func (h externalScaler) GetMetrics(ctx context.Context, r *externalscaler.GetMetricsRequest) (*externalscaler.GetMetricsResponse, error) {
	if n := r.GetMetricName(); n != scalerMetric {
		return nil, h.service.fail(ctx, "GetMetrics", badField("metricName", "%q is not %s, the only one there is", n, scalerMetric))
	}
	sig, err := h.signal(ctx, r.GetScaledObjectRef())
	if err != nil {
		return nil, h.service.fail(ctx, "GetMetrics", err)
	}
	return &externalscaler.GetMetricsResponse{MetricValues: []*externalscaler.MetricValue{
		{MetricName: scalerMetric, MetricValue: int64(sig.Desired), MetricValueFloat: float64(sig.Desired)},
	}}, nil
}

func (h externalScaler) signal(ctx context.Context, r *externalscaler.ScaledObjectRef) (scaling.Signal, error) {
	q, err := scalerQuery(r)
	if err != nil {
		return scaling.Signal{}, err
	}
	return h.service.engine.Scaling(ctx, q)
}

// scalerQuery reads the metadata of a ScaledObject.
func scalerQuery(r *externalscaler.ScaledObjectRef) (scaling.Query, error) {
	params := map[string]string{}
	for name, v := range r.GetScalerMetadata() {
		if scalerOwn[name] {
			continue
		}
		field, ok := scalerFields[strings.TrimSuffix(name, scalerFromEnv)]
		if !ok {
			return scaling.Query{}, badField("scalerMetadata", "unknown name %q: known are queue, kinds, targetWait, concurrency, min, max", name)
		}
		if _, twice := params[field]; twice {
			return scaling.Query{}, badField("scalerMetadata", "%q is there as it is and from the environment", strings.TrimSuffix(name, scalerFromEnv))
		}
		params[field] = v
	}
	return scaling.Parse(params)
}
