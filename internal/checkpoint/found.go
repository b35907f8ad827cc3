// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

// found is a manifest in the archive.
type found struct {
	seq      eventlog.Seq // as its key says
	manifest *Manifest    // nil: it cannot be used
	err      error        // why; errManifest or errLater
	whole    bool         // each of its files was seen to be there; set by countWhole
}

// readsAtOnce is how many manifests are read at once.
const readsAtOnce = 8

// readAll reads all manifests of the archive, the newest first: those that are
// listed, and those of known, which a list that lags may lack. One that is
// removed meanwhile is left out.
func readAll(ctx context.Context, archive *archiver.Archive, known ...eventlog.Seq) ([]found, error) {
	keys, err := archive.Keys(ctx, manifestPrefix)
	if err != nil {
		return nil, err
	}
	seqs := slices.Clone(known)
	for _, info := range keys {
		if seq, ok := parseManifestKey(info.Key); ok {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	seqs = slices.Compact(seqs)
	slices.Reverse(seqs)
	all := make([]found, len(seqs))
	for i, seq := range seqs {
		all[i].seq = seq
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readsAtOnce)
	for i := range all {
		group.Go(func() error {
			f := &all[i]
			f.manifest, f.err = read(ctx, archive, f.seq)
			if errors.Is(f.err, errManifest) || errors.Is(f.err, errLater) || errors.Is(f.err, archiver.ErrNotFound) {
				return nil
			}
			return f.err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(f found) bool { return errors.Is(f.err, archiver.ErrNotFound) }), nil
}

// read reads the manifest of the checkpoint as of seq. One that is absent or
// damaged is asked for again; errManifest is one that is the same damaged bytes
// at last, because whoever knows that removes it.
func read(ctx context.Context, archive *archiver.Archive, seq eventlog.Seq) (m *Manifest, err error) {
	var text, before []byte
	err = archiver.AskAgain(ctx, wrongAnswer, func() error {
		before = text
		if text, err = archive.Read(ctx, manifestKey(seq), maxManifest+1); err != nil {
			return err
		}
		if m, err = decode(text); err == nil {
			err = m.belongs(archive.LogID(), seq)
		}
		return err
	})
	switch {
	case err == nil:
		return m, nil
	case errors.Is(err, errManifest) && !bytes.Equal(text, before):
		return nil, fmt.Errorf("%s of %v reads differently each time", manifestKey(seq), archive.Bucket())
	}
	return nil, fmt.Errorf("%s of %v: %w", manifestKey(seq), archive.Bucket(), err)
}

// wrongAnswer reports whether err is of an answer that a whole checkpoint, which
// was listed, does not give.
func wrongAnswer(err error) bool {
	return errors.Is(err, archiver.ErrNotFound) || errors.Is(err, errManifest) || errors.Is(err, errUnlike)
}

// belongs checks that m is what its key says, in this log's archive.
func (m *Manifest) belongs(log eventlog.ID, seq eventlog.Seq) error {
	switch {
	case m.LogID != log:
		return fmt.Errorf("%w: it is of another log, %s", errManifest, m.LogID)
	case m.Seq != seq:
		return fmt.Errorf("%w: it is as of event %s", errManifest, m.Seq)
	}
	return nil
}

// files lists the files of checkpoints that the archive has, with their sizes.
func files(ctx context.Context, archive *archiver.Archive) (map[Hash]int64, error) {
	keys, err := archive.Keys(ctx, filePrefix)
	if err != nil {
		return nil, err
	}
	all := make(map[Hash]int64, len(keys))
	for _, info := range keys {
		if sum, ok := parseFileKey(info.Key); ok {
			all[sum] = info.Size
		}
	}
	return all, nil
}

// lacking asks for files by name, and returns those that are not there in their
// size: what is there instead, -1 for nothing.
func lacking(ctx context.Context, archive *archiver.Archive, want map[Hash]int64) (map[Hash]int64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	var mu sync.Mutex
	lacks := map[Hash]int64{}
	for sum, size := range want {
		group.Go(func() error {
			info, err := archive.Stat(ctx, fileKey(sum))
			if errors.Is(err, archiver.ErrNotFound) {
				info.Size = -1
			} else if err != nil {
				return err
			}
			if info.Size != size {
				mu.Lock()
				defer mu.Unlock()
				lacks[sum] = info.Size
			}
			return nil
		})
	}
	return lacks, group.Wait()
}

// unlisted are the files of m that a list does not show in their size.
func unlisted(m *Manifest, listed map[Hash]int64) map[Hash]int64 {
	want := m.contents()
	maps.DeleteFunc(want, func(sum Hash, size int64) bool { return listed[sum] == size })
	return want
}

// countWhole finds out which manifests stand for checkpoints whose files are
// all there. listed is a list of the files that was begun after the manifests
// were read. What it lacks is asked for by name.
func countWhole(ctx context.Context, archive *archiver.Archive, all []found, listed map[Hash]int64) error {
	for i := range all {
		f := &all[i]
		if f.manifest == nil {
			continue
		}
		lacks, err := lacking(ctx, archive, unlisted(f.manifest, listed))
		if err != nil {
			return err
		}
		f.whole = len(lacks) == 0
	}
	return nil
}
