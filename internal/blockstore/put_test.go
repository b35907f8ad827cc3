// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/strandline-project/strandline/eventlog"
)

func TestABlockThatWasPutIsReadBack(t *testing.T) {
	w := newWorld(t, Options{})
	for _, kind := range []eventlog.Kind{eventlog.KindData, eventlog.KindIndex, eventlog.KindRoot, eventlog.KindKey, eventlog.KindLock, eventlog.KindConfig} {
		for _, size := range []int{0, 1, 1000, eventlog.ChunkSize, eventlog.ChunkSize + 1, 700_000} {
			if kind == eventlog.KindConfig && size != 1000 {
				continue
			}
			t.Run(fmt.Sprintf("%s of %d bytes", kind, size), func(t *testing.T) {
				content := bytesOf(int(kind), size)
				r := ref(kind, content)
				must(t, w.put(kind, content))
				length, err := w.Stat(t.Context(), laptop, r)
				must(t, err)
				if length != uint64(size) {
					t.Fatalf("%d bytes long", length)
				}
				got, err := w.get(r)
				must(t, err)
				if !bytes.Equal(got, content) {
					t.Fatal("other bytes came back")
				}
				names, err := w.names(kind)
				must(t, err)
				if n, ok := names[r.Name]; !ok || n != uint64(size) {
					t.Fatalf("the list says %d, %v", n, ok)
				}
			})
		}
	}
}

func TestAPutOfUnknownLengthIsStored(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 300_000)
	must(t, w.Put(t.Context(), "test", laptop, ref(eventlog.KindData, content), iotest.HalfReader(bytes.NewReader(content)), -1))
	got, err := w.get(ref(eventlog.KindData, content))
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes came back")
	}
}

func TestBadBodiesLeaveNothingBehind(t *testing.T) {
	good, other := bytesOf(1, 5000), bytesOf(2, 5000)
	r := ref(eventlog.KindData, good)
	broken := errors.New("connection reset")
	cases := map[string]struct {
		body io.Reader
		size int64
		want error
	}{
		"another content than the name says":  {bytes.NewReader(other), 5000, ErrMismatch},
		"shorter than declared":               {bytes.NewReader(good[:4999]), 5000, ErrShortBody},
		"empty where more was declared":       {bytes.NewReader(nil), 5000, ErrShortBody},
		"cut in chunked transfer":             {io.MultiReader(bytes.NewReader(good[:100]), iotest.ErrReader(io.ErrUnexpectedEOF)), -1, ErrShortBody},
		"the connection broke":                {io.MultiReader(bytes.NewReader(good[:100]), iotest.ErrReader(broken)), 5000, ErrShortBody},
		"larger than the limit, declared":     {bytes.NewReader(bytesOf(3, 10_001)), 10_001, ErrTooLarge},
		"larger than the limit, not declared": {bytes.NewReader(bytesOf(3, 10_001)), -1, ErrTooLarge},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{MaxBody: 10_000})
			before, _ := w.events.Committed()
			wants(t, w.Put(t.Context(), "test", laptop, r, c.body, c.size), c.want)
			if after, _ := w.events.Committed(); after != before {
				t.Errorf("an event was written: %s", after)
			}
			_, err := w.Stat(t.Context(), laptop, r)
			wants(t, err, ErrNotFound)
			must(t, w.put(eventlog.KindData, good))
		})
	}
}

func TestAnotherContentUnderANameThatExistsIsRefusedAsExisting(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 100)
	must(t, w.put(eventlog.KindData, content))
	err := w.Put(t.Context(), "test", laptop, ref(eventlog.KindData, content), bytes.NewReader(bytesOf(2, 100)), 100)
	wants(t, err, ErrExists)
	got, err := w.get(ref(eventlog.KindData, content))
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("the block changed")
	}
}

