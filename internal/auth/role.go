package auth

import (
	"strings"

	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/job"
)

// Role is a set of permissions; a caller may have several, added together.
type Role uint8

// The roles that a line of the token file may name.
const (
	Producer Role = 1 << iota // hands jobs in, and follows and cancels them
	Worker                    // carries jobs out
	Viewer                    // sees everything, changes nothing
	Operator                  // may do everything
	Monitor                   // reads the metrics and the scaling signal, and sees nothing else
)

// all is every role: who has one of them is authenticated, no more.
const all = Producer | Worker | Viewer | Operator | Monitor

var roleNames = []struct {
	role Role
	name string
}{{Producer, "producer"}, {Worker, "worker"}, {Viewer, "viewer"}, {Operator, "operator"}, {Monitor, "monitor"}}

// ParseRole reads role names joined by commas, as in "producer,worker".
func ParseRole(s string) (Role, error) {
	var r Role
	for name := range strings.SplitSeq(s, ",") {
		one := roleByName(name)
		if one == 0 {
			return 0, job.Errorf(job.InvalidArgument, job.ReasonBadField,
				"role %q is not one of producer, worker, viewer, operator, monitor", name)
		}
		r |= one
	}
	return r, nil
}

func roleByName(name string) Role {
	for _, n := range roleNames {
		if n.name == name {
			return n.role
		}
	}
	return 0
}

// String returns the names, joined by commas.
func (r Role) String() string {
	var names []string
	for _, n := range roleNames {
		if r&n.role != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// grants says which roles may make each call besides the operator, in the order
// of the contract in proto/errand/v1. A call that is not listed is the
// operator's alone, so that a new one is closed until someone opens it.
//
// A worker sees the queues because "errand work --until-empty" ends by their
// counters. A producer may cancel what it can name: ids are not guessable.
var grants = map[string]Role{
	errandv1connect.QueueServiceEnqueueProcedure: Producer,
	errandv1connect.QueueServiceWakeProcedure:    Producer,

	errandv1connect.QueueServiceGetJobsProcedure:     Producer | Viewer,
	errandv1connect.QueueServiceListJobsProcedure:    Viewer,
	errandv1connect.QueueServiceWaitJobsProcedure:    Producer | Viewer,
	errandv1connect.WatchServiceWatchJobsProcedure:   Producer | Viewer, // but by ids alone: SeesAll
	errandv1connect.QueueServiceCancelJobsProcedure:  Producer,
	errandv1connect.QueueServiceDeleteJobsProcedure:  0,
	errandv1connect.QueueServiceRedriveJobsProcedure: 0,
	errandv1connect.QueueServicePurgeDeadProcedure:   0,
	errandv1connect.QueueServiceCountDeadProcedure:   Viewer,

	errandv1connect.QueueServiceOpenSessionProcedure:  Worker,
	errandv1connect.QueueServiceLeaseProcedure:        Worker,
	errandv1connect.QueueServiceExtendProcedure:       Worker,
	errandv1connect.QueueServiceSettleProcedure:       Worker,
	errandv1connect.QueueServiceCloseSessionProcedure: Worker,

	errandv1connect.QueueServiceListQueuesProcedure:    Worker | Viewer,
	errandv1connect.QueueServicePauseQueueProcedure:    0,
	errandv1connect.QueueServiceRouteQueueProcedure:    0,
	errandv1connect.QueueServiceResumeQueueProcedure:   0,
	errandv1connect.QueueServiceListSessionsProcedure:  Viewer,
	errandv1connect.QueueServiceGetInsightsProcedure:   Viewer,
	errandv1connect.QueueServiceGetScalingProcedure:    Viewer | Monitor,
	errandv1connect.QueueServiceGetServerInfoProcedure: all,
}

// Metrics is the path of the metrics. A monitoring system's token lies in a
// configuration that many may read, so it has a role of its own: viewers see
// payloads.
const Metrics = "/metrics"

// Scaling is the path of the scaling signal as plain JSON, for autoscalers;
// scaler is that of KEDA's service.
const (
	Scaling = "/v1/scaling"
	scaler  = "/externalscaler.ExternalScaler/"
)

// reflection lets a tool such as grpcurl learn the contract, which is public.
const reflection = "/grpc.reflection."

// Allows reports whether a caller with these roles may call the procedure, a
// path such as "/errand.v1.QueueService/Enqueue".
func (r Role) Allows(procedure string) bool {
	if strings.HasPrefix(procedure, reflection) {
		return r&all != 0
	}
	if procedure == Metrics || procedure == Scaling || strings.HasPrefix(procedure, scaler) {
		return r&(Monitor|Viewer|Operator) != 0
	}
	return r&(grants[procedure]|Operator) != 0
}

// SeesAll reports whether a caller may see jobs that it cannot name.
func (r Role) SeesAll() bool { return r&(Viewer|Operator) != 0 }

// Authorize is Allows as an error with code PermissionDenied that says what
// the caller has.
func (c Caller) Authorize(procedure string) error {
	if c.Role.Allows(procedure) {
		return nil
	}
	return job.Errorf(job.PermissionDenied, job.ReasonPermissionDenied,
		"%s has role %s, which does not allow %s", c.Name, c.Role, procedure[strings.LastIndexByte(procedure, '/')+1:])
}
