// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// emptyViews is the machine view of a log without events.
type emptyViews struct{}

func (emptyViews) Accounts(context.Context) iter.Seq2[projector.Account, error] {
	return func(func(projector.Account, error) bool) {}
}

func (emptyViews) Machines(context.Context) iter.Seq2[projector.Machine, error] {
	return func(func(projector.Machine, error) bool) {}
}

func (emptyViews) BarredMachines(context.Context) (map[eventlog.Seq]eventlog.Seq, error) {
	return nil, nil
}
