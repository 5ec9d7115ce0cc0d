// Package route is where the two planes meet: the Go form of the route
// contract, which the control database offers as the views of schema "node".
//
// A route says everything a node must know to serve one tenant: under which
// hosts, whether to serve at all, which database to go to and with what
// credential, and by which keys its tokens are verified. Routes carry the
// version of the change that made them; a higher version always wins.
package route

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
)

// Channel is the NOTIFY channel on which the control database tells that the
// route table has changed. The payload is the new version.
const Channel = "ouvira_routes"

const (
	// AccessLifetime is how long an access token counts; one of support may count for
	// as long as the session does. A key that has signed stays in the route so long.
	AccessLifetime = 15 * time.Minute
	// KeysLifetime is how long others may keep a tenant's public keys that they have
	// asked a node for. A key that is new stands in the route so long before it signs.
	KeysLifetime = time.Minute
)

// Status of a routed tenant.
type Status string

// The states in which a tenant can have a route.
const (
	StatusActive    Status = "active"
	StatusSuspended Status = "suspended"
)

// Mode says what a node does with the requests of an active tenant.
type Mode string

// Serve answers, Hold lets requests wait (bounded), Maintenance answers 503.
const (
	ModeServe       Mode = "serve"
	ModeHold        Mode = "hold"
	ModeMaintenance Mode = "maintenance"
)

// Server is a Postgres server that holds tenants.
type Server struct {
	ID             uuid.UUID
	Version        int64
	Name           string
	Host           string
	Port           uint16
	TLSMode        string // disable, require, verify-ca, verify-full
	TLSCA          string // PEM
	MaxConnections int    // the budget: backends of ours, all processes together
	Status         string // active, draining, offline
}

// Settings are the tenant's own, carried in the route.
type Settings struct {
	SelfRegistration *bool    `json:"self_registration,omitempty"` // absent means true
	CORSOrigins      []string `json:"cors_origins,omitempty"`
	ResetURL         string   `json:"reset_url,omitempty"`
	InviteURL        string   `json:"invite_url,omitempty"`
	Locale           string   `json:"locale,omitempty"`
	Require2FA       bool     `json:"require_2fa,omitempty"`
	// RedirectToPrimary leads browsers from the tenant's other names to its primary
	// domain.
	RedirectToPrimary bool `json:"redirect_to_primary,omitempty"`

	// Limits are the counts, by name, that the tenant's plan changes. A route
	// carries them here; they are not among what is stored of the tenant.
	Limits map[string]int `json:"limits,omitempty"`

	Branding Branding `json:"branding,omitzero"`

	// Sandbox: the tenant is a copy to try things with. Its mail and SMS go nowhere.
	Sandbox bool `json:"sandbox,omitempty"`
}

// Branding is how the tenant's mails look. Whatever is empty is taken from the
// tenant's home company, or left out.
type Branding struct {
	Name     string `json:"name,omitempty"`
	LogoURL  string `json:"logo_url,omitempty"` // https
	Color    string `json:"color,omitempty"`    // as in #1a73e8
	FromName string `json:"from_name,omitempty"`
}

// AllowsSelfRegistration tells whether anyone may register.
func (s Settings) AllowsSelfRegistration() bool {
	return s.SelfRegistration == nil || *s.SelfRegistration
}

// JWK is a public ES256 signing key (RFC 7517).
type JWK struct {
	Kid string `json:"kid"`
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Alg string `json:"alg"`
	Use string `json:"use"`
}

// Route is one tenant's entry. Nodes share it between goroutines: it is never
// changed after it was made.
type Route struct {
	TenantID         uuid.UUID
	Version          int64
	Deleted          bool // a tombstone: the tenant is served no more
	Slug             string
	Hosts            []string // verified custom domains, the primary first; the platform's own name derives from Slug
	CustomPrimary    bool     // Hosts[0] is the primary domain
	Status           Status
	Mode             Mode
	TokenEpoch       int64 // claim "gen" of the tokens that count
	SchemaVersion    int64
	Incarnation      int
	Server           *Server
	Database         string // also the name of the login role
	Credential       []byte // the role's password, sealed to the data plane's key
	MaxConnections   int    // the tenant's own cap
	StatementTimeout time.Duration
	Settings         Settings
	Keys             []JWK // whose tokens count; the last one signs. A key that is new stands first until everybody knows it
}

// PoolKey identifies a pool of connections: the tenant, and a digest of all
// that a connection is made from. A new domain or another setting leaves it
// as it is and so does not cost a warm pool.
type PoolKey struct {
	Tenant uuid.UUID
	Digest [16]byte
}

// PoolKey of the route.
func (r *Route) PoolKey() PoolKey {
	h := sha256.New()
	for _, s := range []string{r.Server.ID.String(), r.Server.Host, r.Server.TLSMode, r.Server.TLSCA, r.Database, string(r.Credential)} {
		writeField(h, s)
	}
	for _, n := range []uint64{uint64(r.Server.Port), uint64(r.Incarnation), uint64(r.MaxConnections), uint64(r.StatementTimeout)} {
		_ = binary.Write(h, binary.BigEndian, n)
	}
	key := PoolKey{Tenant: r.TenantID}
	copy(key.Digest[:], h.Sum(nil))
	return key
}

// writeField writes s with its length, so that no two lists of fields give the
// same bytes.
func writeField(w io.Writer, s string) {
	_ = binary.Write(w, binary.BigEndian, uint64(len(s)))
	_, _ = io.WriteString(w, s)
}

// CredentialContext binds a sealed password to the one database that it opens:
// a ciphertext that was swapped with another tenant's does not decrypt.
func CredentialContext(tenant uuid.UUID, incarnation int) []byte {
	return fmt.Appendf(nil, "tenant-credential/%s/%d", tenant, incarnation)
}

// SigningKeyContext binds a sealed private signing key to its tenant and kid.
func SigningKeyContext(tenant uuid.UUID, kid string) []byte {
	return fmt.Appendf(nil, "tenant-signing-key/%s/%s", tenant, kid)
}

func decodeJSON[T any](raw []byte) (T, error) {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("decode %T: %w", v, err)
	}
	return v, nil
}
