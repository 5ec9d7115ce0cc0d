package seal

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/hybrid"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

// A key file may hold several keys, as Tink's own tools write them: the primary one seals
// and derives, and all of them open. So a process that has the new key, and not as the
// primary one yet, opens what others seal already.
func TestAKeyFileMayHoldSeveralKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := GenerateControlKey(at("control.json")); err != nil {
		t.Fatal(err)
	}
	if err := GenerateDataKey(at("data.json"), at("data.pub.json")); err != nil {
		t.Fatal(err)
	}
	// Each keyset gets one more key; it becomes the primary one in a second file.
	more := func(raw json.RawMessage, template *tinkpb.KeyTemplate) (known, primary *keyset.Handle) {
		handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(raw)))
		must(t, err)
		manager := keyset.NewManagerFromHandle(handle)
		id, err := manager.Add(template)
		must(t, err)
		known, err = manager.Handle()
		must(t, err)
		must(t, manager.SetPrimary(id))
		primary, err = manager.Handle()
		must(t, err)
		return known, primary
	}
	private := func(h *keyset.Handle) json.RawMessage {
		raw, err := marshalKeyset(h)
		must(t, err)
		return raw
	}
	public := func(h *keyset.Handle) json.RawMessage {
		half, err := h.Public()
		must(t, err)
		var buf bytes.Buffer
		must(t, half.WriteWithNoSecrets(keyset.NewJSONWriter(&buf)))
		return buf.Bytes()
	}
	control, err := readKeyFile(at("control.json"), kindControl)
	must(t, err)
	data, err := readKeyFile(at("data.json"), kindData)
	must(t, err)
	sealing, sealingFirst := more(control.AEAD, aead.AES256GCMKeyTemplate())
	deriving, derivingFirst := more(control.PRF, prf.HMACSHA256PRFKeyTemplate())
	opening, openingFirst := more(data.HPKE, hybrid.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM_Key_Template())
	own, ownFirst := more(data.AEAD, aead.AES256GCMKeyTemplate())
	must(t, writeNew(at("control.known.json"), keyFile{Kind: kindControl, AEAD: private(sealing), PRF: private(deriving)}, 0o600))
	must(t, writeNew(at("control.first.json"), keyFile{Kind: kindControl, AEAD: private(sealingFirst), PRF: private(derivingFirst)}, 0o600))
	must(t, writeNew(at("data.known.json"), keyFile{Kind: kindData, HPKE: private(opening), AEAD: private(own)}, 0o600))
	must(t, writeNew(at("data.first.json"), keyFile{Kind: kindData, HPKE: private(openingFirst), AEAD: private(ownFirst)}, 0o600))
	must(t, writeNew(at("data.pub.first.json"), keyFile{Kind: kindPublic, Public: public(openingFirst)}, 0o600))

	type one struct {
		control *ControlKey
		data    *DataKey
		public  *PublicKey
	}
	load := func(controlFile, dataFile, publicFile string) one {
		c, err := LoadControlKey(at(controlFile))
		must(t, err)
		d, err := LoadDataKey(at(dataFile))
		must(t, err)
		p, err := LoadPublicKey(at(publicFile))
		must(t, err)
		return one{c, d, p}
	}
	before := load("control.json", "data.json", "data.pub.json")
	known := load("control.known.json", "data.known.json", "data.pub.json")
	first := load("control.first.json", "data.first.json", "data.pub.first.json")
	what, of := []byte("s3cret"), []byte("tenant-a/1")
	opens := func(by, sealer one) (opened [3]bool) {
		byControl, err := sealer.control.Seal(what, of)
		must(t, err)
		toData, err := sealer.public.Seal(what, of)
		must(t, err)
		byData, err := sealer.data.Seal(what, of)
		must(t, err)
		_, err1 := by.control.Unseal(byControl, of)
		_, err2 := by.data.Open(toData, of)
		_, err3 := by.data.Unseal(byData, of)
		return [3]bool{err1 == nil, err2 == nil, err3 == nil}
	}
	all, none := [3]bool{true, true, true}, [3]bool{}
	for name, got := range map[string]bool{
		"the old ones open what is sealed while the new ones are known": opens(before, known) == all,
		"who knows the new ones opens what they have sealed":            opens(known, first) == all,
		"the new ones open what is old":                                 opens(first, before) == all,
		"the old ones open nothing that is new":                         opens(before, first) == none,
	} {
		if !got {
			t.Error("it is not so that " + name)
		}
	}
	derive := func(k *ControlKey) string {
		raw, err := k.Derive(of)
		must(t, err)
		return string(raw)
	}
	if derive(known.control) != derive(before.control) || derive(first.control) == derive(before.control) {
		t.Error("what is derived changes at another time than when the new key becomes the primary one")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
