// Package storage keeps the sealed files of backups: in a directory, or in a bucket
// of an S3-compatible store.
//
// It promises: a name has no content, or all of it. What is read may still not be
// what was written (disks, and people with access to them): readers check.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"time"
)

// ErrMissing says that nothing is stored under the name.
var ErrMissing = errors.New("nothing is stored under this name")

// Object is what is stored under a name.
type Object struct {
	Name    string
	Size    int64
	Written time.Time
}

// Store is where files are kept. It may be used by several goroutines.
type Store interface {
	// Put stores what write writes. When write or the store fails, nothing new is
	// under the name.
	Put(ctx context.Context, name string, write func(io.Writer) error) error
	// Get reads from the beginning. Errors: ErrMissing.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	// Remove forgets the name; one that is not there is forgotten already.
	Remove(ctx context.Context, name string) error
	// List are the names below a folder ("a/b/"), in their order.
	List(ctx context.Context, folder string) ([]Object, error)
	// Ready tells whether the store can be used.
	Ready(ctx context.Context) error
}

// ErrAddress says what an address of a store looks like.
var ErrAddress = errors.New("must be like file:///var/backups/ouvira or s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-1")

// Open makes the store that the address names; nothing is contacted. Credentials of
// s3 come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN), the
// file and the profile that AWS's own tools use, or the machine's role. Errors:
// ErrAddress.
func Open(address string) (Store, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, ErrAddress // url.Error repeats the address
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || len(u.Path) < 2 || u.RawQuery != "" {
			return nil, ErrAddress
		}
		return directory(u.Path), nil
	case "s3":
		return openBucket(u)
	}
	return nil, ErrAddress
}

// nameForm keeps names inside of the store.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

func checkName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q is no name of a stored file", name)
	}
	return nil
}
