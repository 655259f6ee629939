package testenv

import "syscall"

// attributes makes a process run as owner (nil: as we are), and get the signal
// end when we die: a test binary that is killed leaves no server behind.
func attributes(owner *syscall.Credential, end syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner, Pdeathsig: end}
}
