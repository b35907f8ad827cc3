// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Bucket is where an archive is kept: a flat, ordered set of immutable
// objects. The directory driver (archiver/dir), the S3 driver (archiver/s3)
// and the in-memory fake (archiver/buckettest) implement it; one conformance
// suite, buckettest.Run, holds for all of them.
//
// A Bucket never retries. An error other than the sentinels below means "not
// known": the call may have had its effect.
type Bucket interface {
	// PutIfAbsent makes body the object key, whole or not at all, unless an
	// object of that name exists: then it returns ErrExists and changes
	// nothing. When it returns nil the object is durable, and any later List,
	// Get or Head sees it. A lost response can make the caller's own object
	// answer a retry with ErrExists; PutEqual reads it back.
	PutIfAbsent(ctx context.Context, key string, body Body) error
	// GetRange returns length bytes of key from offset on. A negative offset
	// counts from the object's end, as in HTTP's suffix ranges: an object
	// shorter than that is returned whole. length < 0 means up to the end.
	// The bytes are not verified. The caller closes the reader.
	// ErrNotFound when there is no such object; io.ErrUnexpectedEOF may come
	// out of Read when the transfer breaks.
	GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
	// Head returns key's description, ErrNotFound only when the store says
	// that the object is absent (a refusal is another error, never absence).
	Head(ctx context.Context, key string) (Info, error)
	// List yields the objects whose keys begin with prefix and sort after
	// the key after (which need not exist; "" for all), in byte order, each
	// once. An error is yielded once, last.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Delete removes key; that it was absent is no error.
	Delete(ctx context.Context, key string) error
	// String names the bucket for people, without credentials.
	String() string
}

// Info describes one object of a bucket.
type Info struct {
	Key  string
	Size int64 // bytes
}

// Body is the content of an object to be: the bytes of Path, or Bytes when
// Path is empty. The file at Path does not change any more, and a driver may
// link it into place instead of copying it.
type Body struct {
	Path     string
	Bytes    []byte
	Size     int64
	Checksum uint32 // CRC32C of all of it
}

// What a Bucket's calls can say for certain.
var (
	ErrExists   = errors.New("an object of that name exists")
	ErrNotFound = errors.New("no such object")
	// ErrThrottled says that the store took too much as it was asked, and did
	// nothing.
	ErrThrottled = errors.New("the store asks for fewer requests")
	// ErrDenied says that the store does not let us do what was asked of it.
	ErrDenied = errors.New("the store denies it")
	// ErrUnsupported says that the store does not do what was asked of it: it
	// refuses the condition of a put, or ignores it. Asking again is in vain.
	ErrUnsupported = errors.New("the store does not do what an archive needs of it")
)