func TestAConfigIsNotOverwritten(t *testing.T) {
	w := newWorld(t, Options{})
	first, second := bytesOf(1, 155), bytesOf(2, 155)
	must(t, w.put(eventlog.KindConfig, first))
	must(t, w.put(eventlog.KindConfig, first)) // a retry after a lost answer
	wants(t, w.put(eventlog.KindConfig, second), ErrExists)
	must(t, w.remove(eventlog.KindConfig, nil))
	must(t, w.put(eventlog.KindConfig, second))
	got, err := w.get(Ref{Kind: eventlog.KindConfig})
	must(t, err)
	if !bytes.Equal(got, second) {
		t.Fatal("not the second config")
	}
	if n := w.count(eventlog.BlockStored); n != 2 {
		t.Fatalf("%d stores", n)
	}
}

func TestABlockStoredAgainIsOneEvent(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 1000)
	for range 3 {
		must(t, w.put(eventlog.KindData, content))
	}
	if n := w.count(eventlog.BlockStored); n != 1 {
		t.Fatalf("%d stores", n)
	}
}

func TestABlockStoredAfterItsDeletionReusesItsPayload(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 200_000)
	r := ref(eventlog.KindData, content)
	for range 3 {
		must(t, w.put(eventlog.KindData, content))
		must(t, w.remove(eventlog.KindData, content))
		_, err := w.Stat(t.Context(), laptop, r)
		wants(t, err, ErrNotFound)
		names, err := w.names(eventlog.KindData)
		must(t, err)
		if len(names) != 0 {
			t.Fatal("a deleted block is listed")
		}
	}
	must(t, w.put(eventlog.KindData, content))
	got, err := w.get(r)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes came back")
	}
	var first eventlog.Seq
	for _, ev := range w.history() {
		if ev.Type != eventlog.BlockStored {
			continue
		}
		if first == 0 {
			first = ev.Seq
		} else if ev.Reuses != first {
			t.Errorf("event %s reuses %s, want %s", ev.Seq, ev.Reuses, first)
		}
	}
}

func TestAPayloadFoundDamagedIsNotReused(t *testing.T) {
	w := newWorld(t, Options{Ack: AckArchived})
	content := bytesOf(1, 100_000)
	r := ref(eventlog.KindData, content)
	must(t, w.put(eventlog.KindData, content))
	w.damageAll(r, 5)
	_, err := w.get(r)
	wants(t, err, ErrDamaged)
	must(t, w.remove(eventlog.KindData, content))
	must(t, w.put(eventlog.KindData, content))
	got, err := w.get(r)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes came back")
	}
}

func TestABlockFoundDamagedIsHealedByTheNextUpload(t *testing.T) {
	w := newWorld(t, Options{Ack: AckArchived})
	content := bytesOf(1, 100_000)
	r := ref(eventlog.KindData, content)
	must(t, w.put(eventlog.KindData, content))
	w.damageAll(r, 5)
	_, err := w.get(r)
	wants(t, err, ErrDamaged)
	before := len(w.history())
	must(t, w.put(eventlog.KindData, content))
	got, err := w.get(r)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes came back")
	}
	var types []eventlog.Type
	for _, ev := range w.history()[before:] {
		types = append(types, ev.Type)
	}
	if want := []eventlog.Type{eventlog.BlockDeleted, eventlog.BlockStored}; !slices.Equal(types, want) {
		t.Errorf("the upload made %v, want %v", types, want)
	}
	must(t, w.put(eventlog.KindData, content))
	if n := len(w.history()); n != before+2 {
		t.Errorf("a further upload of the healed block made %d events", n-before-2)
	}
}

