package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// directory keeps files below a path.
type directory string

// partial ends the names of files that are being written.
const partial = ".partial"

func (d directory) path(name string) string {
	return filepath.Join(string(d), filepath.FromSlash(name))
}

// Put implements Store: written beside, then renamed.
func (d directory) Put(_ context.Context, name string, write func(io.Writer) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	path := d.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder of a backup: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "*"+partial) // mode 0600
	if err != nil {
		return fmt.Errorf("write a backup: %w", err)
	}
	defer os.Remove(file.Name()) // gone already when all went well
	err = write(file)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("name a backup: %w", err)
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes a new name survive a crash of the machine.
func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("write a backup: %w", err)
	}
	err = errors.Join(dir.Sync(), dir.Close())
	if err != nil {
		return fmt.Errorf("write a backup: %w", err)
	}
	return nil
}

// Get implements Store.
func (d directory) Get(_ context.Context, name string) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	file, err := os.Open(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	if err != nil {
		return nil, fmt.Errorf("read a backup: %w", err)
	}
	return file, nil
}

// Remove implements Store.
func (d directory) Remove(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a backup: %w", err)
	}
	return nil
}

// List implements Store.
func (d directory) List(_ context.Context, folder string) ([]Object, error) {
	var objects []Object
	err := filepath.WalkDir(d.path(folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, partial) {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(string(d), path)
		if err != nil {
			return err
		}
		objects = append(objects, Object{Name: filepath.ToSlash(name), Size: info.Size(), Written: info.ModTime()})
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the backups: %w", err)
	}
	slices.SortFunc(objects, func(a, b Object) int { return strings.Compare(a.Name, b.Name) })
	return objects, nil
}

// Ready implements Store.
func (d directory) Ready(context.Context) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make the folder of the backups: %w", err)
	}
	return nil
}
