// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/durable"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// Shelf gives the checkpoints of an archive to a recovery.
type Shelf struct {
	Archive *archiver.Archive
	Engine  projector.Engine // of real directories
	// Projectors are the views that are wanted; nil: both.
	Projectors []projector.Projector
	// Scratch is a directory for files under way, on the volume that the views
	// go to. What an interrupted recovery left there is gone on from.
	Scratch  string
	Progress *progress.Progress // may be nil
}

var _ recovery.Checkpoints = (*Shelf)(nil)

// List implements recovery.Checkpoints. A checkpoint whose manifest cannot be
// used is listed all the same: Restore says why.
func (s *Shelf) List(ctx context.Context) ([]recovery.Checkpoint, error) {
	found, err := readAll(ctx, s.Archive)
	if err != nil {
		return nil, err
	}
	var all []recovery.Checkpoint
	for _, f := range found {
		c := recovery.Checkpoint{Name: nameOf(f.seq), Seq: f.seq}
		if f.manifest != nil {
			c.Bytes, c.Files = f.manifest.bytes(), f.manifest.files()
			if f.manifest.Ordinal != nil {
				c.Ordinal = *f.manifest.Ordinal
				s.Archive.Expect(c.Ordinal)
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// Restore implements recovery.Checkpoints. Interrupted, the next Restore of the
// same checkpoint goes on with the files that are whole.
func (s *Shelf) Restore(ctx context.Context, c recovery.Checkpoint, dir string) error {
	err := s.restore(ctx, c, dir)
	if errors.Is(err, recovery.ErrUnfit) { // nobody goes on with it
		err = errors.Join(err, durable.RemoveAll(s.Scratch))
	}
	return err
}

func (s *Shelf) restore(ctx context.Context, c recovery.Checkpoint, dir string) error {
	m, err := read(ctx, s.Archive, c.Seq)
	switch {
	case errors.Is(err, errManifest), errors.Is(err, errLater), errors.Is(err, archiver.ErrNotFound):
		return fmt.Errorf("%w: %w", recovery.ErrUnfit, err)
	case err != nil:
		return err
	}
	views, err := s.wanted(m)
	if err != nil {
		return err
	}
	scratch, err := s.begin(c.Name)
	if err != nil {
		return err
	}
	d := &download{Shelf: s, dir: scratch, views: views}
	if err := d.run(ctx); err != nil {
		return err
	}
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for i := range views {
		from := filepath.Join(scratch, views[i].Name)
		if err := s.examine(&views[i], from); err != nil {
			return err
		}
		// A crash between two of these lines leaves a view in its place that
		// nothing counts on yet; the next try removes it.
		if err := s.Engine.Move(from, filepath.Join(dir, views[i].Name)); err != nil {
			return err
		}
	}
	return durable.RemoveAll(s.Scratch)
}

// wanted returns the views of m that are asked for; another version of one
// than this build's is of no use.
func (s *Shelf) wanted(m *Manifest) ([]View, error) {
	var views []View
	for _, p := range s.projectors() {
		i := slices.IndexFunc(m.Views, func(v View) bool { return v.Name == p.Name() })
		if i < 0 {
			return nil, fmt.Errorf("%w: it has no %s view", recovery.ErrUnfit, p.Name())
		}
		if m.Views[i].Version != p.Version() {
			return nil, fmt.Errorf("%w: its %s view is of version %d, this build's of version %d", recovery.ErrUnfit, p.Name(), m.Views[i].Version, p.Version())
		}
		views = append(views, m.Views[i])
	}
	return views, nil
}

func (s *Shelf) projectors() []projector.Projector {
	if s.Projectors == nil {
		return []projector.Projector{projector.Machines(), projector.Blocks()}
	}
	return s.Projectors
}

// begin makes the scratch directory of a checkpoint, and removes those of
// others.
func (s *Shelf) begin(name string) (string, error) {
	scratch := filepath.Join(s.Scratch, name)
	if err := durable.Mkdir(scratch, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(s.Scratch)
	if err != nil {
		return "", fmt.Errorf("look for an interrupted restore: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == name {
			continue
		}
		if err := durable.RemoveAll(filepath.Join(s.Scratch, entry.Name())); err != nil {
			return "", err
		}
	}
	return scratch, nil
}

// examine opens a restored view, to see whether it is what its manifest says.
// That its rows are, too, is for the end of the recovery to find out.
func (s *Shelf) examine(v *View, dir string) (err error) {
	p := s.projectors()[slices.IndexFunc(s.projectors(), func(p projector.Projector) bool { return p.Name() == v.Name })]
	view, err := projector.Open(s.Engine, dir, p, projector.ReadOnly, quiet)
	if err != nil {
		return fmt.Errorf("%w: %w", recovery.ErrUnfit, err)
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	position, digest := view.Digest()
	if position != v.Position || digest != v.Digest {
		return fmt.Errorf("%w: its %s view stands at %s with digest %s, the manifest says %s and %s", recovery.ErrUnfit, v.Name, position, digest, v.Position, v.Digest)
	}
	return nil
}
