package engine

// Sampled tells of how many queues samples are kept.
func (e *Engine) Sampled() int {
	e.signals.book.Lock()
	defer e.signals.book.Unlock()
	return len(e.signals.queues)
}
