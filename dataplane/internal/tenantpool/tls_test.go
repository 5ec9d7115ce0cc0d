package tenantpool

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/route"
)

// authority makes a CA (PEM) and a certificate that it has signed for a name.
func authority(t *testing.T, name string) (ca string, leaf tls.Certificate) {
	t.Helper()
	issue := func(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made, key
	}
	until := time.Now().Add(time.Hour)
	root, rootKey := issue(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	cert, key := issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, rootKey)
	ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
	return ca, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// handshake tells whether a client with the server's settings accepts the
// certificate.
func handshake(t *testing.T, s *route.Server, leaf tls.Certificate) error {
	t.Helper()
	var c tlsConfig
	config, err := c.tls(s)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		far, err := listener.Accept()
		if err != nil {
			return
		}
		defer far.Close()
		_ = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{leaf}}).HandshakeContext(t.Context())
	}()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	return tls.Client(near, config).HandshakeContext(t.Context())
}

func TestEachTLSModeVerifiesWhatItSays(t *testing.T) {
	t.Parallel()
	ca, leaf := authority(t, "pg-a.example")
	foreign, _ := authority(t, "pg-a.example")
	for _, c := range []struct {
		mode, host, ca string
		accepts        bool
	}{
		{"require", "elsewhere.example", foreign, true},
		{"verify-ca", "pg-a.example", ca, true},
		{"verify-ca", "elsewhere.example", ca, true},
		{"verify-ca", "pg-a.example", foreign, false},
		{"verify-ca", "pg-a.example", "", false}, // the system's roots do not know it
		{"verify-full", "pg-a.example", ca, true},
		{"verify-full", "elsewhere.example", ca, false},
		{"verify-full", "pg-a.example", foreign, false},
	} {
		err := handshake(t, &route.Server{Name: "a", Host: c.host, TLSMode: c.mode, TLSCA: c.ca}, leaf)
		if (err == nil) != c.accepts {
			t.Errorf("%s at %s: %v", c.mode, c.host, err)
		}
	}
	var c tlsConfig
	if config, err := c.tls(&route.Server{TLSMode: "disable"}); config != nil || err != nil {
		t.Errorf("disable: %v, %v", config, err)
	}
	for _, s := range []*route.Server{{TLSMode: "prefer"}, {TLSMode: ""}, {TLSMode: "verify-full", TLSCA: "not PEM"}} {
		if _, err := c.tls(s); err == nil {
			t.Errorf("mode %q with CA %q was accepted", s.TLSMode, s.TLSCA)
		}
	}
}
