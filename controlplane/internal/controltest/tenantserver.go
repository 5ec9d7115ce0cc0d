package controltest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// TenantServer is a Postgres server that is prepared to hold tenants.
type TenantServer struct {
	*pgserver.Server

	// ProvisionerURL is how tests add it: adding it with the superuser's would give
	// the provisioner a new password.
	ProvisionerURL string
}

// TenantServers are the servers that the tests of a package share: one for each
// version and name. Close them at the end (testdb.Main).
type TenantServers struct {
	mu      sync.Mutex
	running map[string]*TenantServer
}

// Get starts and prepares the server, once.
func (s *TenantServers) Get(t testing.TB, version, name string) *TenantServer {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := version + "/" + name
	if running := s.running[key]; running != nil {
		return running
	}
	started, err := StartTenantServer(testdb.Bin(t, version))
	if err != nil {
		t.Fatalf("start a tenant server: %v", err)
	}
	if s.running == nil {
		s.running = map[string]*TenantServer{}
	}
	s.running[key] = started
	return started
}

// Close stops them all.
func (s *TenantServers) Close() error {
	var errs []error
	for _, running := range s.running {
		errs = append(errs, running.Close())
	}
	return errors.Join(errs...)
}

// StartTenantServer starts one that the caller closes.
func StartTenantServer(bin string) (*TenantServer, error) {
	started, err := pgserver.Start(context.Background(), pgserver.Test(bin, nil))
	if err != nil {
		return nil, err
	}
	s := &TenantServer{Server: started}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a tenant server: %w", err), started.Close())
	}
	return s, nil
}

func (s *TenantServer) prepare() error {
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	if err := migrations.PrepareServer(context.Background(), s.URL(), verifier); err != nil {
		return err
	}
	u, err := url.Parse(s.URL())
	if err != nil {
		return err
	}
	u.User = url.UserPassword(migrations.ProvisionerRole, password)
	s.ProvisionerURL = u.String()
	return nil
}
