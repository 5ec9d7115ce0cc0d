package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// errPrivate says that a name led to where nothing is sent.
var errPrivate = errors.New("the address is in a private network")

// notPublic are the networks of the IANA special-purpose registries that netip's
// own predicates leave out: what is in them is a machine of ours, or leads to one.
var notPublic = func() []netip.Prefix {
	var list []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}()

// public tells whether the address is one of the internet's.
func public(ip netip.Addr) bool {
	ip = ip.WithZone("").Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, network := range notPublic {
		if network.Contains(ip) {
			return false
		}
	}
	return true
}

// onlyPublic is asked by the dialer for each address that it is about to connect
// to, after names were resolved: what a name led to earlier does not count.
func onlyPublic(_, address string, _ syscall.RawConn) error {
	where, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("read the address that is dialled: %w", err)
	}
	if !public(where.Addr()) {
		return errPrivate
	}
	return nil
}
