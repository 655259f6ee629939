package errand

import (
	"context"

	"connectrpc.com/connect"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
)

// wire is the Service at the other end of an HTTP connection.
type wire struct {
	errandv1connect.QueueServiceClient
	watch errandv1connect.WatchServiceClient
}

var _ Service = (*wire)(nil)

// newWire makes clients that ask for no compression: it costs a server more
// than all else that an answer does, and workers are close to their servers.
func newWire(http connect.HTTPClient, base string) *wire {
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	return &wire{
		QueueServiceClient: errandv1connect.NewQueueServiceClient(http, base, plain),
		watch:              errandv1connect.NewWatchServiceClient(http, base, plain),
	}
}

// WatchJobs implements Service.
func (w *wire) WatchJobs(ctx context.Context, r *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before Close, which would wait for the stream's end
	stream, err := w.watch.WatchJobs(ctx, r)
	if err != nil {
		return err
	}
	for stream.Receive() {
		if err := each(stream.Msg()); err != nil {
			cancel()
			_ = stream.Close() // it was cut short: its error says so
			return err
		}
	}
	err = stream.Err()
	cancel()
	_ = stream.Close() // as above
	return err
}
