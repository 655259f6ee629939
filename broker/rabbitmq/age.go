package rabbitmq

import (
	"strconv"
	"time"
)

// tooOld reports whether a message has outlived ttl. RabbitMQ drops what gets old in
// the queue, so the time since the arrival counts, by our clock, and what the
// message had behind it then, by the publisher's. If that is no time between none
// and ttl, the clocks disagree and it counts for nothing.
func tooOld(sent any, arrived, now time.Time, ttl time.Duration) bool {
	here := now.Sub(arrived)
	if ms, ok := sent.(int64); ok {
		if before := arrived.Sub(time.UnixMilli(ms)); before > 0 && before <= ttl {
			here += before
		}
	}
	return here > ttl
}

func consumerTag(number uint64) string { return "errand-" + strconv.FormatUint(number, 10) }
