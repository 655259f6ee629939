//go:build unix

package main

import (
	"os/exec"
	"syscall"
	"time"
)

// ownGroup makes the command the leader of a process group, so that Ctrl-C at
// the worker's terminal does not reach it, and a signal reaches its children.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup asks a whole process group to end.
func endGroup(leader int) error { return syscall.Kill(-leader, syscall.SIGTERM) }

// killGroup waits until a process group that was asked to end is empty, at
// most for the grace, and kills what is left.
func killGroup(leader int, grace time.Duration) {
	const look = 10 * time.Millisecond
	for waited := time.Duration(0); waited < grace; waited += look {
		if syscall.Kill(-leader, 0) != nil {
			return
		}
		time.Sleep(look)
	}
	_ = syscall.Kill(-leader, syscall.SIGKILL)
}
