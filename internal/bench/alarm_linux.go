package bench

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kernelAlarm is a timer of the kernel's, which is on time to some microseconds.
type kernelAlarm struct{ file *os.File }

// newAlarm returns the most punctual alarm that there is.
func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return runtimeAlarm{}
	}
	return kernelAlarm{os.NewFile(uintptr(fd), "timerfd")}
}

func (a kernelAlarm) sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	conn, err := a.file.SyscallConn()
	if err != nil {
		return runtimeAlarm{}.sleep(ctx, d)
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		// Zero would stop the timer.
		failed = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))}, nil)
	})
	if err != nil || failed != nil {
		return runtimeAlarm{}.sleep(ctx, d)
	}
	stop := context.AfterFunc(ctx, func() { _ = a.file.SetReadDeadline(time.Unix(1, 0)) }) // wakes the read
	defer stop()
	var expirations [8]byte
	_, _ = a.file.Read(expirations[:]) // it fails only at the end of ctx
	return ctx.Err() == nil
}

func (a kernelAlarm) close() { _ = a.file.Close() }
