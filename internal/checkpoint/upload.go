// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/strandline-project/strandline/archiver"
)

// upload is one checkpoint on its way into the archive.
type upload struct {
	*Taker
	gently bool
	began  time.Time // of the present file
	put    int       // files
	bytes  int64     // of them
}

// How long things may take: a try that hangs keeps files that the views need
// no more on the disk.
const (
	putTime     = 10 * time.Minute // of a file
	slowest     = 1 << 20          // bytes a second, beyond that
	archiveTime = 10 * time.Minute // until the events are archived
	busyTime    = time.Minute      // that a file waits for a busy server
	busyLook    = 250 * time.Millisecond
	longestRest = 10 * time.Second
)

// run uploads what the archive lacks of m, whose copies are in Dir, and puts
// the manifest.
func (u *upload) run(ctx context.Context, m *Manifest) error {
	sources, err := u.inventory(ctx, m)
	if err != nil {
		return err
	}
	there, err := files(ctx, u.Archive)
	if err != nil {
		return err
	}
	for _, s := range sources {
		if size, ok := there[s.SHA256]; ok && size == s.Size {
			continue
		} else if ok {
			if err := u.replace(ctx, s, size); err != nil {
				return err
			}
		}
		if err := u.putFile(ctx, s); err != nil {
			return err
		}
		there[s.SHA256] = s.Size
	}
	return u.commit(ctx, m, sources)
}

// inventory fills in the files of m, and returns those with content, each
// content once.
func (u *upload) inventory(ctx context.Context, m *Manifest) ([]source, error) {
	if u.hashes == nil {
		u.hashes = hashes{}
	}
	var distinct []source
	seen := map[Hash]bool{}
	for i := range m.Views {
		v := &m.Views[i]
		u.began = u.Clock.Now()
		all, err := u.hashes.list(ctx, u.Dir, v.Name, u.rest)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			v.Files = append(v.Files, s.File)
			if s.Size > 0 && !seen[s.SHA256] {
				seen[s.SHA256] = true
				distinct = append(distinct, s)
			}
		}
	}
	return distinct, nil
}

// rest leaves disk and network alone for as long as the file before took, so
// that a checkpoint takes half of either at most, and while the server is
// busy.
func (u *upload) rest(ctx context.Context) error {
	if !u.gently {
		return ctx.Err()
	}
	took := u.Clock.Since(u.began)
	if err := u.sleep(ctx, min(took, longestRest)); err != nil {
		return err
	}
	for waited := time.Duration(0); u.Busy() && waited < busyTime; waited += busyLook {
		if err := u.sleep(ctx, busyLook); err != nil {
			return err
		}
	}
	u.began = u.Clock.Now()
	return nil
}

// replace removes a file whose size shows that it is not what its name says.
func (u *upload) replace(ctx context.Context, s source, size int64) error {
	u.Logger.Warn("a file of checkpoints is damaged in the archive, and put there anew", "key", fileKey(s.SHA256), "size", size, "want", s.Size)
	if err := u.Archive.Owns(ctx, u.Epoch); err != nil {
		return err
	}
	return u.Archive.Bucket().Delete(ctx, fileKey(s.SHA256))
}

func (u *upload) putFile(ctx context.Context, s source) error {
	limited, cancel := context.WithTimeout(ctx, putTime+time.Duration(s.Size/slowest)*time.Second)
	defer cancel()
	u.began = u.Clock.Now()
	if err := os.Chmod(s.path, 0o600); err != nil { // a directory archive takes the file itself
		return fmt.Errorf("put a view's file into the archive: %w", err)
	}
	body := archiver.Body{Path: s.path, Size: s.Size, Checksum: s.crc32c}
	// A crash around this line leaves files that no manifest names. The next
	// checkpoint finds them there, or its removal takes them away.
	if err := archiver.PutEqual(limited, u.Archive.Bucket(), fileKey(s.SHA256), body); err != nil {
		return err
	}
	u.put++
	u.bytes += s.Size
	u.mu.Lock()
	u.status.Uploaded += uint64(s.Size)
	u.mu.Unlock()
	return u.rest(ctx)
}

// commit puts the manifest, once it stands for a whole checkpoint that counts.
func (u *upload) commit(ctx context.Context, m *Manifest, sources []source) error {
	limited, cancel := context.WithTimeout(ctx, archiveTime)
	defer cancel()
	if err := u.Log.WaitArchived(limited, m.Seq); err != nil {
		return fmt.Errorf("wait until its events are archived: %w", err)
	}
	if ordinal := u.LastOrdinal(); ordinal > 0 {
		m.Ordinal = &ordinal
	}
	listed, err := files(ctx, u.Archive) // another server, overtaken by this one, may have removed some
	if err != nil {
		return err
	}
	if err := u.ensure(ctx, unlisted(m, listed), sources); err != nil {
		return err
	}
	if err := u.Archive.Owns(ctx, u.Epoch); err != nil {
		return err
	}
	text, err := m.encode()
	if err != nil {
		return err
	}
	// A crash before this line leaves files that no manifest names.
	err = archiver.PutEqual(limited, u.Archive.Bucket(), manifestKey(m.Seq), archiver.BytesBody(text))
	if errors.Is(err, archiver.ErrDifferent) {
		err = u.standing(limited, m, text, err)
	}
	if err != nil {
		return err
	}
	// Until the manifest was there, another server could take a file for one
	// that nobody names, and remove it. A crash before the end of this call
	// leaves a checkpoint that counts if it is whole: whoever meets it looks.
	return u.ensure(ctx, m.contents(), sources)
}

// confirmations is how often files are put again that vanish.
const confirmations = 4

// ensure makes sure that each file of want is in the archive, which it asks by
// name: a list may show what was removed. What is not there is put.
func (u *upload) ensure(ctx context.Context, want map[Hash]int64, sources []source) error {
	for range confirmations {
		lacks, err := lacking(ctx, u.Archive, want)
		if err != nil || len(lacks) == 0 {
			return err
		}
		for sum, size := range lacks {
			i := slices.IndexFunc(sources, func(s source) bool { return s.SHA256 == sum })
			if i < 0 {
				return fmt.Errorf("%w: %s of %v has gone", errLost, fileKey(sum), u.Archive.Bucket())
			}
			u.Logger.Warn("a file of checkpoints was there, and is not any more; it is put again", "key", fileKey(sum))
			if size >= 0 {
				if err := u.replace(ctx, sources[i], size); err != nil {
					return err
				}
			}
			if err := u.putFile(ctx, sources[i]); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("files of %v below %s vanish as often as they are put: who removes them?", u.Archive.Bucket(), filePrefix)
}

// standing makes sure that the checkpoint which is there already, as of the
// same event, is as good: an earlier try whose answer was lost put it. One that
// lacks files makes way for m.
func (u *upload) standing(ctx context.Context, m *Manifest, text []byte, cause error) error {
	there, err := read(ctx, u.Archive, m.Seq)
	if err != nil {
		return errors.Join(cause, err)
	}
	if there.Epoch != m.Epoch || there.Writer != m.Writer {
		return cause
	}
	lacks, err := lacking(ctx, u.Archive, there.contents())
	if err != nil {
		return err
	}
	if len(lacks) == 0 {
		*m = *there
		return nil
	}
	if err := u.remove(ctx, []string{manifestKey(m.Seq)}); err != nil {
		return err
	}
	return archiver.PutEqual(ctx, u.Archive.Bucket(), manifestKey(m.Seq), archiver.BytesBody(text))
}
