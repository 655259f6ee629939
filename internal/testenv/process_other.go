//go:build unix && !linux

package testenv

import "syscall"

// attributes makes a process run as owner (nil: as we are).
func attributes(owner *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner}
}
