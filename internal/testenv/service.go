package testenv

// Service is a server that a whole run of tests shares; program test/services
// starts it. For each there is a function of this shape, which starts the
// server with its files in dir, on a free loopback port, and returns when it
// takes work:
//
//	func ServePostgres(dir string) (Service, error)
type Service interface {
	// Env returns the environment variable, and its value, by which tests find the server.
	Env() (name, value string)

	// Stop ends the server. Its files are the caller's to remove.
	Stop()
}
