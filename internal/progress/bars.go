// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const barWidth = 40 // cells

// bars are those of one terminal, a line for each phase.
type bars struct{ container *mpb.Progress }

// newBars draws on out; mpb itself writes nothing to what is no terminal
// unless it is forced to.
func newBars(out io.Writer, forced bool) *bars {
	options := []mpb.ContainerOption{mpb.WithOutput(out), mpb.WithWidth(barWidth)}
	if forced {
		options = append(options, mpb.WithAutoRefresh())
	}
	return &bars{mpb.New(options...)}
}

// say prints a line above the bars. That it cannot be shown harms nobody.
func (b *bars) say(line string) { _, _ = fmt.Fprintln(b.container, line) }

type bar struct{ bar *mpb.Bar }

// add shows a phase. The figures beside the bar are those of Snapshot.
func (b *bars) add(p *Progress, ph *phase) *bar {
	figures := decor.Any(func(decor.Statistics) string { return p.snapshot(ph).counts() })
	// A bar that is made with a total completes by itself and only then; one
	// made without completes when it is told to.
	drawn := b.container.AddBar(0,
		mpb.PrependDecorators(decor.Name(ph.name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(figures),
	)
	drawn.SetTotal(ph.total.Load(), false)
	return &bar{drawn}
}

// move shows what is done now.
func (b *bar) move(ph *phase) {
	b.bar.SetTotal(ph.total.Load(), false)
	b.bar.SetCurrent(ph.done.Load())
}

// complete fills the bar, whatever its total was, and lets go of it.
func (b *bar) complete(ph *phase) {
	b.move(ph)
	b.bar.SetTotal(-1, true)
}

// abort leaves the bar as it stands.
func (b *bar) abort(ph *phase) {
	b.move(ph)
	b.bar.Abort(false)
}

// wait returns when everything is drawn.
func (b *bars) wait() { b.container.Wait() }
