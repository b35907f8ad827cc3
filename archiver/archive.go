// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// FormatVersion is the version of an archive's layout that this build writes,
// and the only one that it reads.
const FormatVersion = 1

// What can be wrong with a bucket that is to be an archive.
var (
	ErrNoArchive = errors.New("no archive here: is it the right place, is the disk mounted? (strandline init makes a new archive)")
	ErrOtherLog  = errors.New("the archive of another log")
	ErrFormat    = errors.New("an archive of a format version that this build does not read")
)

// Archive reads a log's objects from a bucket. Its methods may be called from
// several goroutines at once. Reads are tried again for half a minute when the
// bucket does not answer.
type Archive struct {
	bucket Bucket
	logID  eventlog.ID
	logger *slog.Logger // nil: slog.Default()
	*known
}

// known is what was seen of an archive.
type known struct {
	mu       sync.Mutex          // guards what follows
	warned   map[string]struct{} // keys that were warned of, at most maxWarned
	spans    spans               // where seqs lie, as far as read
	foreign  map[string]struct{} // keys under our prefixes that are not ours, at most maxForeign
	expected uint64              // an ordinal known to have been archived; 0 for none
	taken    uint64              // owned by mu; the last ordinal that a refused put called taken
	unsafe   error               // why nothing may be put; nil: nothing is known against it
	changed  map[string]struct{} // keys of objects that are not what was archived, at most maxWarned
}

// readLimit is how long a read is tried again.
const readLimit = 30 * time.Second

// manifest is the content of strandline.json.
type manifest struct {
	LogID   eventlog.ID `json:"log_id"`
	Format  int         `json:"format"`
	Created time.Time   `json:"created"`
}

const maxManifest = 64 << 10

// Init makes bucket the archive of the log logID by putting strandline.json.
// That it is that already is success, so Init may be repeated after a crash;
// another log's archive is ErrOtherLog and stays untouched. Init tries until
// ctx ends.
func Init(ctx context.Context, bucket Bucket, logID eventlog.ID, now time.Time) error {
	text, err := seal(manifest{LogID: logID, Format: FormatVersion, Created: now.UTC()})
	if err != nil {
		return fmt.Errorf("init %v: %w", bucket, err)
	}
	err = PutEqual(ctx, bucket, ManifestKey, BytesBody(text))
	if !errors.Is(err, ErrDifferent) {
		return err
	}
	found, err := readManifest(ctx, bucket)
	if err != nil {
		return err
	}
	if found.LogID != logID {
		return fmt.Errorf("init %v: %w: %v, created %v; choose another prefix or directory",
			bucket, ErrOtherLog, found.LogID, found.Created.Format(time.RFC3339))
	}
	return nil
}

// Open finds out whose archive bucket is. A bucket without one is ErrNoArchive,
// one of a later version ErrFormat.
func Open(ctx context.Context, bucket Bucket) (*Archive, error) {
	found, err := readManifest(ctx, bucket)
	if err != nil {
		return nil, err
	}
	return At(bucket, found.LogID), nil
}

// At returns the archive of the log logID in bucket without asking the bucket,
// for a server that knows its log and starts while the bucket is away. Every
// object that is read must name logID.
func At(bucket Bucket, logID eventlog.ID) *Archive {
	return &Archive{bucket: bucket, logID: logID, known: &known{foreign: map[string]struct{}{}, warned: map[string]struct{}{}, changed: map[string]struct{}{}}}
}

// Through returns the same archive, with all that is known of it from either
// side, over another way to its bucket.
func (a *Archive) Through(bucket Bucket) *Archive {
	through := *a
	through.bucket = bucket
	return &through
}

// readManifest reads strandline.json, which whoever names the archive says is
// there. That it is absent is asked again, and so is the first claim, which
// every archive has.
func readManifest(ctx context.Context, bucket Bucket) (*manifest, error) {
	var found manifest
	err := readSure(ctx, bucket, ManifestKey, maxManifest, func(text []byte) error {
		found = manifest{}
		if err := json.Unmarshal(text, &found); err != nil {
			return fmt.Errorf("%w: %w; restore it from another copy", eventlog.ErrDamaged, err)
		}
		switch {
		case found.Format != FormatVersion:
			return fmt.Errorf("%w: version %d, this build reads %d", ErrFormat, found.Format, FormatVersion)
		case found.LogID == eventlog.ID{}:
			return fmt.Errorf("%w: it names no log; restore it from another copy", eventlog.ErrDamaged)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("open %v: %w", bucket, noManifest(ctx, bucket))
	}
	if err != nil {
		return nil, fmt.Errorf("open %v: read %s: %w", bucket, ManifestKey, err)
	}
	return &found, nil
}

// noManifest says what it means that strandline.json is absent.
func noManifest(ctx context.Context, bucket Bucket) error {
	there, err := exists(ctx, bucket, EpochKey(1))
	if err != nil {
		return fmt.Errorf("%s is absent: %w", ManifestKey, err)
	}
	if !there {
		return ErrNoArchive
	}
	return fmt.Errorf("%w: %s is absent, but the claim %s is there: try again, and if that goes on, restore %s from another copy; do not run init there",
		ErrOlderState, ManifestKey, EpochKey(1), ManifestKey)
}

// LogID returns the identity of the archived log.
func (a *Archive) LogID() eventlog.ID { return a.logID }

// Bucket returns where the archive is kept.
func (a *Archive) Bucket() Bucket { return a.bucket }

// Expect says that the object of ordinal is known to have been archived: a
// claim, a checkpoint or the local state names it. From now on an archive that
// ends before it has a hole.
func (a *Archive) Expect(ordinal uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expected = max(a.expected, ordinal)
}

// expectTaken is Expect of an ordinal that the store calls taken, by a put that
// it refused.
func (a *Archive) expectTaken(ordinal uint64) {
	a.Expect(ordinal)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken = max(a.taken, ordinal)
}

// calledTaken is the last ordinal that the store called taken; 0: none.
func (a *Archive) calledTaken() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.taken
}

// OpenRange returns length bytes of a shipped object from offset on, as they
// are stored: whoever has the placement checks them. The caller closes the
// reader. It does not try again.
func (a *Archive) OpenRange(ctx context.Context, ordinal, offset, length uint64) (io.ReadCloser, error) {
	info := Shipped(ordinal)
	r, err := a.bucket.GetRange(ctx, info.Key(), int64(offset), int64(length))
	if err != nil {
		return nil, fmt.Errorf("read %d bytes at %d of %v: %w", length, offset, info, err)
	}
	return r, nil
}

// readAll reads length bytes of key from offset on into memory, or fewer when
// the object ends before. It tries again until readLimit.
func readAll(ctx context.Context, bucket Bucket, key string, offset, length int64) ([]byte, error) {
	var data bytes.Buffer
	data.Grow(int(length) + bytes.MinRead) // so that it never moves
	err := readInto(ctx, bucket, key, offset, length, &data)
	return data.Bytes(), err
}

// readInto is readAll into data.
func readInto(ctx context.Context, bucket Bucket, key string, offset, length int64, data *bytes.Buffer) error {
	return retry(ctx, readLimit, func() error {
		r, err := bucket.GetRange(ctx, key, offset, length)
		if err != nil {
			return err
		}
		data.Reset()
		_, err = data.ReadFrom(io.LimitReader(r, length))
		return errors.Join(err, r.Close())
	})
}
