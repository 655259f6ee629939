//go:build !unix

package main

import (
	"os"
	"os/exec"
	"time"
)

// Without process groups only the command itself can be ended.

func ownGroup(*exec.Cmd) {}

func endGroup(leader int) error {
	p, err := os.FindProcess(leader)
	if err != nil {
		return err
	}
	return p.Kill()
}

func killGroup(int, time.Duration) {}
