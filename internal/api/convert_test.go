package api

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/job"
)

// TestEncodeJobsAsEachAlone: the messages of many jobs, which share memory, say what
// those of single jobs say, also beside neighbours with other sessions and more or fewer times.
func TestEncodeJobsAsEachAlone(t *testing.T) {
	at := time.UnixMicro(1_700_000_000_123_456).UTC()
	jobs := make([]job.Job, 6)
	for i := range jobs {
		jobs[i] = job.Job{
			ID: job.ID{byte(i + 1)}, Queue: "q", Kind: "k", State: job.Running, Payload: []byte{byte(i)},
			CreatedAt: at.Add(time.Duration(i)), RunAt: at.Add(time.Hour), LeasedAt: at.Add(2 * time.Hour),
			Session: job.ID{0xff, byte(i / 2)}, Token: int64(i + 1),
		}
	}
	jobs[0].Session = job.ID{}
	for i := range jobs[:4] {
		jobs[i].ExpiresAt, jobs[i].DoneAt = at.Add(3*time.Hour), at.Add(4*time.Hour)
	}
	jobs[4].LeasedAt, jobs[5].CreatedAt = time.Time{}, time.Time{}
	all := encodeJobs(jobs)
	for i := range jobs {
		if one := encodeJob(&jobs[i]); !proto.Equal(all[i], one) {
			t.Errorf("job %d among others is\n%v\nalone\n%v", i, all[i], one)
		}
		if got := all[i].GetCreatedAt(); got == nil != jobs[i].CreatedAt.IsZero() || got != nil && !got.AsTime().Equal(jobs[i].CreatedAt) {
			t.Errorf("job %d was made at %v, want %v", i, got, jobs[i].CreatedAt)
		}
	}
}

// TestDecodeSettlementsNamesTheBadOne: the error of a call says which of its items is to blame, and for what.
func TestDecodeSettlementsNamesTheBadOne(t *testing.T) {
	good := &errandv1.Settlement{Id: newID(t), Token: 1, Outcome: errandv1.Outcome_OUTCOME_SUCCEED}
	bad := proto.Clone(good).(*errandv1.Settlement)
	bad.Token = 0
	_, err := new(Service).decodeSettlements([]*errandv1.Settlement{good, bad})
	if err == nil || err.Error() != "items[1].token: 0 is not positive" {
		t.Errorf("the error is %v", err)
	}
}
