//go:build unix && !linux

package testenv

import "syscall"

// attributes makes a process run as owner (nil: as we are).
func attributes(owner *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner}
}
