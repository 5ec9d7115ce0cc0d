// Package sealedfile keeps what a process must remember over a restart: files
// that are secret, whole, and replaced as a whole. Whoever reads one, after a
// crash too, finds the old one or the new one.
package sealedfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Sealer keeps a file secret and whole: *seal.DataKey.
type Sealer interface {
	Seal(plain, context []byte) ([]byte, error)
	Unseal(sealed, context []byte) ([]byte, error)
}

// Write replaces the file. context binds it to its purpose and its form.
func Write(path string, sealer Sealer, plain, context []byte) error {
	sealed, err := sealer.Seal(plain, context)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone already when all went well
	_, err = file.Write(sealed)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// Read opens the file. A file that is not there is fs.ErrNotExist.
func Read(path string, sealer Sealer, context []byte) ([]byte, error) {
	sealed, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plain, err := sealer.Unseal(sealed, context)
	if err != nil {
		return nil, fmt.Errorf("it was made with another key, by another version, or is damaged: %w", err)
	}
	return plain, nil
}
