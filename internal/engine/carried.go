package engine

import "time"

// Carried is what the relay of this process knows, if it leads.
type Carried struct {
	Carriers int           // configured here, leading or not
	Waiting  int           // refs published and not seen leased yet, of all queues
	Oldest   time.Duration // since one of them was published, or published again
	Lag      time.Duration // age of the oldest ready job within the windows that is not published yet
}

// Carried looks into the relay's memory.
func (e *Engine) Carried() Carried {
	c, now := Carried{Carriers: len(e.conf.Brokers)}, e.conf.Monotonic()
	e.relay.mu.Lock()
	defer e.relay.mu.Unlock()
	for _, f := range e.relay.feeders {
		f.mu.Lock()
		c.Waiting += len(f.published)
		if !f.oldest.IsZero() {
			c.Lag = max(c.Lag, e.Now().Sub(f.oldest))
		}
		for _, s := range f.published {
			c.Oldest = max(c.Oldest, now-(s.again-e.conf.RefTTL))
		}
		f.mu.Unlock()
	}
	return c
}
