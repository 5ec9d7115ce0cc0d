//go:build unix

package tenantpool

import (
	"net"
	"testing"
	"time"
)

// pgx leaves a reader behind on a connection whose write was slow: it sits in
// Read until the next answer, and a look must not queue behind it.
func TestALookDoesNotWaitForAReader(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ours, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()

	look := looker(ours)
	if !look() {
		t.Error("an idle connection is not quiet")
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = ours.Read(make([]byte, 1))
	}()
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for range 1000 { // until the reader sits in Read for sure
			look()
			time.Sleep(100 * time.Microsecond) //nolint:forbidigo // the reader tells nobody that it waits
		}
	}()
	select {
	case <-looked:
	case <-time.After(10 * time.Second):
		t.Error("the look waits for the reader")
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	<-read
	<-looked
	if look() {
		t.Error("a connection that the other side has closed is quiet")
	}
}