func TestEveryEventOfABlockTellsWhatRecoveryNeeds(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 1000)
	must(t, w.put(eventlog.KindData, content))
	must(t, w.remove(eventlog.KindData, content))
	m, err := w.find(laptop)
	must(t, err)
	var stored eventlog.Event
	for _, ev := range w.history() {
		if ev.Type != eventlog.BlockStored && ev.Type != eventlog.BlockDeleted {
			continue
		}
		if ev.Machine != m.id || ev.Account != m.account || ev.Actor != "user:alice" || ev.Kind != eventlog.KindData ||
			!bytes.Equal(ev.Block, ref(ev.Kind, content).Bytes()) || ev.Length != 1000 || ev.Checksum != eventlog.Checksum(content) {
			t.Errorf("event %+v", ev)
		}
		if ev.Type == eventlog.BlockStored {
			stored = ev
		} else if ev.Undoes != stored.Seq {
			t.Errorf("it undoes %s, not %s", ev.Undoes, stored.Seq)
		}
	}
}

func TestDeletingWhatIsNotThereIsNoError(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 10)
	must(t, w.remove(eventlog.KindData, content))
	must(t, w.put(eventlog.KindData, content))
	must(t, w.remove(eventlog.KindData, content))
	must(t, w.remove(eventlog.KindData, content))
	if n := w.count(eventlog.BlockDeleted); n != 1 {
		t.Fatalf("%d deletes", n)
	}
}

func TestAppendOnlyLetsLocksGoAndNothingElse(t *testing.T) {
	w := newWorld(t, Options{AppendOnly: true})
	for _, kind := range []eventlog.Kind{eventlog.KindData, eventlog.KindIndex, eventlog.KindRoot, eventlog.KindKey, eventlog.KindConfig} {
		must(t, w.put(kind, bytesOf(1, 10)))
		wants(t, w.remove(kind, bytesOf(1, 10)), ErrAppendOnly)
	}
	must(t, w.put(eventlog.KindLock, bytesOf(1, 10)))
	must(t, w.remove(eventlog.KindLock, bytesOf(1, 10)))
	wants(t, w.put(eventlog.KindConfig, bytesOf(2, 10)), ErrExists)
}

func TestUnknownMachinesAndBadNames(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 10)
	for path, want := range map[Path]error{
		{"bob", "laptop"}:    ErrNoMachine,
		{"alice", "desktop"}: ErrNoMachine,
		{"alice", ""}:        ErrNoMachine,
		{"", "laptop"}:       ErrBadName,
		{"..", "laptop"}:     ErrBadName,
		{"alice", "a/b"}:     ErrBadName,
		{"data", "laptop"}:   ErrBadName,
	} {
		t.Run(path.String(), func(t *testing.T) {
			r := ref(eventlog.KindData, content)
			wants(t, w.Put(t.Context(), "test", path, r, bytes.NewReader(content), 10), want)
			wants(t, w.Delete(t.Context(), "test", path, r), want)
			_, err := w.Stat(t.Context(), path, r)
			wants(t, err, want)
			_, err = w.Open(t.Context(), path, r, bytesFrom(0, -1))
			wants(t, err, want)
			_, err = w.List(t.Context(), path, eventlog.KindData)
			wants(t, err, want)
		})
	}
}

// TestAnUploadThatDiesLateHurtsNobody is rest-server's TestAbortedRequest: a
// slow upload of a name, then a delete, then a quick upload of it, then the
// slow one fails.
func TestAnUploadThatDiesLateHurtsNobody(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 1000)
	r := ref(eventlog.KindData, content)
	reader, writer := io.Pipe()
	slow := later(func() error { return w.Put(context.Background(), "test", laptop, r, reader, 1000) })
	_, err := writer.Write(content[:500])
	must(t, err)
	must(t, w.remove(eventlog.KindData, content))
	must(t, w.put(eventlog.KindData, content))
	must(t, writer.CloseWithError(io.ErrUnexpectedEOF))
	wants(t, <-slow, ErrShortBody)
	got, err := w.get(r)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("the block suffered")
	}
}

func TestParallelPutsOfOneBlockMakeOneEvent(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 1000)
	var results []<-chan error
	for range 20 {
		results = append(results, later(func() error { return w.put(eventlog.KindData, content) }))
	}
	for _, result := range results {
		must(t, <-result)
	}
	if n := w.count(eventlog.BlockStored); n != 1 {
		t.Fatalf("%d stores", n)
	}
}
