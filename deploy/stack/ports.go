package stack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports of one stack, all on 127.0.0.1.
type Ports struct {
	Control         int
	ControlInternal int
	WorkerInternal  int
	Data            []int
	DataInternal    []int
	SMTP            int
	Mail            int
	SMS             int
	DNS             int // by TCP and UDP
	DNSRecords      int
}

// The ports of a stack with base 0. They are part of what others test against.
const (
	portControl         = 8080
	portControlInternal = 9080
	portWorkerInternal  = 9081
	portData            = 8000
	portDataInternal    = 9000
	portSMTP            = 1025
	portMail            = 8025
	portSMS             = 8026
	portDNS             = 1053
	portDNSRecords      = 8027

	// maxDataNodes keeps the nodes' ports clear of the catchers'.
	maxDataNodes = 20
	highestPort  = 65535
)

// PortsAt are the ports of a stack, all shifted by base.
func PortsAt(base, dataNodes int) (Ports, error) {
	if base < 0 || base+portWorkerInternal > highestPort {
		return Ports{}, fmt.Errorf("OUVIRA_PORT_BASE shifts every port and has to lie between 0 and %d", highestPort-portWorkerInternal)
	}
	if dataNodes < 1 || dataNodes > maxDataNodes {
		return Ports{}, fmt.Errorf("a stack has between 1 and %d data-plane nodes", maxDataNodes)
	}
	p := Ports{
		Control: base + portControl, ControlInternal: base + portControlInternal, WorkerInternal: base + portWorkerInternal,
		SMTP: base + portSMTP, Mail: base + portMail, SMS: base + portSMS,
		DNS: base + portDNS, DNSRecords: base + portDNSRecords,
	}
	for i := range dataNodes {
		p.Data = append(p.Data, base+portData+i)
		p.DataInternal = append(p.DataInternal, base+portDataInternal+i)
	}
	return p, nil
}

// named are the ports with what a person would call their owners.
func (p Ports) named() []struct {
	name string
	port int
} {
	type named = struct {
		name string
		port int
	}
	all := []named{
		{"the control plane", p.Control},
		{"the control plane's metrics", p.ControlInternal},
		{"the worker's metrics", p.WorkerInternal},
		{"the mail catcher's SMTP", p.SMTP},
		{"the mail catcher", p.Mail},
		{"the SMS catcher", p.SMS},
		{"the name server", p.DNS},
		{"the name server's records", p.DNSRecords},
	}
	for i := range p.Data {
		all = append(all,
			named{fmt.Sprintf("data-plane node %d", i), p.Data[i]},
			named{fmt.Sprintf("the metrics of data-plane node %d", i), p.DataInternal[i]})
	}
	return all
}

// check fails with the first port that is taken.
func (p Ports) check() error {
	for _, each := range p.named() {
		listener, err := net.Listen("tcp", loopback(each.port))
		if err != nil {
			return fmt.Errorf("port %d, which %s wants, is taken by another program (%w). Stop that program, or shift all ports: make run OUVIRA_PORT_BASE=100", each.port, each.name, err)
		}
		_ = listener.Close()
	}
	return nil
}

// Bases for stacks of tests, far enough apart that no two stacks share a port,
// and all ports below those that the tests' Postgres servers take (from 26000)
// and systems give to outgoing connections: a part that is stopped finds its
// port again.
const (
	lowestTestBase = 10000
	testBlocks     = 4 // 2000 apart: a stack has ports at 1000, 8000 and 9000
	testsInBlock   = 10
	// reservation is a port that no stack uses: whoever listens on it has the base.
	reservation = 1000
)

// FreePortBase reserves a base at which all ports of a stack are free, for tests
// that run beside other stacks, in this process and in others. The base is the
// caller's until it calls release, or its process ends.
func FreePortBase() (base int, release func(), err error) {
	last := errors.New("all are reserved")
	for _, n := range rand.Perm(testBlocks * testsInBlock) {
		base := lowestTestBase + n/testsInBlock*2000 + n%testsInBlock*100
		listener, err := net.Listen("tcp", loopback(base+reservation))
		if err != nil {
			continue
		}
		ports, err := PortsAt(base, maxDataNodes)
		if err == nil {
			err = ports.check()
		}
		if err == nil {
			return base, func() { _ = listener.Close() }, nil
		}
		last = errors.Join(err, listener.Close())
	}
	return 0, nil, fmt.Errorf("no free ports for a stack were found: %w", last)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func localURL(port int) string { return "http://localhost:" + strconv.Itoa(port) }
