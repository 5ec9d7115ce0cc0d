package domain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// lookupTimeout bounds the question to the DNS, all attempts together.
const lookupTimeout = 10 * time.Second

// Resolver asks the DNS.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// NewResolver asks the given servers ("192.0.2.53:53"), by turns; without any it
// is the system's resolver.
func NewResolver(servers []string) (*net.Resolver, error) {
	if len(servers) == 0 {
		return net.DefaultResolver, nil
	}
	for i, s := range servers {
		servers[i] = strings.TrimSpace(s)
		if host, port, err := net.SplitHostPort(servers[i]); err != nil || net.ParseIP(host) == nil || port == "" {
			return nil, fmt.Errorf("entry %d is not an address and a port such as 192.0.2.53:53", i+1)
		}
	}
	var turn atomic.Uint64
	return &net.Resolver{
		PreferGo: true,
		// The library names a server of resolv.conf; ours takes its place. It dials
		// by TCP when an answer was truncated.
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, servers[turn.Add(1)%uint64(len(servers))])
		},
	}, nil
}

// Proof is what the DNS says about a claim.
type Proof string

// A proof is there, or the DNS says that it is not, or cannot be asked: that says
// nothing about the claim.
const (
	ProofFound   Proof = "found"
	ProofMissing Proof = "missing"
	ProofUnknown Proof = "unknown"
)

// look asks the DNS, outside of any transaction. The error says why there is
// no proof, for the log.
func (s *Service) look(ctx context.Context, d Domain) (Proof, error) {
	var resolver Resolver = net.DefaultResolver
	if s.Resolver != nil {
		resolver = s.Resolver
	}
	asking, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	records, err := resolver.LookupTXT(asking, d.RecordName()+".") // rooted: no search list
	var refused *net.DNSError
	switch {
	case err == nil && slices.Contains(records, d.Challenge):
		return ProofFound, nil
	case err == nil:
		return ProofMissing, errors.New("the DNS has other records there")
	case errors.As(err, &refused) && refused.IsNotFound:
		return ProofMissing, err
	}
	return ProofUnknown, err
}
