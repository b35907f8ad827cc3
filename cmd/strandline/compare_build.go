// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// level makes copies of a side's views that all stand at its end.
func (c *comparison) level(ctx context.Context, s *side) error {
	root, err := c.bringUp(ctx, s, s.root, s.End, s)
	s.root = root
	return err
}

// at returns a folder with the views of a side as of the event seq. Beyond the
// side's end they take in what the log of more says.
func (c *comparison) at(ctx context.Context, s *side, seq eventlog.Seq, more *side) (string, error) {
	if s.root != "" && seq == s.End {
		return s.root, nil
	}
	if seq <= s.End {
		return c.build(ctx, s, seq)
	}
	root := s.root
	if root == "" {
		var err error
		if root, err = c.build(ctx, s, s.End); err != nil {
			return "", err
		}
	}
	return c.bringUp(ctx, s, root, seq, more)
}

// build makes a side's views as of the event seq from its log alone.
func (c *comparison) build(ctx context.Context, s *side, seq eventlog.Seq) (string, error) {
	root := filepath.Join(s.scratch, "built-"+seq.String())
	scratch := root + "-scratch"
	err := os.MkdirAll(root, 0o700)
	switch {
	case err != nil:
	case s.log == nil:
		err = errors.New(s.Unread)
	case s.archive != nil:
		var built *recovery.Result
		built, err = recovery.Run(ctx, recovery.Options{
			Archive: s.archive, Engine: c.engine, Dir: root, Scratch: scratch, Until: seq, Granted: true, Room: roomAt(root, "--scratch"), Progress: c.progress, More: true,
		})
		if err == nil {
			s.waive(built.Waived)
		}
	default:
		if err = c.roomLike(s, root); err != nil {
			break
		}
		c.progress.Start(fmt.Sprintf("build %s as of %s (batches)", s.label, seq), 0)
		load := projector.Load{
			Engine: c.engine, Dir: root, Scratch: scratch, Input: seq.String(), Upto: seq, Projectors: slices.Collect(maps.Values(projectors())), Log: slog.Default(),
		}
		granted := s.granted()
		err = granted.Build(ctx, func(tolerate func(*projector.Violation) bool) error {
			load.Tolerate = tolerate
			_, err := load.Run(ctx, recovery.Counted(s.log, c.progress, nil))
			return err
		})
		s.waive(granted.Used())
	}
	if err != nil {
		return "", fmt.Errorf("building the views of %s, %s, as of %s: %w", s.label, s.Name, seq, err)
	}
	return root, nil
}

// roomLike refuses to build a side's views anew where there is no room for them:
// about what they take as they stand, and as much for sorting.
func (c *comparison) roomLike(s *side, root string) error {
	if s.root == "" {
		return nil
	}
	need, err := recovery.SizeOf(s.root)
	if err != nil {
		return err
	}
	return roomAt(root, "--scratch")(2 * need)
}

// bringUp makes copies of the views in from, and brings them up to the event
// seq by what the log of teller says. A view that would break a rule is a
// *projector.Violation, unless that log waives it.
func (c *comparison) bringUp(ctx context.Context, s *side, from string, seq eventlog.Seq, teller *side) (root string, err error) {
	root = filepath.Join(s.scratch, "at-"+seq.String())
	need, err := recovery.SizeOf(from)
	if err == nil {
		err = roomAt(s.scratch, "--scratch")(need)
	}
	if err != nil {
		return "", err
	}
	for name, p := range projectors() {
		c.progress.Start("copy the "+name+" view of "+s.label, 0)
		if _, err := projector.Copy(ctx, c.engine, filepath.Join(from, name), filepath.Join(root, name), p, slog.Default()); err != nil {
			return "", err
		}
	}
	views, err := openViews(root, projector.Live, slog.Default())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, views.Close()) }()
	c.progress.Start(fmt.Sprintf("bring %s up to %s (batches)", s.label, seq), 0)
	granted := teller.granted()
	err = granted.CatchUp(ctx, recovery.Counted(recovery.UpTo(teller.log, seq), c.progress, nil), views.all()...)
	s.waive(granted.Used())
	if err != nil {
		return "", fmt.Errorf("bringing the views of %s, %s, up to %s: %w", s.label, s.Name, seq, err)
	}
	for _, view := range views.views() {
		if view.Position() != seq {
			return "", fmt.Errorf("bringing the %s view of %s, %s, up to %s: the events end at %s", view.Name(), s.label, s.Name, seq, view.Position())
		}
	}
	return root, nil
}

// granted is what the side's log waives: an archive's in whole, also when its
// views are those of an earlier event.
func (s *side) granted() *recovery.Granted {
	log := s.log
	if s.archive != nil {
		log = s.archive
	}
	return recovery.NewGranted(log, s.pending, slog.Default())
}

// waive remembers what the side's views were brought past.
func (s *side) waive(waivers []archiver.Waiver) {
	for _, w := range waivers {
		if !slices.Contains(s.Waived, w) {
			s.Waived = append(s.Waived, w)
		}
	}
}

// lazyArchive is an archive that is opened when it is asked for the first time.
type lazyArchive func(context.Context) (*archiver.Archive, error)

func (l lazyArchive) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	archive, err := l(ctx)
	if err != nil {
		return func(yield func(eventlog.Batch, error) bool) { yield(eventlog.Batch{}, err) }
	}
	return archive.Follow(ctx, from)
}

// archiveOf is the archive that a state directory names. When it is asked for
// the first time, and only then, it must answer soon.
func (c *comparison) archiveOf(state *archiver.State) lazyArchive {
	var once sync.Once
	var archive *archiver.Archive
	var err error
	return func(ctx context.Context) (*archiver.Archive, error) {
		once.Do(func() { archive, err = c.openArchiveOf(ctx, state) })
		return archive, err
	}
}

func (c *comparison) openArchiveOf(ctx context.Context, state *archiver.State) (*archiver.Archive, error) {
	bucket, err := (&lazyBucket{spec: state.Archive}).bucket()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	archive, err := archiver.Open(ctx, c.archives.adaptive(bucket))
	if err == nil && archive.LogID() != state.LogID {
		err = fmt.Errorf("%w: the directory is of log %s, %v holds %s", archiver.ErrOtherLog, state.LogID, bucket, archive.LogID())
	}
	return archive, err
}

// liveLog is the log of a running server, up to what it has committed. Its
// entries have no placement, which no digest covers.
type liveLog struct{ client *httpapi.Client }

// liveBatch is how many events of a running server make a batch.
const liveBatch = 1024

func (l liveLog) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		var batch eventlog.Batch
		for line, err := range l.client.Events(ctx, httpapi.EventQuery{From: from, Committed: true}) {
			if err != nil {
				yield(eventlog.Batch{}, asked(err))
				return
			}
			if line.Cleaned != (eventlog.Range{}) {
				batch.Cleaned = append(batch.Cleaned, line.Cleaned)
				continue
			}
			batch.Entries = append(batch.Entries, eventlog.Entry{Event: line.Event, Raw: eventlog.AppendEvent(nil, &line.Event)})
			if len(batch.Entries) < liveBatch {
				continue
			}
			if !yield(batch, nil) {
				return
			}
			batch = eventlog.Batch{}
		}
		if len(batch.Entries) > 0 {
			yield(batch, nil)
		}
	}
}
