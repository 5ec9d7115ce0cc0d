//go:build unix

package tenantpool

import (
	"net"
	"syscall"
)

// looker returns a function that tells, without waiting, whether nothing is to
// be read: neither bytes nor the end.
func looker(conn net.Conn) func() bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return func() bool { return true }
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() bool { return true }
	}
	return func() bool {
		quiet := false
		var b [1]byte
		// Control and not Read: Read queues behind a reader that pgx may have
		// left waiting on the connection (after a slow write), for ever.
		err := raw.Control(func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			quiet = err == syscall.EAGAIN || err == syscall.EINTR
		})
		return err == nil && quiet
	}
}
