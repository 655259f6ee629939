package peers

// sqliteAddress names a file for modernc.org/sqlite as durably as Errand opens
// its own: a write-ahead log that is synced at every commit.
func sqliteAddress(path string) string {
	return "file:" + path + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate"
}
