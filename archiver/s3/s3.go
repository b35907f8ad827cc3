// SPDX-License-Identifier: Apache-2.0

// Package s3 keeps an archive in a bucket of an S3-compatible store. It is the
// only importer of minio-go.
//
// Everything rests on "If-None-Match: *": a store that does not honour it
// cannot hold an archive (archiver.Probe finds out), but for one writer
// (Unconditional). Two rules keep the
// answers true. The client never retries, because a retry of a put whose
// response was lost finds its own object and calls it somebody else's. And an
// object is absent only when the store says so in its own words: a refusal, a
// missing bucket, or a proxy's page is "not known".
package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

var _ archiver.Bucket = (*Bucket)(nil)

// Bucket is an archive under a prefix of an S3 bucket.
type Bucket struct {
	core   minio.Core
	name   string
	prefix string
	shown  string // for people
	clock  *clock
	close  func()

	unconditional bool // puts have no condition
}

// Open returns the archive that spec ("s3://BUCKET/PREFIX?endpoint=URL")
// names, with credentials from the environment, from files, or from the shared
// file (see ErrNoCredentials). It asks the store nothing.
func Open(spec string) (*Bucket, error) {
	config, err := ParseSpec(spec)
	if err != nil {
		return nil, err
	}
	return New(config)
}

// New returns the archive that config describes. It asks the store nothing.
func New(config Config) (*Bucket, error) {
	shown := Scheme + config.Bucket + "/" + config.Prefix
	creds, err := config.credentials()
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", shown, err)
	}
	transport, err := newTransport(config.Secure)
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", shown, err)
	}
	b := &Bucket{name: config.Bucket, prefix: config.Prefix, shown: shown, close: transport.CloseIdleConnections}
	b.clock = &clock{next: transport}
	if config.Wrap != nil {
		b.clock.next = config.Wrap(transport)
	}
	lookup := minio.BucketLookupPath
	if config.amazon() {
		lookup = minio.BucketLookupAuto
	}
	client, err := minio.New(config.Endpoint, &minio.Options{
		Creds: creds, Secure: config.Secure, Region: config.Region, BucketLookup: lookup, Transport: b.clock,
		TrailingHeaders: true, // a condition of sending a checksum, which goes as a header all the same
		MaxRetries:      1,
	})
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", shown, err)
	}
	client.SetAppInfo("strandline", "1")
	b.core = minio.Core{Client: client}
	return b, nil
}

// Unconditional returns the same bucket for one writer only: its puts go without
// "If-None-Match", which some stores refuse, and replace what is there.
// archiver.SingleWriter asks before it puts.
func (b *Bucket) Unconditional() *Bucket {
	plain := *b
	plain.unconditional = true
	return &plain
}

// Close drops idle connections. Calls under way go on.
func (b *Bucket) Close() error {
	b.close()
	return nil
}

// String names the bucket, without credentials.
func (b *Bucket) String() string { return b.shown }

// PutIfAbsent implements archiver.Bucket. The store checks the body's CRC32C,
// which goes with it as a header; one that does not say so gets the object
// read back.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, body archiver.Body) error {
	err := b.put(ctx, key, body)
	if err != nil {
		return fmt.Errorf("put %s into %v: %w", key, b, err)
	}
	return nil
}

const checksumHeader = "x-amz-checksum-crc32c"

func (b *Bucket) put(ctx context.Context, key string, body archiver.Body) (err error) {
	r, err := body.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sum := encodeChecksum(body.Checksum)
	options := minio.PutObjectOptions{
		DisableMultipart:     true,
		DisableContentSha256: true,
		SendContentMd5:       false,
		ContentType:          "application/octet-stream",
		UserMetadata:         map[string]string{checksumHeader: sum},
	}
	if !b.unconditional {
		options.SetMatchETagExcept("*")
	}
	// The commit point: a crash before the store has all of the body leaves
	// the object absent, after it durable; without the answer nobody knows.
	info, err := b.core.Client.PutObject(ctx, b.name, b.prefix+key, r, body.Size, options)
	if err != nil {
		return b.translatePut(err)
	}
	if info.ChecksumCRC32C == sum {
		return nil
	}
	return b.verify(ctx, key, body)
}

func encodeChecksum(crc uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))
}

// verify reads back all of an object that the store took without checking.
func (b *Bucket) verify(ctx context.Context, key string, body archiver.Body) error {
	r, err := b.GetRange(ctx, key, 0, -1)
	if err != nil {
		return fmt.Errorf("read back: %w", unknown(err))
	}
	sum := &checksum{}
	n, err := io.Copy(sum, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if n != body.Size || sum.crc != body.Checksum {
		return fmt.Errorf("the store keeps %d bytes (%08x), it was sent %d (%08x)", n, sum.crc, body.Size, body.Checksum)
	}
	return nil
}

type checksum struct{ crc uint32 }

// Write adds p to the checksum.
func (c *checksum) Write(p []byte) (int, error) {
	c.crc = eventlog.UpdateChecksum(c.crc, p)
	return len(p), nil
}

// unknown takes the certainty out of an absence that cannot be.
func unknown(err error) error {
	if errors.Is(err, archiver.ErrNotFound) {
		return errors.New("it was put, and then it is absent")
	}
	return err
}

// GetRange implements archiver.Bucket with one request.
func (b *Bucket) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		_, err := b.Head(ctx, key)
		return http.NoBody, err
	}
	var options minio.GetObjectOptions
	switch { // SetRange refuses what it cannot say, the header says it all
	case offset < 0:
		options.Set("Range", fmt.Sprintf("bytes=%d", offset))
	case length > 0:
		options.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		options.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	r, _, _, err := b.core.GetObject(ctx, b.name, b.prefix+key, options)
	if isRangeError(err) && offset <= 0 { // no byte to give, so the object is empty
		return http.NoBody, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from %v: %w", key, b, translate(err))
	}
	if offset < 0 && length > 0 {
		return limited{io.LimitReader(r, length), r}, nil
	}
	return r, nil
}

