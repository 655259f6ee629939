//go:build !linux

package bench

// newAlarm returns the most punctual alarm that there is.
func newAlarm() alarm { return runtimeAlarm{} }
