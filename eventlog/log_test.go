// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

func TestALogKeepsEventsAndPayloadsThroughRotationCloseAndReopen(t *testing.T) {
	s := newState(t)
	l := s.open(func(o *Options) { o.MaxPayload = 300 << 10 })
	var contents [][]byte
	for life := range 3 {
		var pending []*Pending
		for i := range 20 {
			c := content(uint64(life*100+i), i*7000)
			contents = append(contents, c)
			pending = append(pending, store(t, l, c))
			if i%5 == 0 {
				committed(t, pending[len(pending)-1])
			}
		}
		for _, p := range pending {
			committed(t, p)
		}
		checkContents(t, l, contents)
		must(t, l.Close(life == 1))
		checkContents(t, l, contents)
		l = s.open(nil)
		checkContents(t, l, contents)
	}
	must(t, l.Close(true))
}

func checkContents(t *testing.T, l *Log, contents [][]byte) {
	t.Helper()
	entries := collect(t, l, FirstSeq)
	expectContiguous(t, entries, FirstSeq)
	if len(entries) != len(contents) {
		t.Fatalf("%d events, want %d", len(entries), len(contents))
	}
	for i, e := range entries {
		if got := readBlock(t, l, e); !bytes.Equal(got, contents[i]) {
			t.Fatalf("the payload of %s is not what was stored", e.Event.Seq)
		}
	}
}

func TestAGenerationIsReadAgainAfterAProcessThatNeverClosedIt(t *testing.T) {
	s := newState(t)
	l := s.open(nil)
	c := content(1, 100_000)
	committed(t, store(t, l, c))
	committed(t, l.Append(noteEvent(1), nil))
	// What a killed process leaves: the files as they are now.
	copied := s.copyState(t)
	must(t, l.Close(true))

	again := copied.open(nil)
	entries := collect(t, again, FirstSeq)
	if len(entries) != 2 || !bytes.Equal(readBlock(t, again, entries[0]), c) {
		t.Fatalf("%d events came back, want 2", len(entries))
	}
	if seq := committed(t, again.Append(noteEvent(2), nil)); seq != MakeSeq(2, 1) {
		t.Errorf("the next event is %s, want 2.1", seq)
	}
	must(t, again.Close(true))
}

func TestAnAnswerThatWaitsForTheArchiveCutsTheGeneration(t *testing.T) {
	s := newState(t)
	l := s.open(nil)
	seq := committed(t, l.Append(noteEvent(1), nil))
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	shipped := make(chan struct{})
	go func() {
		defer close(shipped)
		if g, err := l.NextClosed(ctx, 0); err == nil {
			l.MarkArchived(g, time.Millisecond)
		}
	}()
	must(t, l.WaitArchived(ctx, seq))
	<-shipped
	must(t, l.Close(false))
}
