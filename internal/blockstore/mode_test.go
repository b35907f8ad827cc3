// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func TestWhatEachModeAllows(t *testing.T) {
	const ok, unavailable, readOnly = "ok", "503", "403"
	cases := []struct {
		mode               Mode
		read, write, locks string
	}{
		{Starting, unavailable, unavailable, unavailable},
		{Reading, ok, unavailable, unavailable},
		{Serving, ok, ok, ok},
		{Holding, ok, unavailable, ok},
		{ReadOnly, ok, readOnly, ok},
		{Fenced, unavailable, unavailable, unavailable},
	}
	for _, c := range cases {
		t.Run(c.mode.String(), func(t *testing.T) {
			w := newWorld(t, Options{})
			must(t, w.put(eventlog.KindData, []byte("data")))
			before := w.committed()
			w.SetMode(c.mode, "because of this test")
			check := func(what, want string, err error) {
				t.Helper()
				switch want {
				case ok:
					must(t, err)
				case readOnly:
					wants(t, err, ErrReadOnly)
				default:
					if u := wantsUnavailable(t, err); u.Reason != "because of this test" {
						t.Errorf("%s: it says %q", what, u.Reason)
					}
				}
			}
			_, err := w.Stat(t.Context(), laptop, ref(eventlog.KindData, []byte("data")))
			check("stat", c.read, err)
			_, err = w.get(ref(eventlog.KindData, []byte("data")))
			check("open", c.read, err)
			_, err = w.names(eventlog.KindData)
			check("list", c.read, err)
			check("lock", c.locks, w.put(eventlog.KindLock, []byte("lock")))
			check("unlock", c.locks, w.remove(eventlog.KindLock, []byte("lock")))
			if after := w.committed(); c.mode != Serving && after != before {
				t.Errorf("an event was written: %s", after)
			}
			check("store", c.write, w.put(eventlog.KindRoot, []byte("root")))
			check("delete", c.write, w.remove(eventlog.KindData, []byte("data")))
			check("register", c.write, w.Register(t.Context(), "test", Path{"bob", "x"}))
			check("re-own", c.write, errors.Join(w.Register(t.Context(), "test", Path{"bob", "x"}), w.Reown(t.Context(), "test", laptop, "bob")))
			if mode, reason := w.Mode(); mode != c.mode || reason != "because of this test" {
				t.Errorf("mode %s, %q", mode, reason)
			}
		})
	}
}

func TestLocksOfAHoldAreSeenAndNotWritten(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.put(eventlog.KindLock, []byte("written")))
	before := w.committed()
	w.SetMode(Holding, "held")
	must(t, w.put(eventlog.KindLock, []byte("in memory")))
	must(t, w.put(eventlog.KindLock, []byte("in memory")))
	expect := func(want ...string) {
		t.Helper()
		names, err := w.names(eventlog.KindLock)
		must(t, err)
		if len(names) != len(want) {
			t.Fatalf("%d locks listed, want %d", len(names), len(want))
		}
		for _, content := range want {
			r := ref(eventlog.KindLock, []byte(content))
			if names[r.Name] != uint64(len(content)) {
				t.Errorf("%q is listed with %d bytes", content, names[r.Name])
			}
			length, err := w.Stat(t.Context(), laptop, r)
			must(t, err)
			got, err := w.get(r)
			must(t, err)
			if length != uint64(len(content)) || string(got) != content {
				t.Errorf("%q has %d bytes, %q", content, length, got)
			}
		}
	}
	expect("written", "in memory")
	must(t, w.remove(eventlog.KindLock, []byte("written")))
	expect("in memory")
	_, err := w.Stat(t.Context(), laptop, ref(eventlog.KindLock, []byte("written")))
	wants(t, err, ErrNotFound)
	must(t, w.remove(eventlog.KindLock, []byte("in memory")))
	must(t, w.remove(eventlog.KindLock, []byte("in memory")))
	expect()
	must(t, w.put(eventlog.KindLock, []byte("written")))
	expect("written")
	if w.committed() != before {
		t.Fatal("an event was written")
	}
}

func TestRangesOfALockInMemory(t *testing.T) {
	w := newWorld(t, Options{})
	w.SetMode(Holding, "held")
	must(t, w.put(eventlog.KindLock, []byte("0123456789")))
	r := ref(eventlog.KindLock, []byte("0123456789"))
	got, err := w.read(laptop, r, 3, 4)
	must(t, err)
	if string(got) != "3456" {
		t.Fatalf("%q", got)
	}
	_, err = w.Open(t.Context(), laptop, r, bytesFrom(10, -1))
	wants(t, err, ErrBadRange)
}

func TestBadLocksOfAHoldAreRefused(t *testing.T) {
	w := newWorld(t, Options{})
	w.SetMode(Holding, "held")
	put := func(name, body string, size int64) error {
		return w.Put(t.Context(), "test", laptop, ref(eventlog.KindLock, []byte(name)), strings.NewReader(body), size)
	}
	wants(t, put("a", "b", 1), ErrMismatch)
	wants(t, put("aa", "a", 2), ErrShortBody)
	wants(t, put("a", "a", maxMemoryLock+1), ErrTooLarge)
	wants(t, put("a", strings.Repeat("a", maxMemoryLock+1), -1), ErrTooLarge)
	must(t, put("a", "a", 1))
	wants(t, put("a", "b", 1), ErrExists)
	wants(t, w.Put(t.Context(), "test", Path{"bob", "x"}, ref(eventlog.KindLock, nil), bytes.NewReader(nil), 0), ErrNoMachine)
}

func TestMemoryHoldsOnlySoManyLocks(t *testing.T) {
	l := newMemoryLocks()
	name := func(i int) [32]byte { return [32]byte{byte(i), byte(i >> 8), 1} }
	for i := range maxMemoryLocks {
		must(t, l.put(1, name(i), []byte{1}))
	}
	must(t, l.put(1, name(0), []byte{1}))
	wantsUnavailable(t, l.put(1, name(maxMemoryLocks), []byte{1}))
	must(t, l.remove(1, name(0), false))
	must(t, l.put(1, name(maxMemoryLocks), []byte{1}))
	for i := range maxMemoryLocks {
		must(t, l.remove(2, name(i), true))
	}
	wantsUnavailable(t, l.remove(2, name(maxMemoryLocks), true))
}

func TestModesHaveNames(t *testing.T) {
	for mode := Starting; mode <= Fenced; mode++ {
		if strings.Contains(mode.String(), "_") {
			t.Errorf("mode %d is %s", mode, mode)
		}
	}
	if got := Mode(99).String(); got != "mode_99" {
		t.Error(got)
	}
}

func TestErrorsSayWhatWasDone(t *testing.T) {
	w := newWorld(t, Options{})
	for what, err := range map[string]error{
		"storing data/":  w.Put(t.Context(), "test", Path{"bob", "x"}, ref(eventlog.KindData, nil), bytes.NewReader(nil), 0),
		"deleting data/": w.Delete(t.Context(), "test", Path{"bob", "x"}, ref(eventlog.KindData, nil)),
	} {
		if !strings.HasPrefix(fmt.Sprint(err), what) || !strings.Contains(fmt.Sprint(err), "bob/x") {
			t.Errorf("%v", err)
		}
	}
}
