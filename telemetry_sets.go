package errand

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// The kinds of spans, as options that are made once.
var (
	asProducer = trace.WithSpanKind(trace.SpanKindProducer)
	asConsumer = trace.WithSpanKind(trace.SpanKindConsumer)
)

// maxSets bounds the sets that are kept. Those beyond it are made at each use.
const maxSets = 1000

// sets are the attributes of operations by queue and error. To make them takes as
// long as all else that is told of an attempt, and they are few.
type sets struct {
	mu sync.RWMutex
	of map[setKey]*set
}

type setKey struct {
	operation
	queue, why string
}

// set is a set of attributes in every form in which it is wanted.
type set struct {
	name     string                // of spans
	span     trace.SpanStartOption // with the type of the operation, as timed has it
	timed    []metric.RecordOption
	measured []metric.RecordOption
	added    []metric.AddOption
}

// get returns the set of an operation on a queue, which may be unknown, and how
// it failed, if it did.
func (s *sets) get(o operation, queue, why string) *set {
	k := setKey{o, queue, why}
	s.mu.RLock()
	one := s.of[k]
	s.mu.RUnlock()
	if one != nil {
		return one
	}
	counted, attrs := o.counted(queue, why), o.attributes(queue, why)
	without, with := metric.WithAttributeSet(attribute.NewSet(counted...)), metric.WithAttributeSet(attribute.NewSet(attrs...))
	one = &set{
		name: o.span(queue), span: trace.WithAttributes(attrs...), timed: []metric.RecordOption{with},
		measured: []metric.RecordOption{without}, added: []metric.AddOption{without},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[setKey]*set{}
	}
	if len(s.of) < maxSets {
		s.of[k] = one
	}
	return one
}

// span is the name of an operation's spans.
func (o operation) span(queue string) string {
	if queue == "" {
		return o.name
	}
	return o.name + " " + queue
}

// attributes describe an operation on a queue, which may be unknown, and how
// it failed, if it did.
func (o operation) attributes(queue, why string) []attribute.KeyValue {
	return append(o.counted(queue, why), semconv.MessagingOperationTypeKey.String(o.kind))
}

// counted is attributes without the type, which counters and the duration of
// processing do not have.
func (o operation) counted(queue, why string) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 8)
	attrs = append(attrs, semconv.MessagingSystemKey.String(system), semconv.MessagingOperationName(o.name))
	if queue != "" {
		attrs = append(attrs, semconv.MessagingDestinationName(queue))
	}
	if why != "" {
		attrs = append(attrs, semconv.ErrorTypeKey.String(why))
	}
	return attrs
}
