// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"fmt"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Places tells which object of an archive an event lies in.
type Places struct {
	archive *archiver.Archive
	objects []archiver.ObjectInfo // nil: not listed yet
}

// PlacesOf returns the places of an archive's events.
func PlacesOf(archive *archiver.Archive) *Places { return &Places{archive: archive} }

// Of says in which object the event of v lies, where v does not say so by its
// payload.
func (p *Places) Of(ctx context.Context, v *projector.Violation) string {
	if v.Ordinal != 0 {
		return ""
	}
	key, err := p.key(ctx, v.Seq)
	if err != nil { // what is wrong is told all the same
		return fmt.Sprintf("; in which object the event lies could not be found out: %v", err)
	}
	return "; the event lies in " + key
}

func (p *Places) key(ctx context.Context, seq eventlog.Seq) (string, error) {
	if p.objects == nil {
		var err error
		if p.objects, err = p.archive.Objects(ctx, 1); err != nil {
			return "", err
		}
	}
	at, err := p.archive.Find(ctx, p.objects, seq)
	if err == nil && at == len(p.objects) {
		err = fmt.Errorf("no object has event %s", seq)
	}
	if err != nil {
		return "", err
	}
	return p.objects[at].Key(), nil
}
