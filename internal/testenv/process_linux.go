package testenv

import "syscall"

// attributes makes a process run as owner (nil: as we are), and end with us:
// a test binary that is killed leaves no server behind.
func attributes(owner *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner, Pdeathsig: syscall.SIGQUIT}
}
