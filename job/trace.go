package job

// TraceParentLen is the length of a W3C traceparent of the version 00.
const TraceParentLen = 55

// JoinTrace is the trace context of a job as Job.Trace holds it: a traceparent
// and, after a space, the tracestate that goes with it, if there is one. Where
// the first cannot be a traceparent the second is left out.
func JoinTrace(parent, state string) string {
	if state == "" || len(parent) != TraceParentLen {
		return parent
	}
	return parent + " " + state
}

// SplitTrace takes apart what JoinTrace has joined.
func SplitTrace(trace string) (parent, state string) {
	if len(trace) > TraceParentLen && trace[TraceParentLen] == ' ' {
		return trace[:TraceParentLen], trace[TraceParentLen+1:]
	}
	return trace, ""
}
