package broker_test

import (
	"strings"
	"testing"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

func TestCheckTopic(t *testing.T) {
	for _, topic := range []string{"a", "errand.0f.q.mail-2_x", strings.Repeat("x", broker.MaxTopic), "..."} {
		if err := broker.CheckTopic(topic); err != nil {
			t.Errorf("%q: %v", topic, err)
		}
	}
	for _, topic := range []string{"", ".", "..", "a b", "a\r\n", "ü", "a/b", "a\x00", strings.Repeat("x", broker.MaxTopic+1)} {
		if err := broker.CheckTopic(topic); job.CodeOf(err) != job.InvalidArgument {
			t.Errorf("%q: %v", topic, err)
		}
	}
}

func TestCheckBodiesAndMost(t *testing.T) {
	if err := broker.CheckBodies([][]byte{nil, {}, make([]byte, broker.MaxBody)}); err != nil {
		t.Error(err)
	}
	if err := broker.CheckBodies([][]byte{nil, make([]byte, broker.MaxBody+1)}); job.ReasonOf(err) != job.ReasonTooLarge {
		t.Errorf("a body over the bound: %v", err)
	}
	if broker.CheckMost(1) != nil || job.CodeOf(broker.CheckMost(0)) != job.InvalidArgument {
		t.Error("most is checked wrongly")
	}
}
