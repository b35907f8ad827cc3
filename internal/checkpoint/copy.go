// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// copyViews makes copies of all views in Dir, at one event, and says what they
// consist of. The views move on meanwhile: each copy is of another moment, so
// those that stand behind are brought up to the one in front, as copies. No
// table file is written anew by that.
func (t *Taker) copyViews(ctx context.Context) (*Manifest, error) {
	if err := t.clear(); err != nil {
		return nil, err
	}
	if err := durable.Mkdir(t.Dir, 0o700); err != nil {
		return nil, err
	}
	var copies []*projector.View
	for _, view := range t.Views {
		c, err := t.copyView(view)
		if err != nil {
			return nil, errors.Join(err, closeAll(copies))
		}
		copies = append(copies, c)
	}
	err := t.align(ctx, copies)
	m := &Manifest{Version: Version, LogID: t.Archive.LogID(), Epoch: t.Epoch, Writer: t.Writer, Time: t.Clock.Now().UTC()}
	for _, c := range copies {
		position, digest := c.Digest()
		m.Seq = max(m.Seq, position)
		m.Views = append(m.Views, View{Name: c.Name(), Version: c.Version(), Position: position, Digest: digest})
	}
	if err := errors.Join(err, closeAll(copies)); err != nil {
		return nil, err
	}
	slices.SortFunc(m.Views, func(a, b View) int { return cmp.Compare(a.Name, b.Name) })
	return m, nil
}

// clear removes the copies. They are links to the views' files: as long as
// they are there, files that the views need no more take disk.
func (t *Taker) clear() error { return durable.RemoveAll(t.Dir) }

func closeAll(copies []*projector.View) (err error) {
	for _, c := range copies {
		err = errors.Join(err, c.Close())
	}
	return err
}

func (t *Taker) copyView(view *projector.View) (*projector.View, error) {
	dir := filepath.Join(t.Dir, view.Name())
	before := view.Position()
	if err := view.Checkpoint(dir); err != nil {
		return nil, err
	}
	c, err := projector.Open(t.Engine, dir, view.Projector(), projector.Amend, t.Logger)
	if err != nil {
		return nil, err
	}
	if position := c.Position(); position < before || position == 0 {
		return nil, errors.Join(fmt.Errorf("a copy of the %s view stands at %s, the view stood at %s before", view.Name(), position, before), c.Close())
	}
	return c, nil
}

// align brings all copies up to the event that the foremost stands at.
func (t *Taker) align(ctx context.Context, copies []*projector.View) error {
	var front eventlog.Seq
	for _, c := range copies {
		front = max(front, c.Position())
	}
	var behind []*projector.Runner
	for _, c := range copies {
		if c.Position() < front {
			behind = append(behind, projector.NewRunner(c, t.Logger))
		}
	}
	if len(behind) == 0 {
		return nil
	}
	if err := projector.CatchUp(ctx, recovery.UpTo(upToNow{t.Log}, front), behind...); err != nil {
		return fmt.Errorf("bring the copies of the views up to event %s: %w", front, err)
	}
	return nil
}

// upToNow is a log as a history that ends.
type upToNow struct{ log Log }

func (l upToNow) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return l.log.ReadTo(ctx, from)
}
