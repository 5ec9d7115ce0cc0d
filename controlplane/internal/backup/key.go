package backup

import (
	"context"
	"errors"
	"io"

	"filippo.io/age"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/seal"
)

// stanzaType names our way of wrapping the key of a file. What is inside is age's own
// format; the control key opens it, also when it has been rotated since.
const stanzaType = "ouvira.control-key"

var stanzaContext = []byte("backup-file-key")

// controlKey is the control key as age's recipient and identity.
type controlKey struct{ key *seal.ControlKey }

// Wrap implements age.Recipient.
func (c controlKey) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	body, err := c.key.Seal(fileKey, stanzaContext)
	if err != nil {
		return nil, err
	}
	return []*age.Stanza{{Type: stanzaType, Body: body}}, nil
}

// Unwrap implements age.Identity.
func (c controlKey) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, stanza := range stanzas {
		if stanza.Type != stanzaType {
			continue
		}
		if fileKey, err := c.key.Unseal(stanza.Body, stanzaContext); err == nil {
			return fileKey, nil
		}
	}
	return nil, age.ErrIncorrectIdentity
}

// Open opens a sealed file of the storage, with nothing but the control key.
func Open(key *seal.ControlKey, sealed io.Reader) (io.Reader, error) {
	return age.Decrypt(sealed, controlKey{key})
}

// Seal is what Open opens. Close it to finish the file.
func Seal(key *seal.ControlKey, out io.Writer) (io.WriteCloser, error) {
	return age.Encrypt(out, controlKey{key})
}

// SealedWith is the id of the control key with which an archive of the storage is sealed;
// 0: it is gone, or is none. Errors: *operation.Failure with storage_unreachable.
func (s *Service) SealedWith(ctx context.Context, object string) (uint32, error) {
	raw, err := s.get(ctx, object)
	if f, ok := errors.AsType[*operation.Failure](err); ok && f.Final {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	var found reader
	_, _ = age.Decrypt(raw, &found) // it opens nothing
	return found.key, nil
}

// Off tells that there is no storage.
func (s *Service) Off() bool { return s.store == nil }

// reader is an identity that opens nothing, and remembers which key would.
type reader struct{ key uint32 }

// Unwrap implements age.Identity.
func (r *reader) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, stanza := range stanzas {
		if stanza.Type == stanzaType {
			r.key = seal.KeyID(stanza.Body)
		}
	}
	return nil, age.ErrIncorrectIdentity
}

// isWrongKey tells whether a file was sealed, but to another key.
func isWrongKey(err error) bool {
	_, ok := errors.AsType[*age.NoIdentityMatchError](err)
	return ok
}
