package tenantpool

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/ouvira/ouvira/shared/route"
)

// tlsConfig keeps one TLS configuration for each server: its certificates are
// read once, not for each pool.
type tlsConfig struct {
	tlsMu   sync.Mutex
	tlsFrom *route.Server
	tlsMade *tls.Config
}

// tls is the configuration for connections to the server, nil for plain ones.
func (c *tlsConfig) tls(s *route.Server) (*tls.Config, error) {
	c.tlsMu.Lock()
	defer c.tlsMu.Unlock()
	if c.tlsFrom == s {
		return c.tlsMade, nil
	}
	made, err := newTLS(s)
	if err != nil {
		return nil, fmt.Errorf("the TLS settings of server %s: %w", s.Name, err)
	}
	c.tlsFrom, c.tlsMade = s, made
	return made, nil
}

func newTLS(s *route.Server) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.Host}
	if s.TLSCA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(s.TLSCA)) {
			return nil, errors.New("the CA holds no PEM certificate")
		}
	}
	switch s.TLSMode {
	case "disable":
		return nil, nil
	case "require":
		// Encryption without proof of who answers. Production refuses it.
		config.InsecureSkipVerify = true
	case "verify-ca":
		// The chain is verified, the name is not.
		config.InsecureSkipVerify = true
		config.VerifyConnection = verifyChain(config.RootCAs)
	case "verify-full":
	default:
		return nil, errors.New("the TLS mode is none of disable, require, verify-ca, verify-full")
	}
	return config, nil
}

func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, c := range state.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		return err
	}
}
