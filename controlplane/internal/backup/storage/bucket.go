package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// partSize bounds the memory of an upload, and (S3 takes 10,000 parts) its length:
// 160 GB.
const partSize = 16 << 20

// bucket keeps files in an S3-compatible store.
type bucket struct {
	client *minio.Client
	name   string
	prefix string // without slashes at its ends
}

func openBucket(u *url.URL) (Store, error) {
	q := u.Query()
	endpoint, secure := "s3.amazonaws.com", true
	if text := q.Get("endpoint"); text != "" {
		e, err := url.Parse(text)
		if err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http" || strings.Trim(e.Path, "/") != "" {
			return nil, ErrAddress
		}
		endpoint, secure = e.Host, e.Scheme == "https"
	}
	for name := range q {
		if name != "endpoint" && name != "region" {
			return nil, ErrAddress
		}
	}
	if u.Host == "" || u.User != nil {
		return nil, ErrAddress
	}
	client, err := minio.New(endpoint, &minio.Options{
		Secure: secure, Region: q.Get("region"),
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		}),
	})
	if err != nil {
		return nil, ErrAddress
	}
	return &bucket{client: client, name: u.Host, prefix: strings.Trim(u.Path, "/")}, nil
}

func (b *bucket) key(name string) string { return path.Join(b.prefix, name) }

// Put implements Store: an upload in parts counts when it is completed, and one that
// fails is taken back.
func (b *bucket) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	reader, writer := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(writer)
		writer.CloseWithError(err) // nil: the end
		written <- err
	}()
	_, err := b.client.PutObject(ctx, b.name, b.key(name), reader, -1, minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: partSize,
		// What is stored is read back and compared; signing each part on top of it is
		// more than some stores understand.
		DisableContentSha256: true,
	})
	_ = reader.CloseWithError(io.ErrClosedPipe) // when the store has failed first
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) {
		return writeErr
	}
	if err != nil {
		return fmt.Errorf("store a backup: %w", err)
	}
	return nil
}

// Get implements Store.
func (b *bucket) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	object, err := b.client.GetObject(ctx, b.name, b.key(name), minio.GetObjectOptions{})
	if err == nil {
		_, err = object.Stat() // asks only now
	}
	switch {
	case minio.ToErrorResponse(err).Code == "NoSuchKey":
		return nil, ErrMissing
	case err != nil:
		return nil, fmt.Errorf("read a backup: %w", err)
	}
	return object, nil
}

// Remove implements Store.
func (b *bucket) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := b.client.RemoveObject(ctx, b.name, b.key(name), minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove a backup: %w", err)
	}
	return nil
}

// List implements Store; S3 answers in the order of the names.
func (b *bucket) List(ctx context.Context, folder string) ([]Object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing
	prefix := b.key(folder) + "/"
	var objects []Object
	for found := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if found.Err != nil {
			return nil, fmt.Errorf("list the backups: %w", found.Err)
		}
		objects = append(objects, Object{
			Name: strings.TrimPrefix(strings.TrimPrefix(found.Key, b.prefix), "/"), Size: found.Size, Written: found.LastModified,
		})
	}
	return objects, nil
}

// Ready implements Store.
func (b *bucket) Ready(ctx context.Context) error {
	there, err := b.client.BucketExists(ctx, b.name)
	if err != nil {
		return fmt.Errorf("ask the object store: %w", err)
	}
	if !there {
		return errors.New("there is no such bucket")
	}
	return nil
}
