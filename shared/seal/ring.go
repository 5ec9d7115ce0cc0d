package seal

import (
	"encoding/binary"
	"slices"

	"github.com/tink-crypto/tink-go/v2/keyset"
)

// Ring names the keys of a keyset. Primary is the one that seals; all of them open.
type Ring struct {
	Primary uint32   `json:"primary"`
	Keys    []uint32 `json:"keys"`
}

// Has tells whether the key is there.
func (r Ring) Has(id uint32) bool { return slices.Contains(r.Keys, id) }

func ringOf(handle *keyset.Handle) Ring {
	info := handle.KeysetInfo()
	r := Ring{Primary: info.GetPrimaryKeyId()}
	for _, key := range info.GetKeyInfo() {
		r.Keys = append(r.Keys, key.GetKeyId())
	}
	return r
}

// KeyID is the id of the key that a value is sealed with; 0: it is none of ours. Nobody
// needs a key to read it: the first five bytes are a 1 and the id.
func KeyID(sealed []byte) uint32 {
	if len(sealed) < prefixSize || sealed[0] != 1 {
		return 0
	}
	return binary.BigEndian.Uint32(sealed[1:prefixSize])
}

// Prefix is what values begin with that the key has sealed.
func Prefix(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{1}, id) }

const prefixSize = 5

// Ring names the keys that seal for the control plane.
func (k *ControlKey) Ring() Ring { return k.sealing }

// Ring names the keys that nodes seal with for each other.
func (k *DataKey) Ring() Ring { return k.sealing }

// OpeningRing names the keys that open what PublicKey seals.
func (k *DataKey) OpeningRing() Ring { return k.opening }

// Ring names the keys that are sealed to.
func (k *PublicKey) Ring() Ring { return k.ring }

// derivedSize is of what is derived, in bytes.
const derivedSize = 32

// Derive computes 32 bytes from the context that nobody without the key can
// guess, and that come out the same each time, until another key is the primary one.
func (k *ControlKey) Derive(context []byte) ([]byte, error) {
	return k.prf.ComputePrimaryPRF(context, derivedSize)
}

// DerivingKey is the id of the key that Derive computes with.
func (k *ControlKey) DerivingKey() uint32 { return k.prf.PrimaryID }

// DeriveWith is Derive as it was when that key was the primary one. It is Derive
// without an id, and when the key is gone.
func (k *ControlKey) DeriveWith(id uint32, context []byte) ([]byte, error) {
	if f, there := k.prf.PRFs[id]; there {
		return f.ComputePRF(context, derivedSize)
	}
	return k.Derive(context)
}

// Derivations are what any key of the file derives from the context, the primary one's
// first: what was derived before the keys were rotated is among them.
func (k *ControlKey) Derivations(context []byte) ([][]byte, error) {
	first, err := k.Derive(context)
	if err != nil {
		return nil, err
	}
	all := [][]byte{first}
	for id, f := range k.prf.PRFs {
		if id == k.prf.PrimaryID {
			continue
		}
		derived, err := f.ComputePRF(context, derivedSize)
		if err != nil {
			return nil, err
		}
		all = append(all, derived)
	}
	return all, nil
}
