package main

import "syscall"

// childAttributes give a child a group of its own, and make the kernel end it
// with the demonstration, even if that is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