type limited struct {
	io.Reader
	io.Closer
}

// Head implements archiver.Bucket. It asks for the first byte, because the
// answer to a GET says what is missing, the object or the bucket, and the
// answer to a HEAD does not.
func (b *Bucket) Head(ctx context.Context, key string) (archiver.Info, error) {
	var options minio.GetObjectOptions
	options.Set("Range", "bytes=0-0")
	r, _, header, err := b.core.GetObject(ctx, b.name, b.prefix+key, options)
	if isRangeError(err) { // no first byte
		return archiver.Info{Key: key}, nil
	}
	if err != nil {
		return archiver.Info{}, fmt.Errorf("head %s in %v: %w", key, b, translate(err))
	}
	_, err = io.Copy(io.Discard, io.LimitReader(r, 1)) // to use the connection again
	if err = errors.Join(err, r.Close()); err != nil {
		return archiver.Info{}, fmt.Errorf("head %s in %v: %w", key, b, err)
	}
	size, err := totalSize(header)
	if err != nil {
		return archiver.Info{}, fmt.Errorf("head %s in %v: %w", key, b, err)
	}
	return archiver.Info{Key: key, Size: size}, nil
}

// totalSize reads an object's size from the answer to a ranged GET.
func totalSize(header http.Header) (int64, error) {
	text := header.Get("Content-Range") // "bytes 0-0/1234"
	if text == "" {
		text = "/" + header.Get("Content-Length") // the store ignored the range
	}
	size, err := strconv.ParseInt(text[strings.LastIndexByte(text, '/')+1:], 10, 64)
	if err != nil || size < 0 {
		return 0, fmt.Errorf("the store states the size as %q", text)
	}
	return size, nil
}

// List implements archiver.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the client's own request when the loop is left
		fetchOwner := false
		options := minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true, FetchOwner: &fetchOwner}
		if after != "" {
			options.StartAfter = b.prefix + after
		}
		for object := range b.core.ListObjectsIter(ctx, b.name, options) {
			if object.Err != nil {
				yield(archiver.Info{}, fmt.Errorf("list %v: %w", b, translate(object.Err)))
				return
			}
			if !yield(archiver.Info{Key: strings.TrimPrefix(object.Key, b.prefix), Size: object.Size}, nil) {
				return
			}
		}
		if err := context.Cause(ctx); err != nil { // the client ends its list quietly
			yield(archiver.Info{}, fmt.Errorf("list %v: %w", b, err))
		}
	}
}

// Delete implements archiver.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	err := b.core.RemoveObject(ctx, b.name, b.prefix+key, minio.RemoveObjectOptions{})
	if err = translate(err); err == nil || errors.Is(err, archiver.ErrNotFound) {
		return nil
	}
	return fmt.Errorf("delete %s from %v: %w", key, b, err)
}

// translate finds what the store said for certain. Its own words are needed
// for that: minio-go calls any 404 an absent key, and any store names its
// requests where a proxy's page does not.
func translate(err error) error {
	var response minio.ErrorResponse
	if err == nil || !errors.As(err, &response) {
		return err
	}
	named := response.RequestID != ""
	switch {
	case response.StatusCode == http.StatusPreconditionFailed && response.Code == minio.PreconditionFailed && named:
		return fmt.Errorf("%w: %w", archiver.ErrExists, err)
	case response.StatusCode == http.StatusNotFound && response.Code == minio.NoSuchKey && named:
		return fmt.Errorf("%w: %w", archiver.ErrNotFound, err)
	case response.StatusCode == http.StatusServiceUnavailable, response.StatusCode == http.StatusTooManyRequests, response.Code == "SlowDown":
		return fmt.Errorf("%w: %w", archiver.ErrThrottled, err)
	case response.StatusCode == http.StatusForbidden && response.Code == minio.AccessDenied && named:
		return fmt.Errorf("%w: %w", archiver.ErrDenied, err)
	case response.Code == minio.NoSuchBucket:
		return fmt.Errorf("%w; create the bucket first, or correct its name", err)
	case response.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%w; set this machine's clock", err)
	}
	return err
}

// notImplemented is how S3 calls a header that a store does not know.
const notImplemented = "NotImplemented"

// translatePut also finds that a store will never take what it was sent.
func (b *Bucket) translatePut(err error) error {
	var response minio.ErrorResponse
	switch {
	case !errors.As(err, &response) || response.Code != notImplemented:
		return translate(err)
	case b.unconditional:
		return fmt.Errorf("%w: %w", archiver.ErrUnsupported, err)
	}
	return fmt.Errorf("%w: it refuses the condition of a put, If-None-Match: %w", archiver.ErrUnsupported, err)
}

func isRangeError(err error) bool {
	var response minio.ErrorResponse
	return errors.As(err, &response) && response.StatusCode == http.StatusRequestedRangeNotSatisfiable
}
