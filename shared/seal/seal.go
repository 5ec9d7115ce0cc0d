// Package seal keeps secrets apart by who may read them.
//
// Two key files exist. The data plane's holds an HPKE private key and an AEAD
// keyset; its public half is given to the control plane, which can thereby
// write what only a node can read (the password of a tenant's role). The
// control plane's holds an AEAD keyset and a MAC keyset of its own.
//
// Every ciphertext is bound to a context (tenant, incarnation, …): one that
// was moved to another row does not open, and names the key that it is under.
// Each file holds Tink keysets, so a key is rotated by adding one: old
// ciphertexts stay readable (rotate.go).
package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/hybrid"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrOpen says that a ciphertext was not made with this key for this context,
// or was changed.
var ErrOpen = errors.New("the sealed value does not open with this key in this context")

// DataKey is the data plane's secret: it opens what PublicKey sealed, and
// seals what nodes keep (signing keys, snapshots).
type DataKey struct {
	hpke    tink.HybridDecrypt
	opening Ring
	aead    tink.AEAD
	sealing Ring
}

// PublicKey seals to the data plane. Its holder cannot open.
type PublicKey struct {
	hpke tink.HybridEncrypt
	ring Ring
}

// ControlKey is the control plane's secret: it seals server credentials and
// derives sign-up codes and links.
type ControlKey struct {
	aead    tink.AEAD
	sealing Ring
	prf     *prf.Set
}

// Open opens what was sealed to the public key in the same context.
func (k *DataKey) Open(sealed, context []byte) ([]byte, error) {
	plain, err := k.hpke.Decrypt(sealed, context)
	return opened(plain, err, sealed, k.opening)
}

// Seal encrypts for nodes only.
func (k *DataKey) Seal(plain, context []byte) ([]byte, error) {
	return k.aead.Encrypt(plain, context)
}

// Unseal opens what Seal made in the same context.
func (k *DataKey) Unseal(sealed, context []byte) ([]byte, error) {
	plain, err := k.aead.Decrypt(sealed, context)
	return opened(plain, err, sealed, k.sealing)
}

// Seal encrypts to the data plane.
func (k *PublicKey) Seal(plain, context []byte) ([]byte, error) {
	return k.hpke.Encrypt(plain, context)
}

// Seal encrypts for the control plane only.
func (k *ControlKey) Seal(plain, context []byte) ([]byte, error) {
	return k.aead.Encrypt(plain, context)
}

// Unseal opens what Seal made in the same context.
func (k *ControlKey) Unseal(sealed, context []byte) ([]byte, error) {
	plain, err := k.aead.Decrypt(sealed, context)
	return opened(plain, err, sealed, k.sealing)
}

func opened(plain []byte, err error, sealed []byte, ring Ring) ([]byte, error) {
	if err == nil {
		return plain, nil
	}
	// Tink's own words say nothing more.
	if id := KeyID(sealed); !ring.Has(id) {
		return nil, fmt.Errorf("%w: key %d is not in the key file", ErrOpen, id)
	}
	return nil, ErrOpen
}

// keyFile is the JSON of a key file: Tink keysets in their own JSON form.
type keyFile struct {
	path string // where it was read, for errors

	Kind   string          `json:"kind"`
	HPKE   json.RawMessage `json:"hpke,omitempty"`
	Public json.RawMessage `json:"public,omitempty"`
	AEAD   json.RawMessage `json:"aead,omitempty"`
	PRF    json.RawMessage `json:"prf,omitempty"`
}

const (
	kindData    = "ouvira-data-key"
	kindPublic  = "ouvira-data-public-key"
	kindControl = "ouvira-control-key"
)

// GenerateDataKey writes a new data-plane key (mode 0600) and its public half
// (mode 0644). It never overwrites a file: losing a key loses what it sealed.
func GenerateDataKey(secretPath, publicPath string) error {
	hpke, err := keyset.NewHandle(hybrid.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM_Key_Template())
	if err != nil {
		return fmt.Errorf("generate the data key: %w", err)
	}
	public, err := publicHalf(hpke)
	if err != nil {
		return err
	}
	aeadKeys, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("generate the data key: %w", err)
	}
	secret := keyFile{Kind: kindData}
	if secret.HPKE, err = marshalKeyset(hpke); err != nil {
		return err
	}
	if secret.AEAD, err = marshalKeyset(aeadKeys); err != nil {
		return err
	}
	if err := writeNew(secretPath, secret, 0o600); err != nil {
		return err
	}
	return writeNew(publicPath, public, 0o644)
}

