// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

var _ archiver.Views = (*views)(nil)

// views stands for the projections of a state directory. It remembers all that
// it applied, in a file of that directory, so that it goes with every copy.
type views struct {
	file     string
	applied  []eventlog.Entry
	discards int
	step     func(what string) // called when a catch-up begins and ends
	build    func() error      // what Build does; nil: nothing
}

func openViews(state string, step func(string)) *views {
	v := &views{file: filepath.Join(state, "views", "applied"), step: step}
	data, err := os.ReadFile(v.file)
	if errors.Is(err, fs.ErrNotExist) {
		return v
	}
	if err != nil {
		panic(err)
	}
	for len(data) > 0 {
		size := binary.LittleEndian.Uint32(data)
		e := eventlog.Entry{Raw: data[4 : 4+size]}
		if err := eventlog.DecodeEvent(e.Raw, &e.Event); err != nil {
			panic(err)
		}
		v.applied, data = append(v.applied, e), data[4+size:]
	}
	return v
}

// position is the last event applied.
func (v *views) position() eventlog.Seq {
	if len(v.applied) == 0 {
		return 0
	}
	return v.applied[len(v.applied)-1].Event.Seq
}

// Applied implements archiver.Views.
func (v *views) Applied() eventlog.Seq { return v.position() }

// Build implements archiver.Views.
func (v *views) Build(context.Context) error {
	if v.build != nil {
		return v.build()
	}
	return nil
}

// CatchUp implements archiver.Views.
func (v *views) CatchUp(ctx context.Context, log eventlog.History, stale eventlog.Range) error {
	v.step("the views begin to catch up")
	good, err := v.fits(ctx, log, stale)
	if err != nil {
		return err
	}
	if !good {
		v.applied, v.discards = nil, v.discards+1
	}
	from := eventlog.FirstSeq
	if position := v.position(); position != 0 {
		from = position.Next()
	}
	for batch, err := range log.Follow(ctx, from) {
		if err != nil {
			return fmt.Errorf("views at %s: %w", v.position(), err)
		}
		for _, e := range batch.Entries {
			if !e.Event.Seq.Follows(v.position()) {
				return fmt.Errorf("views at %s: the next event is %s", v.position(), e.Event.Seq)
			}
			v.applied = append(v.applied, e)
		}
	}
	if err := v.save(); err != nil {
		return err
	}
	v.step("the views have caught up")
	return nil
}

// fits reports whether the last event applied is the log's.
func (v *views) fits(ctx context.Context, log eventlog.History, stale eventlog.Range) (bool, error) {
	position := v.position()
	if position == 0 {
		return true, nil
	}
	if stale.Contains(position) {
		return false, nil
	}
	for batch, err := range log.Follow(ctx, position) {
		if err != nil {
			return false, err
		}
		return batch.Entries[0].Event.Seq == position, nil
	}
	return false, nil
}

func (v *views) save() error {
	var data []byte
	for _, e := range v.applied {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(e.Raw)))
		data = append(data, e.Raw...)
	}
	if err := os.MkdirAll(filepath.Dir(v.file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(v.file, data, 0o600)
}

// Interrupted implements archiver.Views.
func (v *views) Interrupted(context.Context) ([]eventlog.Seq, error) {
	var machines []eventlog.Seq
	for _, e := range v.applied {
		held := time.Duration(v.applied[len(v.applied)-1].Event.Time - e.Event.Time)
		if e.Event.Kind == eventlog.KindLock && held < 30*time.Minute && !slices.Contains(machines, e.Event.Machine) {
			machines = append(machines, e.Event.Machine)
		}
	}
	return machines, nil
}

// toEnd reads a running log up to its end.
type toEnd struct{ log *eventlog.Log }

func (r toEnd) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return r.log.ReadTo(ctx, from)
}
