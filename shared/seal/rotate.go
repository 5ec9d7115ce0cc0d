package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/hybrid"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

// A key is rotated in steps, each of which all processes have to have taken before the
// next one: it is added, and opens; it is promoted, and seals; what is sealed with the
// one before is sealed anew; the one before is removed. So no process ever meets a value
// that it cannot open.

// KeyFiles are where the key of a plane lies. Public is the public half of a data
// plane's key, and "" for the control plane's.
type KeyFiles struct{ Secret, Public string }

// Add puts a new key into the file, with the same id into each of its keysets. It
// opens, and seals nothing yet.
func (k KeyFiles) Add() (id uint32, err error) {
	return k.edit(func(f *keyFile) (uint32, error) {
		var raw [4]byte
		_, _ = rand.Read(raw[:]) // never fails
		id := binary.BigEndian.Uint32(raw[:])
		return id, f.each(func(k *keysetFile, template *tinkpb.KeyTemplate) error {
			if k.at(id) >= 0 {
				return errors.New("the new key has the id of another one: try again")
			}
			return k.add(id, template)
		})
	})
}

// Promote lets the newest key of the file seal from now on.
func (k KeyFiles) Promote() (id uint32, err error) {
	return k.edit(func(f *keyFile) (uint32, error) {
		var id uint32
		return id, f.each(func(k *keysetFile, _ *tinkpb.KeyTemplate) error {
			newest := k.Keys[len(k.Keys)-1].id()
			if newest == k.Primary {
				return fmt.Errorf("key %d is the newest one of %s, and seals already: add one first", newest, f.path)
			}
			k.Primary, id = newest, newest
			return nil
		})
	})
}

// Remove takes a key out of the file: what it has sealed opens no more.
func (k KeyFiles) Remove(id uint32) error {
	_, err := k.edit(func(f *keyFile) (uint32, error) {
		// Keys that were made with the file have an id in each of its keysets; what
		// belongs together is at the same place.
		at := -1
		lengths := map[int]bool{}
		err := f.each(func(k *keysetFile, _ *tinkpb.KeyTemplate) error {
			lengths[len(k.Keys)] = true
			at = max(at, k.at(id))
			return nil
		})
		switch {
		case err != nil:
			return 0, err
		case at < 0:
			return 0, fmt.Errorf("key %d is not in %s", id, f.path)
		case len(lengths) > 1:
			return 0, fmt.Errorf("the keysets of %s hold different numbers of keys: it was changed by hand, and has to be again", f.path)
		}
		return id, f.each(func(k *keysetFile, _ *tinkpb.KeyTemplate) error {
			if k.Keys[at].id() == k.Primary {
				return fmt.Errorf("key %d seals: add and promote another one first", id)
			}
			k.Keys = slices.Delete(k.Keys, at, at+1)
			return nil
		})
	})
	return err
}

// edit changes the key file as a whole, or not at all, and then the public half.
func (k KeyFiles) edit(change func(*keyFile) (uint32, error)) (uint32, error) {
	kind := kindControl
	if k.Public != "" {
		kind = kindData
	}
	f, err := readKeyFile(k.Secret, kind)
	if err != nil {
		return 0, err
	}
	f.path = k.Secret
	id, err := change(&f)
	if err != nil {
		return 0, err
	}
	if err := replace(k.Secret, f, 0o600); err != nil || k.Public == "" {
		return id, err
	}
	hpke, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(f.HPKE)))
	if err != nil {
		return 0, fmt.Errorf("key file %s is damaged: %w", k.Secret, err)
	}
	half, err := publicHalf(hpke)
	if err != nil {
		return 0, err
	}
	return id, replace(k.Public, half, 0o644)
}

// keysetFile is Tink's JSON of a keyset, as far as rotation is concerned.
type keysetFile struct {
	Primary uint32     `json:"primaryKeyId"` //nolint:tagliatelle // as Tink writes it
	Keys    []keyEntry `json:"key"`
}

// keyEntry keeps what Tink has written of a key.
type keyEntry map[string]json.RawMessage

func (k keyEntry) id() uint32 {
	var id uint32
	_ = json.Unmarshal(k["keyId"], &id) // Tink has read it
	return id
}

func (k *keysetFile) at(id uint32) int {
	return slices.IndexFunc(k.Keys, func(key keyEntry) bool { return key.id() == id })
}

func (k *keysetFile) add(id uint32, template *tinkpb.KeyTemplate) error {
	handle, err := keyset.NewHandle(template)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	raw, err := marshalKeyset(handle)
	if err != nil {
		return err
	}
	var made keysetFile
	if err := json.Unmarshal(raw, &made); err != nil {
		return fmt.Errorf("read a new keyset: %w", err)
	}
	entry := made.Keys[0]
	if entry["keyId"], err = json.Marshal(id); err != nil {
		return fmt.Errorf("name a new key: %w", err)
	}
	k.Keys = append(k.Keys, entry)
	return nil
}

// each changes the keysets of the file, with the template that their keys are made by.
func (f *keyFile) each(change func(*keysetFile, *tinkpb.KeyTemplate) error) error {
	for _, part := range []struct {
		raw      *json.RawMessage
		template *tinkpb.KeyTemplate
	}{
		{&f.HPKE, hybrid.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM_Key_Template()},
		{&f.AEAD, aead.AES256GCMKeyTemplate()},
		{&f.PRF, prf.HMACSHA256PRFKeyTemplate()},
	} {
		if len(*part.raw) == 0 {
			continue
		}
		if _, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(*part.raw))); err != nil {
			return fmt.Errorf("key file %s is damaged: %w", f.path, err)
		}
		var k keysetFile
		err := json.Unmarshal(*part.raw, &k)
		if err == nil {
			err = change(&k, part.template)
		}
		if err == nil {
			*part.raw, err = json.Marshal(k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replace puts a file in the place of another one, which is there until then.
func replace(path string, f keyFile, mode os.FileMode) error {
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write the key file: %w", err)
	}
	if err := writeNew(beside, f, mode); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	return nil
}