// publicHalf is what the control plane is given.
func publicHalf(hpke *keyset.Handle) (keyFile, error) {
	public, err := hpke.Public()
	if err != nil {
		return keyFile{}, fmt.Errorf("make the public half of the data key: %w", err)
	}
	var buf bytes.Buffer
	if err := public.WriteWithNoSecrets(keyset.NewJSONWriter(&buf)); err != nil {
		return keyFile{}, fmt.Errorf("make the public half of the data key: %w", err)
	}
	return keyFile{Kind: kindPublic, Public: buf.Bytes()}, nil
}

// GenerateControlKey writes a new control-plane key (mode 0600). It never
// overwrites a file.
func GenerateControlKey(path string) error {
	aeadKeys, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("generate the control key: %w", err)
	}
	prfKeys, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		return fmt.Errorf("generate the control key: %w", err)
	}
	f := keyFile{Kind: kindControl}
	if f.AEAD, err = marshalKeyset(aeadKeys); err != nil {
		return err
	}
	if f.PRF, err = marshalKeyset(prfKeys); err != nil {
		return err
	}
	return writeNew(path, f, 0o600)
}

// LoadDataKey reads the data plane's key file.
func LoadDataKey(path string) (*DataKey, error) {
	f, err := readKeyFile(path, kindData)
	if err != nil {
		return nil, err
	}
	hpke, opening, err := primitive(path, f.HPKE, hybrid.NewHybridDecrypt)
	if err != nil {
		return nil, err
	}
	own, sealing, err := primitive(path, f.AEAD, aead.New)
	if err != nil {
		return nil, err
	}
	return &DataKey{hpke: hpke, opening: opening, aead: own, sealing: sealing}, nil
}

// LoadPublicKey reads the public half of the data plane's key.
func LoadPublicKey(path string) (*PublicKey, error) {
	f, err := readKeyFile(path, kindPublic)
	if err != nil {
		return nil, err
	}
	handle, err := keyset.ReadWithNoSecrets(keyset.NewJSONReader(bytes.NewReader(f.Public)))
	if err != nil {
		return nil, fmt.Errorf("key file %s is damaged: %w", path, err)
	}
	hpke, err := hybrid.NewHybridEncrypt(handle)
	if err != nil {
		return nil, fmt.Errorf("key file %s is damaged: %w", path, err)
	}
	return &PublicKey{hpke: hpke, ring: ringOf(handle)}, nil
}

// LoadControlKey reads the control plane's key file.
func LoadControlKey(path string) (*ControlKey, error) {
	f, err := readKeyFile(path, kindControl)
	if err != nil {
		return nil, err
	}
	own, sealing, err := primitive(path, f.AEAD, aead.New)
	if err != nil {
		return nil, err
	}
	deriving, _, err := primitive(path, f.PRF, prf.NewPRFSet)
	if err != nil {
		return nil, err
	}
	return &ControlKey{aead: own, sealing: sealing, prf: deriving}, nil
}

func primitive[P any](path string, raw json.RawMessage, build func(*keyset.Handle) (P, error)) (P, Ring, error) {
	var none P
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(raw)))
	if err != nil {
		return none, Ring{}, fmt.Errorf("key file %s is damaged: %w", path, err)
	}
	p, err := build(handle)
	if err != nil {
		return none, Ring{}, fmt.Errorf("key file %s is damaged: %w", path, err)
	}
	return p, ringOf(handle), nil
}

func marshalKeyset(handle *keyset.Handle) (json.RawMessage, error) {
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&buf)); err != nil {
		return nil, fmt.Errorf("write a keyset: %w", err)
	}
	return buf.Bytes(), nil
}

func readKeyFile(path, kind string) (keyFile, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return keyFile{}, fmt.Errorf("read the key file (make one with \"keys generate\"): %w", err)
	}
	var f keyFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return keyFile{}, fmt.Errorf("key file %s is not JSON", path)
	}
	if f.Kind != kind {
		return keyFile{}, fmt.Errorf("key file %s is of kind %q, %q is needed here", path, f.Kind, kind)
	}
	return f, nil
}

func writeNew(path string, f keyFile, mode os.FileMode) error {
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("key file %s exists already and is kept: remove it yourself if nothing is sealed with it", path)
	}
	if err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	if _, err = out.Write(append(raw, '\n')); err == nil {
		err = out.Sync()
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	return nil
}
